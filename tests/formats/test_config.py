"""A config says everything and nothing that contradicts itself; whatever is wrong is told, never a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from openarctic.errors import MissingError, UserError
from openarctic.formats import HybridConfig
from tests.tiny import LAYOUTS, tiny_config

REQUIRED = set(tiny_config())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_survives_the_way_through_json(layout: str) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    assert HybridConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("key", sorted(REQUIRED))
def test_no_key_has_a_default(key: str) -> None:
    with pytest.raises(MissingError, match=key):
        HybridConfig.from_dict({k: v for k, v in tiny_config().items() if k != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("num_hidden_layers", 0),
        ("num_local_experts", True),
        ("num_local_experts", -1),
        ("num_local_experts", 10**12),
        ("num_hidden_layers", 10**9),
        ("num_experts_per_tok", 2.5),
        ("num_experts_per_tok", "2"),
        ("num_experts_per_tok", 9),
        ("parallel_attn_mlp_res", "false"),
        ("parallel_attn_mlp_res", []),
        ("use_residual", {}),
        ("use_residual", False),
        ("tie_word_embeddings", "false"),
        ("rope_theta", float("nan")),
        ("rope_scaling", 2.0),
        ("rope_scaling", {"type": "linear", "factor": 2}),
        ("rope_parameters", "default"),
        ("sliding_window", 1024),
        ("hidden_act", "gelu"),
        ("model_type", "mixtral"),
    ],
)
def test_a_wrong_value_is_told_by_name(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        HybridConfig.from_dict(tiny_config(**{key: value}))
