"""The number types in plain numpy: what the C++ of `quants.py` must give to the last bit, and how each type is read.

Arrays are [blocks, values of a block]. Two tricks make the bits those of ggml's loops: sums run in order
(`_sum`), and every step is float32. Only tests run this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.formats.quants import TYPES, F32Array, Raw

Array = NDArray[Any]  # float32 too, where numpy's stubs think of float64
Ints = NDArray[np.int32]
F = np.float32
NOTHING = F(1e-15)


def quantize_reference(values: F32Array, type: str, importance: F32Array | None = None) -> Raw:
    """The raw bytes of `values` [rows, columns] in `type`; `importance` is [columns]."""
    with np.errstate(all="ignore"):
        if type == "F32":
            return values.reshape(-1).view(np.uint8)
        if type == "F16":
            return _f16(values).reshape(-1)
        if type == "BF16":
            bits = values.reshape(-1).view(np.uint32)
            return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8)
        blocks = values.reshape(-1, TYPES[type].block_values)
        weights = None
        if importance is not None and type != "Q8_0":
            weights = _weights(values, np.broadcast_to(importance, values.shape), type).reshape(blocks.shape)
        return _QUANTIZERS[type](blocks, weights).reshape(-1)


def dequantize_reference(raw: Raw, type: str) -> F32Array:
    """The float32 values of raw bytes, flat."""
    if type in ("F32", "F16"):
        return raw.view(np.float32 if type == "F32" else np.float16).astype(np.float32)
    if type == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return _DEQUANTIZERS[type](raw.reshape(-1, TYPES[type].block_bytes)).reshape(-1)


def _sum(terms: F32Array) -> F32Array:
    """Over the last axis, in order, where `np.sum` adds pairwise."""
    return np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1] + F(0)


def _nearest(x: Array) -> Ints:
    """Whole numbers, halves to even; beyond 2^22 the bits wrap around, as they do in ggml."""
    return ((x + F(12582912)).view(np.int32) & 0x7FFFFF) - 0x400000


def _truncated(x: F32Array) -> Ints:
    return np.where(np.abs(x) < 1e9, x, 0).astype(np.int32)


def _at(x: F32Array, index: NDArray[np.intp]) -> F32Array:
    """One value of each block, as a column: of equal values (zeros of two signs) `index` is the first."""
    return np.take_along_axis(x, index[:, None], axis=1)


def _f16(x: F32Array) -> Raw:
    return x.astype(np.float16).view(np.uint8)


def _inverse(d: F32Array) -> F32Array:
    return np.where(d == 0, F(0), F(1) / d)


def _weights(x: F32Array, columns: F32Array, type: str) -> F32Array:
    """Of each value: its column's importance, times the root of its square plus the mean square around it."""
    if type == "Q6_K":
        return columns
    if type in ("Q4_K", "Q5_K"):
        super_blocks = x.reshape(*x.shape[:-1], -1, 256)
        mean = F(2) * _sum(super_blocks * super_blocks) / F(256)
        return columns * np.sqrt(np.repeat(mean, 256, axis=-1) + x * x)
    return columns * np.sqrt((_sum(x * x) / F(x.shape[-1]))[:, None] + x * x)


# Blocks of 32: f16 scale, f16 minimum or none, fifth bits or none, nibbles.


def _pack(d: F32Array, low: F32Array | None, q: Ints, bits: int) -> Raw:
    parts = [_f16(d), *([] if low is None else [_f16(low)])]
    if bits == 5:
        parts.append(np.packbits((q >> 4).astype(np.uint8), axis=1, bitorder="little"))
    return np.concatenate([*parts, ((q[:, :16] & 15) | (q[:, 16:] & 15) << 4).astype(np.uint8)], axis=1)


def _unpack(blocks: Raw, at: int, bits: int) -> Ints:
    nibbles = blocks[:, at + (4 if bits == 5 else 0) :]
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.int32)
    if bits == 5:
        q |= np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little").astype(np.int32) << 4
    return q


def _scale(blocks: Raw, at: int = 0) -> F32Array:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _quantize_q8_0(x: F32Array, _: None) -> Raw:
    d = np.abs(x).max(axis=1, keepdims=True) / F(127)
    v = x * _inverse(d)
    q = _truncated(v + np.copysign(np.nextafter(F(0.5), F(0)), v))  # halves away from zero
    return np.concatenate([_f16(d), q.astype(np.int8).view(np.uint8)], axis=1)


