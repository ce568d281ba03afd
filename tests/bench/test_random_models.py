"""Random models have the sizes that they are named for, run, and are written once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openarctic.bench import random_models
from openarctic.bench.random_models import SHAPES, random_model
from openarctic.engine import Engine
from openarctic.errors import UserError
from openarctic.formats import HybridConfig, config_from_gguf, read_gguf
from openarctic.planner import gguf_bytes, parameters
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_models, "SHAPES", {"T": tiny_config(vocab_size=320, num_hidden_layers=2)})
    monkeypatch.setattr(random_models, "POOL_VALUES", 1 << 14)
    monkeypatch.setattr(random_models, "PIECE_BYTES", 1 << 12)


@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0", "F16"])
def test_a_random_model_runs_and_keeps_its_scale(type_: str, tmp_path: Path) -> None:
    path = random_model(tmp_path, "T", type_)
    assert [p.name for p in tmp_path.iterdir()] == [f"T-{type_}.gguf"]
    file = read_gguf(path, verify=True)
    assert config_from_gguf(file).vocab_size == 320
    logits = Engine.load(path, threads=1).logits([1, 2, 3, 4])
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 100
    for tensor in file.tensors.values():
        values = tensor.dequantize()
        assert np.isfinite(values).all() and values.std() > 0


def test_it_is_written_once(tmp_path: Path) -> None:
    path = random_model(tmp_path, "T", "Q8_0")
    stamp = path.stat().st_mtime_ns
    assert random_model(tmp_path, "T", "Q8_0").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(("shape", "type_"), [("X", "Q8_0"), ("T", "Q9_9")])
def test_unknown_ones_are_refused(shape: str, type_: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        random_model(tmp_path, shape, type_)


def test_shapes_have_the_sizes_they_are_named_for() -> None:
    configs = {name: HybridConfig.from_dict(shape) for name, shape in SHAPES.items()}
    assert round(parameters(configs["S"]).total / 1e6) == 145
    assert 1.36e9 <= parameters(configs["L"]).total < 1.37e9
    assert round(parameters(configs["D"]).active_matrices / 1e6) == 737
    assert gguf_bytes(configs["G"], "Q8_0") == pytest.approx(1e9, rel=0.02)
    actives = {parameters(config).active - parameters(config).router for name, config in configs.items() if name.startswith("E")}
    assert len(actives) == 1  # the same active size, but for the router's rows
    assert actives.pop() * 34 / 32 >= 200e6
