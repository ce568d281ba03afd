"""Limits are plausible, and shares agree with planner's other way to the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.bench.limits import active_bytes, main_type, measure_limits, shares
from openarctic.formats import HybridConfig, config_from_gguf, read_gguf
from openarctic.formats.quants import TYPES
from openarctic.native import _native
from openarctic.planner import flops_per_token, kv_bytes_per_token, parameters
from openarctic.planner.fit import step_weights
from tests.bench.conftest import LIMITS
from tests.tiny import LAYOUTS, write_model


def test_small_limits_are_measured() -> None:
    limits = measure_limits(1, buffer_bytes=1 << 20)
    assert 1e8 < limits["read_bytes_per_s"]["1"] < 1e13
    for peaks in limits["operations_per_s"].values():
        assert all(1e9 < value < 1e14 for value in peaks["1"].values())


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1024, 0, 1), (1024, 1, 0)])
def test_limits_refuse_nonsense(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="needs a thread"):
        _native.read_bandwidth(*arguments)
    with pytest.raises(ValueError, match="needs a thread"):
        _native.arithmetic_peaks("avx2", 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 4])
def test_active_bytes_agree_with_the_planner(layout: str, batch: int, tmp_path: Path) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    file = read_gguf(write_model(tmp_path / "m.gguf", LAYOUTS[layout], "F32"))
    vectors = parameters(config).norms + parameters(config).biases
    lookup = 0 if config.tie_word_embeddings else batch * config.hidden_size
    assert active_bytes(file, config, batch) == pytest.approx(4 * (step_weights(config, batch) + vectors + lookup))


def test_shares_by_hand(model: Path) -> None:
    file = read_gguf(model)
    config = config_from_gguf(file)
    where = {"batch": 1, "context": 8}
    got = shares(file, config, LIMITS, "avx2", 1, tokens_per_s=1000, is_prefill=False, **where)
    read = active_bytes(file, config) + 8 * kv_bytes_per_token(config)
    assert got["bandwidth"] == pytest.approx(read * 1000 / 1e10)
    assert got["arithmetic"] == pytest.approx(flops_per_token(config, 8).decode * 1000 / 1e11)  # Q8_0 takes int16
    prefill = shares(file, config, LIMITS, "avx2", 1, tokens_per_s=1000, is_prefill=True, **where)
    assert "bandwidth" not in prefill and prefill["arithmetic"] < got["arithmetic"]


def test_the_main_type_holds_most_bytes(model: Path, dense: Path) -> None:
    assert main_type(read_gguf(model)) == "Q8_0"
    assert main_type(read_gguf(dense)) == "Q4_0"
    assert set(TYPES) >= {"Q8_0", "Q4_0"}
