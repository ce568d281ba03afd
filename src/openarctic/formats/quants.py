"""The number formats of GGUF tensors: F32, F16, Q8_0, Q4_0, Q4_1, written bit for bit as ggml's reference does.

Quantised types work on blocks of 32 values along a row:
Q8_0 = f16 scale + 32 int8; Q4_0 = f16 scale + 16 bytes (value = d * (q - 8)); Q4_1 = f16 scale, f16 minimum + 16 bytes.
The low nibbles of the 16 bytes are values 0..15 of the block, the high nibbles 16..31.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import UserError

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
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q4_1", 3, 32, 20),
        TensorType("Q5_0", 6, 32, 22),
        TensorType("Q5_1", 7, 32, 24),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("BF16", 30, 1, 2),
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
    """The raw bytes (1-D uint8) of float32 `values` in `type`. Raises UserError for an unfit row length."""
    byte_size(type, values.shape)
    if importance is not None:
        raise NotImplementedError("importance")
    flat = np.ascontiguousarray(values, dtype=np.float32)
    if type == "BF16":
        return _to_bf16(flat)
    if type in ("F32", "F16"):
        return flat.astype(np.float32 if type == "F32" else np.float16).view(np.uint8).reshape(-1)
    blocks = flat.reshape(-1, TYPES[type].block_values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _QUANTIZERS[type](blocks).reshape(-1)


def dequantize(raw: Raw, type: str, shape: tuple[int, ...]) -> F32Array:
    """Float32 values of raw bytes, in `shape`."""
    if type == "BF16":
        return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if type in ("F32", "F16"):
        dtype = np.float32 if type == "F32" else np.float16
        return np.ascontiguousarray(raw).view(dtype).astype(np.float32).reshape(shape)
    blocks = np.ascontiguousarray(raw).reshape(-1, TYPES[type].block_bytes)
    return _DEQUANTIZERS[type](blocks).reshape(shape)


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
    """Raw bytes of a tensor of `shape` in `source_type`, as raw bytes in `type`; written to `out` where it is given."""
    result = quantize(dequantize(raw, source_type, shape), type, importance=importance, threads=threads)
    if out is None:
        return result
    out[:] = result
    return out


def _round_half_away(x: F32Array) -> F32Array:
    """C's roundf: halves go away from zero."""
    whole = np.floor(np.abs(x))
    return np.sign(x) * (whole + np.floor(2 * (np.abs(x) - whole)))


def _f16(x: F32Array) -> Raw:
    return x.astype(np.float16).view(np.uint8)


def _pack_nibbles(q: NDArray[np.uint8]) -> Raw:
    return q[:, :16] | (q[:, 16:] << np.uint8(4))


def _unpack_nibbles(packed: Raw) -> NDArray[np.uint8]:
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def _quantize_q8_0(x: F32Array) -> Raw:
    d = np.abs(x).max(axis=1, keepdims=True) / 127
    inverse = np.where(d == 0, 0, 1 / d)
    return np.concatenate([_f16(d), _round_half_away(x * inverse).astype(np.int8).view(np.uint8)], axis=1)


def _quantize_q4_0(x: F32Array) -> Raw:
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    d = (largest / -8).astype(np.float32)
    inverse = np.where(d == 0, 0, 1 / d)
    q = np.trunc(x * inverse + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([_f16(d), _pack_nibbles(q)], axis=1)


def _quantize_q4_1(x: F32Array) -> Raw:
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    d = (high - low) / 15
    inverse = np.where(d == 0, 0, 1 / d)
    q = np.trunc((x - low) * inverse + np.float32(0.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([_f16(d), _f16(low), _pack_nibbles(q)], axis=1)


def _pack_fifth_bits(q: NDArray[np.uint8]) -> Raw:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _unpack_fifth_bits(packed: Raw) -> NDArray[np.uint8]:
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _quantize_q5_0(x: F32Array) -> Raw:
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    d = (largest / -16).astype(np.float32)
    inverse = np.where(d == 0, 0, 1 / d)
    q = np.trunc(x * inverse + np.float32(16.5)).clip(0, 31).astype(np.uint8)
    return np.concatenate([_f16(d), _pack_fifth_bits(q), _pack_nibbles(q & 15)], axis=1)


def _quantize_q5_1(x: F32Array) -> Raw:
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    d = (high - low) / 31
    inverse = np.where(d == 0, 0, 1 / d)
    q = np.trunc((x - low) * inverse + np.float32(0.5)).astype(np.uint8)
    return np.concatenate([_f16(d), _f16(low), _pack_fifth_bits(q), _pack_nibbles(q & 15)], axis=1)


def _to_bf16(x: F32Array) -> Raw:
    bits = x.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)


def _scale(blocks: Raw, offset: int = 0) -> F32Array:
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).astype(np.float32)


def _dequantize_q8_0(blocks: Raw) -> F32Array:
    return _scale(blocks) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _dequantize_q4_0(blocks: Raw) -> F32Array:
    return _scale(blocks) * (_unpack_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _dequantize_q4_1(blocks: Raw) -> F32Array:
    return _scale(blocks) * _unpack_nibbles(blocks[:, 4:]).astype(np.float32) + _scale(blocks, 2)


def _dequantize_q5_0(blocks: Raw) -> F32Array:
    q = _unpack_nibbles(blocks[:, 6:]) | _unpack_fifth_bits(blocks[:, 2:6])
    return _scale(blocks) * (q.astype(np.float32) - 16)


def _dequantize_q5_1(blocks: Raw) -> F32Array:
    q = _unpack_nibbles(blocks[:, 8:]) | _unpack_fifth_bits(blocks[:, 4:8])
    return _scale(blocks) * q.astype(np.float32) + _scale(blocks, 2)


_QUANTIZERS = {
    "Q8_0": _quantize_q8_0,
    "Q4_0": _quantize_q4_0,
    "Q4_1": _quantize_q4_1,
    "Q5_0": _quantize_q5_0,
    "Q5_1": _quantize_q5_1,
}
_DEQUANTIZERS = {
    "Q8_0": _dequantize_q8_0,
    "Q4_0": _dequantize_q4_0,
    "Q4_1": _dequantize_q4_1,
    "Q5_0": _dequantize_q5_0,
    "Q5_1": _dequantize_q5_1,
}