def _quantize_symmetric(x: F32Array, weights: F32Array | None, bits: int) -> Raw:
    half = 1 << (bits - 1)
    if weights is not None:
        scale, q = fit_symmetric(x, weights, half)
        return _pack(scale[:, None], None, q, bits)
    d = (_at(x, np.abs(x).argmax(axis=1)) + F(0)) / F(-half)
    q = np.minimum(_truncated(x * _inverse(d) + F(half + 0.5)), 2 * half - 1)
    return _pack(d, None, q, bits)


def _quantize_affine(x: F32Array, weights: F32Array | None, bits: int) -> Raw:
    top = (1 << bits) - 1
    if weights is not None:
        scale, low, q, _ = fit_affine(x, weights, top, *WEIGHTED_SEARCH)
        return _pack(scale[:, None], low[:, None], q, bits)
    low, high = (_at(x, at(axis=1)) for at in (x.argmin, x.argmax))
    d = (high - low) / F(top)
    q = np.minimum(_truncated((x - low) * _inverse(d) + F(0.5)), top)
    return _pack(d, low, q, bits)


# The searches.

WEIGHTED_SEARCH = (-0.9, 0.05, 36)


def fit_symmetric(x: F32Array, weights: F32Array, half: int) -> tuple[F32Array, Ints]:
    """Scale and levels 0..2 * half - 1 (offset by `half`) of each block, of 19 tries with the least weighted error."""
    peak = _at(x, np.abs(x).argmax(axis=1))[:, 0]

    def levels(inverse: F32Array) -> Ints:
        return np.clip(_nearest(inverse[:, None] * x), -half, half - 1)

    def sums(inverse: F32Array) -> tuple[F32Array, F32Array]:
        q = levels(inverse).astype(np.float32)
        return _sum(weights * x * q), _sum(weights * q * q)

    inverse = F(-half) / peak
    sum_lx, sum_l2 = sums(inverse)
    scale = np.where(sum_l2 != 0, sum_lx / sum_l2, F(0))
    best = scale * sum_lx
    for step in (*range(-9, 0), *range(1, 10)):
        trial = -(F(half) + F(0.1) * F(step)) / peak
        sum_lx, sum_l2 = sums(trial)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        own = sum_lx / sum_l2
        scale, best = np.where(better, own, scale), np.where(better, own * sum_lx, best)
        inverse = np.where(better, trial, inverse)
    nothing = np.abs(peak) < NOTHING
    return np.where(nothing, F(0), scale), np.where(nothing[:, None], 0, levels(inverse) + half)


