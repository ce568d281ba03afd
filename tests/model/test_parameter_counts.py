"""The planner's arithmetic against the torch model, built on the meta device."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from openarctic.formats import HybridConfig
from openarctic.planner import PRESETS, parameters
from tests.tiny import LAYOUTS


@pytest.mark.parametrize(
    "config", [*map(HybridConfig.from_dict, LAYOUTS.values()), PRESETS["arctic-480b"]], ids=[*LAYOUTS, "arctic-480b"]
)
def test_the_torch_model_has_the_planned_parameters(config: HybridConfig) -> None:
    from openarctic.model import ArcticConfig, parameter_counts

    counts = parameter_counts(ArcticConfig.from_shape(config))
    planned = parameters(config)
    assert (counts["total"], counts["active"]) == (planned.total, planned.active)
