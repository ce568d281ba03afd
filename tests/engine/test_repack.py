"""Panels of weights: what C++ packs in words and vectors, on several threads, is byte by byte what kernels.h says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from openarctic.native._native import panels

from openarctic.formats.quants import TYPES, dequantize, quantize

Bytes = NDArray[np.uint8]
Item = tuple[int, int, int, Bytes]

ROWS = 8  # of a panel
FIFTHS = {"Q5_0", "Q5_1", "Q5_K"}


def matrix(type_: str, rows: int, cols: int, seed: int = 0, scale: float = 1.0) -> Bytes:
    values = np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32) * scale
    return np.ascontiguousarray(quantize(values, type_)).reshape(-1)


def item(type_: str, rows: int, cols: int, data: Bytes) -> Item:
    return TYPES[type_].code, rows, cols, data


def halves(values: NDArray[np.float32]) -> Bytes:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32).astype(np.float16).view(np.uint8)


def head_and_codes(type_: str, raw: Bytes, row_groups: int) -> tuple[Bytes, NDArray[np.int64]]:
    """Of one row: head bytes [groups, 4] and codes [groups, 32], both by the layout of the file's type (formats/blocks.h)."""
    type_bytes = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[type_]
    heads, codes = np.zeros((row_groups, 4), np.uint8), np.zeros((row_groups, 32), np.int64)
    blocks = raw.reshape(-1, type_bytes)
    for g in range(row_groups):
        if not type_.endswith("K"):
            block = blocks[g].astype(np.int64)
            at = 4 if type_.endswith("_1") else 2
            heads[g, :at] = blocks[g, :at]
            if at == 2:
                heads[g, 2:] = halves(blocks[g, :2].view(np.float16).astype(np.float32) * (-16 if type_ in FIFTHS else -8))
            fifth = np.zeros(32, np.int64)
            if type_ in FIFTHS:
                fifth = np.unpackbits(blocks[g, at : at + 4], bitorder="little").astype(np.int64)
                at += 4
            codes[g] = np.concatenate([block[at : at + 16] & 15, block[at : at + 16] >> 4]) | fifth << 4
            continue
        block, s = blocks[g // 8].astype(np.int64), g % 8
        if type_ == "Q6_K":
            heads[g, :2], heads[g, 2:] = blocks[g // 8, 208:210], blocks[g // 8, 192 + 2 * s : 194 + 2 * s]
            low = block[64 * (s // 4) + 32 * (s % 2) :][:32] >> 4 * (s % 4 // 2) & 15
            codes[g] = low | (block[128 + 32 * (s // 4) :][:32] >> 2 * (s % 4) & 3) << 4
            continue
        packed = block[4:16]
        d, m = (packed[s] & 63, packed[s + 4] & 63) if s < 4 else (0, 0)
        if s >= 4:
            d, m = (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4, (packed[s + 4] >> 4) | (packed[s] >> 6) << 4
        two = blocks[g // 8, :4].view(np.float16).astype(np.float32)
        heads[g] = halves(np.array([two[0] * d, -two[1] * m], np.float32))
        at = 48 if type_ == "Q5_K" else 16
        codes[g] = block[at + 32 * (s // 2) :][:32] >> 4 * (s % 2) & 15
        if type_ == "Q5_K":
            codes[g] |= (block[16:48] >> s & 1) << 4
    return heads, codes


def code_panel(type_: str, rows: list[Bytes], cols: int) -> Bytes:
    """One panel of codes, number by number (kernels.h)."""
    extra = 2 if type_ == "Q6_K" else 1 if type_ in FIFTHS else 0
    groups = cols // 32
    out = np.zeros((groups, 32 + 128 + 32 * extra), np.uint8)
    for r, raw in enumerate(rows):
        heads, codes = head_and_codes(type_, raw, groups)
        out[:, 2 * r : 2 * r + 2] = heads[:, :2]
        if type_ == "Q6_K":
            out[:, 16 + r], out[:, 24 + r] = heads[:, 2], heads[:, 3]
        else:
            out[:, 16 + 2 * r : 18 + 2 * r] = heads[:, 2:]
        for k in range(4):
            byte = 32 + 4 * r + ({1: 2, 2: 1}.get(k, k) if extra == 2 else k)
            for j in range(4):
                out[:, byte + 32 * j] = (codes[:, 8 * j + k] & 15) | (codes[:, 8 * j + 4 + k] & 15) << 4
            for i in range(8 if extra else 0):
                out[:, byte + 32 * (4 + extra * i // 8)] |= (codes[:, 4 * i + k] >> 4 << extra * i % 8).astype(np.uint8)
    return out.reshape(-1)


def panel(type_: str, rows: list[Bytes], cols: int, widened: bool = False) -> Bytes:
    """One panel from the raw bytes of up to 8 rows."""
    if widened or type_ == "F32":
        values = np.zeros((ROWS, cols), np.float32)
        for r, raw in enumerate(rows):
            values[r] = dequantize(raw, type_, (cols,))
        return np.ascontiguousarray(values.T).view(np.uint8).reshape(-1)
    if type_ in ("F16", "BF16"):
        numbers = np.zeros((ROWS, cols), np.uint16)
        for r, raw in enumerate(rows):
            numbers[r] = raw.view(np.uint16)
        return np.ascontiguousarray(numbers.T).view(np.uint8).reshape(-1)
    if type_ != "Q8_0":
        return code_panel(type_, rows, cols)
    out = np.zeros((cols // 32, 272), np.uint8)
    for r, raw in enumerate(rows):
        blocks = raw.reshape(-1, 34)
        out[:, 2 * r : 2 * r + 2] = blocks[:, :2]
        for c in range(32):
            out[:, 16 + c // 2 * 16 + r * 2 + c % 2] = blocks[:, 2 + c]
    return out.reshape(-1)


def reference(type_: str, data: Bytes, rows: int, cols: int, widened: bool = False) -> list[Bytes]:
    """All panels of a matrix."""
    each = data.reshape(rows, -1)
    return [panel(type_, list(each[i : i + ROWS]), cols, widened) for i in range(0, rows, ROWS)]


def same(got: bytes, wanted: list[Bytes], last_rows: int = ROWS) -> bool:
    """Whether all bytes agree; rows that are not there may be anything that multiplies to zero."""
    if last_rows == ROWS:
        return got == b"".join(p.tobytes() for p in wanted)
    whole = sum(p.size for p in wanted[:-1])
    return len(got) == whole + wanted[-1].size and got[:whole] == b"".join(p.tobytes() for p in wanted[:-1])


@pytest.mark.parametrize("type_", sorted(TYPES))
@pytest.mark.parametrize("threads", [1, 3])
def test_panels_are_what_the_layout_says(type_: str, threads: int) -> None:
    unit = TYPES[type_].block_values
    for rows, cols in ((8, 256), (40, 512), (3, 256), (17, 768), (16, unit if unit > 1 else 27), (800, 256)):
        data = matrix(type_, rows, cols, seed=rows)
        got = panels([item(type_, rows, cols, data)], interleave=False, count=1, threads=threads)
        assert same(got, reference(type_, data, rows, cols), rows % ROWS or ROWS), (rows, cols)


@pytest.mark.parametrize("type_", sorted(TYPES))
def test_all_experts_at_once_are_one_after_the_other(type_: str) -> None:
    """Gate and up alternate by panels; sources without `interleave` follow each other."""
    count, rows, cols = 5, 16, 256
    gate, up = (matrix(type_, count * rows, cols, seed) for seed in (1, 2))
    got = panels([item(type_, rows, cols, gate), item(type_, rows, cols, up)], interleave=True, count=count, threads=2)
    pairs = zip(reference(type_, gate, count * rows, cols), reference(type_, up, count * rows, cols), strict=True)
    assert same(got, list(itertools.chain.from_iterable(pairs)))
    got = panels([item(type_, rows, cols, gate), item(type_, 2 * rows, cols, np.tile(up, 2))], False, count, 2)
    one, two = gate.reshape(count, -1), np.tile(up, 2).reshape(count, -1)
    wanted = [reference(type_, one[e], rows, cols) + reference(type_, two[e], 2 * rows, cols) for e in range(count)]
    assert same(got, list(itertools.chain.from_iterable(wanted)))


@pytest.mark.parametrize("type_", ["Q4_0", "Q5_0", "Q4_K", "Q5_K"])
def test_products_of_scales_that_no_half_holds_are_widened(type_: str) -> None:
    """One such block anywhere, in the last row of the last expert say, makes all of them floats."""
    data = matrix(type_, 32, 256)
    blocks = data.reshape(-1, 18 if type_ == "Q4_0" else 22 if type_ == "Q5_0" else 144 if type_ == "Q4_K" else 176)
    blocks[-1, :2] = np.array([60000], np.float16).view(np.uint8)
    if type_.endswith("K"):
        blocks[-1, 4:16] = 255
    got = panels([item(type_, 16, 256, data)], interleave=False, count=2, threads=2)
    assert same(got, reference(type_, data, 32, 256, widened=True))


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 6e-5, 1.0, 4000.0])
@pytest.mark.parametrize("type_", ["Q4_0", "Q5_0"])
def test_minima_of_every_size_of_scale(type_: str, scale: float) -> None:
    """Subnormal scales too."""
    data = matrix(type_, 16, 256, scale=scale)
    got = panels([item(type_, 16, 256, data)], interleave=False, count=1, threads=1)
    assert same(got, reference(type_, data, 16, 256))


def test_types_that_are_read_together_become_floats() -> None:
    a, b = matrix("Q8_0", 8, 256), matrix("F16", 8, 256)
    got = panels([item("Q8_0", 8, 256, a), item("F16", 8, 256, b)], interleave=True, count=1, threads=2)
    assert same(got, reference("Q8_0", a, 8, 256, widened=True) + reference("F16", b, 8, 256, widened=True))


def test_what_cannot_be_packed_is_refused() -> None:
    data = matrix("F16", 8, 256)
    with pytest.raises(ValueError, match="shape needs others"):
        panels([item("F16", 9, 256, data)], False, 1, 1)
    with pytest.raises(ValueError, match="shape needs others"):
        panels([item("F16", 8, 256, data)], False, 2, 1)
    with pytest.raises(ValueError, match="equally wide"):
        panels([item("F16", 8, 256, data), item("F16", 8, 128, data[: data.size // 2])], False, 1, 1)
    with pytest.raises(ValueError, match="equally high"):
        panels([item("F16", 8, 256, data), item("F16", 4, 256, data[: data.size // 2])], True, 1, 1)
    with pytest.raises(ValueError, match="no matrix"):
        panels([], False, 1, 1)
