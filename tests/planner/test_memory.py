"""Bytes: bare precisions, GGUF types against files that are written, keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.errors import UserError
from openarctic.formats import HybridConfig, read_gguf, to_gguf, write_gguf
from openarctic.formats.mixture import choose_types
from openarctic.planner import PRESETS, gguf_bytes, kv_bytes_per_token, parameters, weight_bytes
from tests.tiny import LAYOUTS, random_state

ARCTIC = PRESETS["arctic-480b"]


def test_the_480b_in_each_precision() -> None:
    sizes = {p: weight_bytes(ARCTIC, p) for p in ("fp32", "bf16", "fp8", "int8", "int4")}
    total = 478_584_608_768
    assert sizes == {"fp32": 4 * total, "bf16": 957_169_217_536, "fp8": total, "int8": total, "int4": total // 2}
    assert weight_bytes(PRESETS["arctic-480b-kv56"], "bf16") == 963_334_844_416


def test_an_unknown_precision_is_told() -> None:
    with pytest.raises(UserError, match="int3"):
        weight_bytes(ARCTIC, "int3")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file_type", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_K_M"])
def test_gguf_bytes_are_those_of_a_written_file(layout: str, file_type: str, tmp_path: Path) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    types = choose_types(config, file_type)
    write_gguf(tmp_path / "m.gguf", *to_gguf(config, random_state(LAYOUTS[layout]), lambda name, _: types[name], {}))
    tensors = read_gguf(tmp_path / "m.gguf").tensors.values()
    assert gguf_bytes(config, file_type) == sum(tensor.data.nbytes for tensor in tensors)


def test_the_480b_in_q8_0() -> None:
    """Norms and routers in fp32, of the rest 34 bytes for 32 weights."""
    full = parameters(ARCTIC).norms + parameters(ARCTIC).router
    assert gguf_bytes(ARCTIC, "Q8_0") == 4 * full + (parameters(ARCTIC).total - full) // 32 * 34


def test_what_no_file_can_hold_is_told() -> None:
    with pytest.raises(UserError, match="multiple"):
        gguf_bytes(HybridConfig.from_dict({**LAYOUTS["parallel"], "intermediate_size": 24}), "Q8_0")
    with pytest.raises(UserError, match="Q9_0"):
        gguf_bytes(ARCTIC, "Q9_0")


def test_keys_and_values() -> None:
    assert kv_bytes_per_token(ARCTIC, 2) == 143_360 == 35 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(PRESETS["arctic-480b-kv56"], 2) == 1_003_520
    assert kv_bytes_per_token(ARCTIC, 1) == 71_680
    assert kv_bytes_per_token(ARCTIC, 34 / 32) == 71_680 // 32 * 34