def fit_affine(
    x: F32Array, weights: F32Array, top: int, first: float, step: float, steps: int
) -> tuple[F32Array, F32Array, Ints, F32Array]:
    """Scale, minimum (never above 0), levels 0..top and sum of weights of each block."""
    low, high = (_at(x, at(axis=1))[:, 0] for at in (x.argmin, x.argmax))
    low = np.where(low > 0, F(0), low)
    sum_w, sum_x = _sum(weights), _sum(weights * x)
    flat = high <= low

    def levels(inverse: F32Array) -> Ints:
        return np.clip(_nearest(inverse[:, None] * (x - low[:, None])), 0, top)

    def error_of(scale: Array, minimum: Array, q: Ints) -> F32Array:
        difference = scale[:, None] * q.astype(np.float32) + minimum[:, None] - x
        return _sum(weights * (difference * difference))

    inverse = F(top) / (high - low)
    best = levels(inverse)
    scale = F(1) / inverse
    error = error_of(scale, low, best)
    for i in range(steps + 1):
        q = levels((F(first) + F(step) * F(i) + F(top)) / (high - low))
        wl = weights * q.astype(np.float32)
        sum_l, sum_l2, sum_xl = _sum(wl), _sum(wl * q.astype(np.float32)), _sum(wl * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        own_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        own_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        own_scale = np.where(own_low > 0, sum_xl / sum_l2, own_scale)
        own_low = np.where(own_low > 0, F(0), own_low)
        own_error = error_of(own_scale, own_low, q)
        better = (determinant > 0) & (own_error < error)
        error, scale, low = np.where(better, own_error, error), np.where(better, own_scale, scale), np.where(better, own_low, low)
        best = np.where(better[:, None], q, best)
    return np.where(flat, F(0), scale), low, np.where(flat[:, None], 0, best), sum_w


def fit_positive(x: F32Array, weights: F32Array, top: int) -> tuple[F32Array, Ints]:
    """One scale and levels 0..top for each row of values above 0: a search, then one level at a time."""
    most = np.maximum(x.max(axis=1), F(0))

    def levels(inverse: F32Array) -> Ints:
        return np.minimum(_nearest(inverse[:, None] * x), top)

    def error_of(inverse: F32Array) -> F32Array:
        difference = x - (F(1) / inverse)[:, None] * levels(inverse).astype(np.float32)
        return _sum(weights * difference * difference)

    inverse = F(top) / most
    best = error_of(inverse)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        trial = (F(0.1) * F(step) + F(top)) / most
        error = error_of(trial)
        inverse, best = np.where(error < best, trial, inverse), np.where(error < best, error, best)
    q = levels(inverse)
    lf = q.astype(np.float32)
    sum_lx, sum_l2 = _sum(weights * x * lf), _sum(weights * lf * lf)
    for _, i in np.ndindex(5, x.shape[1]):  # a further round after one without changes changes nothing
        w, own = weights[:, i], q[:, i].astype(np.float32)
        lx, l2 = sum_lx - w * x[:, i] * own, sum_l2 - w * own * own
        new = np.minimum(_nearest(x[:, i] * l2 / lx), top)
        nf = new.astype(np.float32)
        new_lx, new_l2 = lx + w * x[:, i] * nf, l2 + w * nf * nf
        better = (lx > 0) & (l2 > 0) & (new != q[:, i]) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
        q[:, i] = np.where(better, new, q[:, i])
        sum_lx, sum_l2 = np.where(better, new_lx, sum_lx), np.where(better, new_l2, sum_l2)
    nothing = most < NOTHING
    return np.where(nothing | ~(sum_l2 > 0), F(0), sum_lx / sum_l2), np.where(nothing[:, None], 0, q)


# Blocks of 256: f16 scale, f16 minimum, 8 pairs of 6 bits in 12 bytes, fifth bits or none, nibbles.


def _pack_scales(d: Ints, m: Ints) -> Raw:
    parts = [d[:, :4] | (d[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6, (d[:, 4:] & 15) | (m[:, 4:] & 15) << 4]
    return np.concatenate(parts, axis=1).astype(np.uint8)


def _unpack_scales(packed: Raw) -> tuple[F32Array, F32Array]:
    a, b, c = (packed[:, i : i + 4] for i in (0, 4, 8))
    d = np.concatenate([a & 63, c & 15 | (a >> 6) << 4], axis=1)
    m = np.concatenate([b & 63, c >> 4 | (b >> 6) << 4], axis=1)
    return d.astype(np.float32), m.astype(np.float32)


def _quantize_k(x: F32Array, weights: F32Array | None, bits: int) -> Raw:
    top = (1 << bits) - 1
    subs = x.reshape(-1, 32)
    if weights is None:
        own = np.sqrt(_sum(subs * subs) / F(32))[:, None] + np.abs(subs)
        scale, low, q, _ = fit_affine(subs, own, top, *((-1.0, 0.1, 20) if bits == 4 else (-0.5, 0.1, 15)))
        shared = [_share(v.reshape(-1, 8)) for v in (scale, -low)]
    else:
        scale, low, q, sums = fit_affine(subs, weights.reshape(-1, 32), top, *WEIGHTED_SEARCH)
        shared = [fit_positive(v.reshape(-1, 8), sums.reshape(-1, 8), 63) for v in (scale, -low)]
    (d, d6), (m, m6) = shared
    head = np.concatenate([_f16(d[:, None]), _f16(m[:, None]), _pack_scales(d6, m6)], axis=1)
    scale, low = ((_scale(head, at) * own).reshape(-1, 1) for at, own in zip((0, 2), _unpack_scales(head[:, 4:]), strict=True))
    q = np.where(scale != 0, np.clip(_nearest((subs + low) / scale), 0, top), q).reshape(-1, 4, 2, 32)
    parts = [head]
    if bits == 5:
        parts.append(np.packbits((q >> 4).reshape(-1, 8, 32).astype(np.uint8), axis=1, bitorder="little")[:, 0])
    return np.concatenate([*parts, ((q[:, :, 0] & 15) | (q[:, :, 1] & 15) << 4).astype(np.uint8).reshape(-1, 128)], axis=1)


def _share(values: F32Array) -> tuple[F32Array, Ints]:
    """The largest of 8 values becomes 63."""
    most = np.maximum(values.max(axis=1), F(0))
    inverse = np.where(most > 0, F(63) / most, F(0))
    return most / F(63), np.minimum(_nearest(inverse[:, None] * values), 63)


def _dequantize_k(blocks: Raw, bits: int) -> F32Array:
    d, m = _unpack_scales(blocks[:, 4:16])
    nibbles = blocks[:, -128:].reshape(-1, 4, 1, 32)
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(-1, 8, 32).astype(np.int32)
    if bits == 5:
        q |= np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2).astype(np.int32) << 4
    return (_scale(blocks) * d)[:, :, None] * q.astype(np.float32) - (_scale(blocks, 2) * m)[:, :, None]


# Q6_K: low nibbles, two high bits, 16 int8 scales of 16 values, f16 scale.


def _quantize_q6_k(x: F32Array, weights: F32Array | None) -> Raw:
    subs = x.reshape(-1, 16)
    scale, q = fit_symmetric(subs, subs * subs if weights is None else weights.reshape(-1, 16), 32)
    scale = scale.reshape(-1, 16)
    sizes = np.where(np.isnan(scale), F(-1), np.abs(scale))  # squares beyond float32 leave no scale
    peak = _at(np.where(np.isnan(scale), F(0), scale), sizes.argmax(axis=1))
    inverse = F(-128) / peak
    d = _f16(F(1) / inverse)
    scales = np.minimum(_nearest(inverse * scale), 127).astype(np.int8)
    own = (_scale(d) * scales.astype(np.float32)).reshape(-1, 1)
    q = np.where(own != 0, np.clip(_nearest(subs / own), -32, 31) + 32, q).reshape(-1, 2, 4, 32)
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = np.bitwise_or.reduce((q >> 4) << np.array([0, 2, 4, 6])[:, None], axis=2)
    parts = [low.reshape(-1, 128).astype(np.uint8), high.reshape(-1, 64).astype(np.uint8), scales.view(np.uint8), d]
    return np.where(np.abs(peak) < NOTHING, 0, np.concatenate(parts, axis=1)).astype(np.uint8)


def _dequantize_q6_k(blocks: Raw) -> F32Array:
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2)
    top = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    q = (low | top << 4).astype(np.float32).reshape(-1, 16, 16) - F(32)
    return (_scale(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32))[:, :, None] * q


_QUANTIZERS: dict[str, Callable[[Any, Any], Raw]] = {
    "Q8_0": _quantize_q8_0,
    "Q4_0": lambda x, w: _quantize_symmetric(x, w, 4),
    "Q4_1": lambda x, w: _quantize_affine(x, w, 4),
    "Q5_0": lambda x, w: _quantize_symmetric(x, w, 5),
    "Q5_1": lambda x, w: _quantize_affine(x, w, 5),
    "Q4_K": lambda x, w: _quantize_k(x, w, 4),
    "Q5_K": lambda x, w: _quantize_k(x, w, 5),
    "Q6_K": _quantize_q6_k,
}
_DEQUANTIZERS: dict[str, Callable[[Raw], F32Array]] = {
    "Q8_0": lambda b: _scale(b) * b[:, 2:].view(np.int8).astype(np.float32),
    "Q4_0": lambda b: _scale(b) * (_unpack(b, 2, 4) - 8).astype(np.float32),
    "Q4_1": lambda b: _scale(b) * _unpack(b, 4, 4).astype(np.float32) + _scale(b, 2),
    "Q5_0": lambda b: _scale(b) * (_unpack(b, 2, 5) - 16).astype(np.float32),
    "Q5_1": lambda b: _scale(b) * _unpack(b, 4, 5).astype(np.float32) + _scale(b, 2),
    "Q4_K": lambda b: _dequantize_k(b, 4),
    "Q5_K": lambda b: _dequantize_k(b, 5),
    "Q6_K": _dequantize_q6_k,
}
