"""Bytes: bare precisions, GGUF types against files that are written, keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.errors import UserError
from openarctic.formats import HybridConfig, read_gguf
from openarctic.planner import PRESETS, gguf_bytes, kv_bytes_per_token, weight_bytes
from tests.tiny import LAYOUTS, write_model

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
@pytest.mark.parametrize("type_", ["F32", "Q8_0", "Q4_0"])
def test_gguf_bytes_are_those_of_a_written_file(layout: str, type_: str, tmp_path: Path) -> None:
    file = read_gguf(write_model(tmp_path / "model.gguf", LAYOUTS[layout], type_))
    stored = sum(tensor.data.nbytes for tensor in file.tensors.values())
    assert gguf_bytes(HybridConfig.from_dict(LAYOUTS[layout]), type_) == stored


def test_a_row_that_is_no_whole_number_of_blocks_is_told() -> None:
    with pytest.raises(UserError, match="multiple"):
        gguf_bytes(HybridConfig.from_dict({**LAYOUTS["parallel"], "intermediate_size": 24}), "Q8_0")


def test_keys_and_values() -> None:
    assert kv_bytes_per_token(ARCTIC, 2) == 143_360 == 35 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(PRESETS["arctic-480b-kv56"], 2) == 1_003_520
    assert kv_bytes_per_token(ARCTIC, 1) == 71_680
    assert kv_bytes_per_token(ARCTIC, 34 / 32) == 71_680 // 32 * 34
