"""GPUs are found by name, and their numbers are of one order."""

from __future__ import annotations

import pytest

from openarctic.errors import MissingError
from openarctic.planner import GPUS, find_gpu


def test_found_whatever_the_case() -> None:
    assert find_gpu("h200") is GPUS["H200"]


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(MissingError) as caught:
        find_gpu("A100-80")
    assert caught.value.hint == "did you mean A100-80GB?"
    with pytest.raises(MissingError) as caught:
        find_gpu("xyz")
    assert "MI300X" in (caught.value.hint or "")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_rates_are_in_units_of_one_second(gpu) -> None:  # type: ignore[no-untyped-def]
    assert 20e9 <= gpu.memory_bytes <= 200e9
    assert 0.1 < gpu.memory_bytes / gpu.bandwidth * 10 < 1  # all memory is read in 10 to 100 ms
    assert 100 <= gpu.bf16_flops / gpu.bandwidth <= 500  # FLOPs a byte
    assert gpu.flops("fp8") in (gpu.fp8_flops, gpu.bf16_flops)
    assert gpu.flops("int4") == gpu.flops("bf16") == gpu.bf16_flops
    assert gpu.fp8_flops is None or 1.99 < gpu.fp8_flops / gpu.bf16_flops < 2.04
