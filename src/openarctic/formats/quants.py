"""The number types of GGUF tensors, written and read bit for bit as ggml's reference does.

F32, F16 and BF16 hold one value after the other; the others hold blocks of 32 or, those with a K, of 256 values along a
row (layouts: `blocks.h`). The work is done in C++ (`quants.cpp`), every processor giving the same bits; the same arithmetic
in plain numpy is `quants_reference.py`.

Importance, one weight a column, says how much an error in that column matters (the mean square of what the column is
multiplied with; llama.cpp's "imatrix"): every block's scale is then chosen for the smallest weighted error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import UserError
from openarctic.formats._quants import encode as _encode
from openarctic.formats._quants import first_not_finite as _first_not_finite

F32Array = NDArray[np.float32]
Raw = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type's name, its number in GGUF files, values in a block and bytes of a block."""

    name: str
    code: int
    block_values: int
    block_bytes: int


TYPES = {
    t.name: t
    for t in (
        TensorType("F32", 0, 1, 4),
        TensorType("F16", 1, 1, 2),
        TensorType("BF16", 30, 1, 2),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q4_1", 3, 32, 20),
        TensorType("Q5_0", 6, 32, 22),
        TensorType("Q5_1", 7, 32, 24),
        TensorType("Q4_K", 12, 256, 144),
        TensorType("Q5_K", 13, 256, 176),
        TensorType("Q6_K", 14, 256, 210),
    )
}
TYPE_OF_CODE = {t.code: t.name for t in TYPES.values()}


def byte_size(type: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Raises UserError when a row is not a whole number of blocks."""
    kind = TYPES[type]
    if shape and shape[-1] % kind.block_values:
        raise UserError(f"rows of {shape[-1]} values cannot be {type}: not a multiple of {kind.block_values}")
    return math.prod(shape) // kind.block_values * kind.block_bytes


def quantize(values: F32Array, type: str, *, importance: F32Array | None = None, threads: int = 1) -> Raw:
    """The raw bytes (1-D uint8) of float32 `values` in `type`; see `encode`."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    return encode(flat.reshape(-1).view(np.uint8), "F32", type, values.shape, importance=importance, threads=threads)


def dequantize(raw: Raw, type: str, shape: tuple[int, ...]) -> F32Array:
    """Float32 values of raw bytes, in `shape`."""
    return encode(raw, type, "F32", shape).view(np.float32).reshape(shape)


def encode(
    raw: Raw,
    source_type: str,
    type: str,
    shape: tuple[int, ...],
    *,
    importance: F32Array | None = None,
    threads: int = 1,
    out: Raw | None = None,
) -> Raw:
    """The raw bytes of a tensor of `shape` in `source_type` as raw bytes (1-D uint8) in `type`, in `out` where it is given.

    Works row by row, so that no second copy of the tensor is made, on `threads` threads, without Python's lock. Bytes that
    have the type already are copied. `importance` is [columns], or [experts, columns] for a tensor of stacked experts; the
    float types and Q8_0 have no use for it. Values must be finite (`first_not_finite`). Raises UserError when rows are
    unfit for a type, `raw` or `out` has another size, or importance another shape or a weight that is negative or not finite.
    """
    for kind, data in ((source_type, raw), (type, out)):
        size = byte_size(kind, shape)
        if data is not None and data.size != size:
            raise UserError(f"a tensor of shape {shape} as {kind} has {size} bytes, not {data.size}")
    result = np.empty(byte_size(type, shape), np.uint8) if out is None else out
    source = np.ascontiguousarray(raw).reshape(-1)
    if source_type == type:
        np.copyto(result, source)
        return result
    weights = None
    if importance is not None:
        weights = _checked(importance, shape)
        if TYPES[type].block_values == 1 or type == "Q8_0":
            weights = None
    if source.size:
        _encode(source, TYPES[source_type].code, result, TYPES[type].code, weights, threads, "")
    return result


def first_not_finite(raw: Raw, type: str) -> int | None:
    """Where the first infinity or NaN of a tensor is, None without any; a fraction of the time that `encode` takes.

    In types with blocks only the scales are looked at (a value beyond f16's range has made one infinite), and the first
    value of the block is given.
    """
    index: int | None = _first_not_finite(np.ascontiguousarray(raw).reshape(-1), TYPES[type].code)
    return index


def _checked(importance: F32Array, shape: tuple[int, ...]) -> F32Array:
    weights = np.ascontiguousarray(importance, dtype=np.float32)
    if weights.shape not in (shape[-1:], (*shape[:-2], shape[-1])):
        raise UserError(f"importance of shape {weights.shape} does not fit a tensor of shape {shape}", "it has a weight a column")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError("importance holds a weight that is negative or not finite")
    return weights.reshape(-1, shape[-1])
