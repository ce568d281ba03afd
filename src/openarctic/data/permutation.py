"""A permutation of range(size) that nobody stores: where an index goes is computed from the index, the size and a key.

A balanced Feistel network on the smallest even number of bits that holds `size`; an image outside the range is sent through
again until it falls inside ("cycle walking", Black and Rogaway 2002). So a position of an epoch tells its sequence, whichever
process asks and in whatever order. A network on a few bits favours some orders over others (seen by chi-square for five things),
so up to SMALL things are sorted by drawn numbers instead.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
SMALL = 256
_ROUNDS = 8
_WORD = (1 << 64) - 1


def derive_key(*parts: int | str) -> int:
    """64 bits that depend on all parts and their order: the key of one use of a seed."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 well mixed bits for each value (the finalizer of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniforms(count: int, key: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) that depend on the key alone; they do not change with numpy's version."""
    bits = scramble(np.arange(count, dtype=np.uint64) + np.uint64(key)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def permute(indices_N: Indices, size: int, key: int) -> Indices:
    """Where each index of range(size) goes in the permutation of `key`. Past SMALL, time does not grow with size."""
    if size <= SMALL:
        return np.argsort(uniforms(size, key), kind="stable")[indices_N]
    half, mask = _half(size)
    images = np.asarray(indices_N).astype(np.uint64)
    outside = np.arange(len(images))
    while len(outside):
        left, right = images[outside] >> np.uint64(half), images[outside] & np.uint64(mask)
        for round_key in _round_keys(key):
            left, right = right, left ^ (scramble(right ^ np.uint64(round_key)) & np.uint64(mask))
        images[outside] = (left << np.uint64(half)) | right
        outside = outside[images[outside] >= np.uint64(size)]
    return images.astype(np.int64)


def permute_one(index: int, size: int, key: int) -> int:
    """`permute` for a single index, which it takes a tenth of the time for."""
    if size <= SMALL:
        return int(permute(np.array([index]), size, key)[0])
    half, mask = _half(size)
    round_keys = _round_keys(key)
    while True:
        left, right = index >> half, index & mask
        for round_key in round_keys:
            left, right = right, left ^ (_scramble_one(right ^ round_key) & mask)
        index = (left << half) | right
        if index < size:
            return index


def _half(size: int) -> tuple[int, int]:
    """Bits of half a word of the network, and their mask."""
    half = ((size - 1).bit_length() + 1) // 2
    return half, (1 << half) - 1


def _round_keys(key: int) -> list[int]:
    return [_scramble_one((key + number * 0x9E3779B97F4A7C15) & _WORD) for number in range(1, _ROUNDS + 1)]


def _scramble_one(value: int) -> int:
    """`scramble` of one value."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)
