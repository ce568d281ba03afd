"""GPUs as their vendors' data sheets describe them: memory in GB of 10^9 bytes, dense rates (no sparsity), fp32 accumulation.

Cards sold in binary gigabytes hold 7 % more than is counted here, which is the safe side.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from openarctic.errors import MissingError


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory_bytes`, `bandwidth` in bytes a second, rates in FLOPs a second; `fp8_flops` is None where there is no fp8."""

    name: str
    memory_bytes: int
    bandwidth: float
    bf16_flops: float
    fp8_flops: float | None

    def flops(self, precision: str) -> float:
        """Peak rate of a model stored in `precision`: integers are widened to bf16 first, and fp32 is no faster than bf16."""
        return self.fp8_flops if precision == "fp8" and self.fp8_flops else self.bf16_flops


def _gpu(name: str, gigabytes: int, terabytes_s: float, bf16_tflops: float, fp8_tflops: float | None) -> Gpu:
    fp8 = None if fp8_tflops is None else fp8_tflops * 1e12
    return Gpu(name, gigabytes * 10**9, terabytes_s * 1e12, bf16_tflops * 1e12, fp8)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("B200", 192, 8.0, 2250, 4500),
        _gpu("MI300X", 192, 5.3, 1307.4, 2614.9),
        _gpu("H200", 141, 4.8, 989, 1979),
        _gpu("H100", 80, 3.35, 989, 1979),
        _gpu("A100-80GB", 80, 2.039, 312, None),
        _gpu("A100-40GB", 40, 1.555, 312, None),
        _gpu("L40S", 48, 0.864, 362, 733),
        _gpu("RTX-4090", 24, 1.008, 165.2, 330.3),
        _gpu("L4", 24, 0.3, 121, 242.5),
    )
}


def find_gpu(name: str) -> Gpu:
    """A GPU by name, case aside. Raises MissingError with the nearest name."""
    by_name = {known.lower(): gpu for known, gpu in GPUS.items()}
    if name.lower() in by_name:
        return by_name[name.lower()]
    near = difflib.get_close_matches(name.lower(), by_name, 1)
    hint = f"did you mean {by_name[near[0]].name}?" if near else f"known: {', '.join(GPUS)}"
    raise MissingError(f"no GPU named {name!r}", hint)
