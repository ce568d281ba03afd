"""Matrix products of every type: each table of kernels against the plain one, and all of them against float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from openarctic.native._native import available_kernels, matmul

from openarctic.formats.quants import TYPES, dequantize, quantize

# Largest error of a product, relative to the norms of both vectors: of float sums, of activations in 16 and in 8 bits.
FLOAT, INT16, INT8 = 1e-6, 5e-5, 1e-2
ERRORS = {**dict.fromkeys(TYPES, INT8), **dict.fromkeys(("F32", "F16", "BF16"), FLOAT), "Q8_0": INT16, "Q6_K": INT16}
COUNTS = (1, 2, 3, 4, 5, 8, 13, 130)  # tokens: few, and tiles of 128 with and without a rest
WIDTHS = {1: (1, 7, 40, 96), 32: (32, 96, 288), 256: (256, 768)}  # by the values of a block

F32 = NDArray[np.float32]


def product(kernels: str, type_: str, rows: int, raw: NDArray[np.uint8], x: F32) -> F32:
    """W x[t] of every token t, without the rows that fill the last panel, which must be zero."""
    out = np.full((len(x), -(-rows // 8) * 8), np.nan, np.float32)
    matmul(kernels, (TYPES[type_].code, rows, x.shape[1], raw), x, out)
    assert not out[:, rows:].any()
    return out[:, :rows]


def check(type_: str, rows: int, cols: int, count: int, scale: float = 1.0) -> None:
    """Vector kernels give the same bits, the plain ones the same integer sums, all of them the product; a token's bits do not
    depend on the other tokens."""
    rng = np.random.default_rng(rows * cols + count)
    raw = quantize((scale * rng.standard_normal((rows, cols))).astype(np.float32), type_)
    w, x = dequantize(raw, type_, (rows, cols)).astype(np.float64), rng.standard_normal((count, cols)).astype(np.float32)
    got = {name: product(name, type_, rows, raw, x) for name in available_kernels()}
    unit = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)
    assert (np.abs(got["plain"] - x @ w.T) / unit).max() < ERRORS[type_]
    first, *others = [values for name, values in got.items() if name != "plain"] or [got["plain"]]
    assert all(np.array_equal(first, other) for other in others)
    assert (np.abs(first - got["plain"]) / unit).max() < FLOAT
    for name, values in got.items():
        assert np.array_equal(values[-1], product(name, type_, rows, raw, x[-1:])[0])


@pytest.mark.parametrize("rows", [1, 8, 13, 40])
@pytest.mark.parametrize("type_", TYPES)
def test_products_of_odd_sizes(type_: str, rows: int) -> None:
    for cols in WIDTHS[TYPES[type_].block_values]:
        for count in COUNTS:
            check(type_, rows, cols, count)


@pytest.mark.parametrize(("type_", "scale"), [("Q4_0", 1e5), ("Q5_0", 1e5), ("Q4_K", 5e5), ("Q5_K", 1e6)])
def test_scales_beyond_f16(type_: str, scale: float) -> None:
    """A minimum or a product of scales above 65504 would be infinite in the compact form."""
    for count in (1, 9):
        check(type_, 13, 256, count, scale)


@pytest.mark.parametrize("name", [name for name in available_kernels() if name != "plain"])
def test_the_largest_integer_sums(name: str) -> None:
    """All codes and all activations at their limits: 16-bit sums must not overflow."""
    raw = np.tile(np.frombuffer(np.float16([1, 0]).tobytes() + b"\xff" * 20, np.uint8), 8)  # Q5_1: every value is 31
    for sign in (1, -1):
        x = np.full((9, 32), sign * 127, np.float32)
        assert (product(name, "Q5_1", 8, raw, x) == sign * 32 * 31 * 127).all()
        assert (product(name, "Q5_1", 8, raw, x[:1]) == sign * 32 * 31 * 127).all()
