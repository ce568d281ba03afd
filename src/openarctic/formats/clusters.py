"""Groups of vectors by direction: spherical k-means, and groups of one size made of it.

N vectors, D their width, K groups, S members of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openarctic.formats.quants import F32Array

Indices = NDArray[np.int64]


def unit(x_ND: F32Array) -> F32Array:
    """Every vector at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.where(lengths > 0, lengths, 1), np.float32)


def spherical_kmeans(x_ND: F32Array, count: int, rng: np.random.Generator, iterations: int = 20) -> F32Array:
    """`count` directions [K, D] that the vectors gather around (Dhillon and Modha, 2001), begun as in k-means++.

    A group that runs empty begins anew at the vector that fits its own group least.
    """
    x = unit(x_ND)
    centers = [x[rng.integers(len(x))]]
    nearest = x @ centers[0]
    while len(centers) < count:
        far = np.maximum(1 - nearest.astype(np.float64), 0)
        share = far / far.sum() if far.sum() > 0 else None
        centers.append(x[rng.choice(len(x), p=share)])
        nearest = np.maximum(nearest, x @ centers[-1])
    found = np.stack(centers)
    for _ in range(iterations):
        similarity = x @ found.T
        member = similarity.argmax(1)
        sums = np.zeros_like(found)
        np.add.at(sums, member, x)
        empty = np.bincount(member, minlength=count) == 0
        sums[empty] = x[np.argsort(similarity.max(1))[: empty.sum()]]
        found = unit(sums)
    return found


def equal_groups(similarity_NK: F32Array, size: int) -> Indices:
    """`size` vectors for every group [K, S], the most similar first; each vector in as few groups as that needs.

    Greedy: the pairs in order of their similarity, as long as the group has room and the vector is not used up. Vectors that
    are left over where they fit no more (a group would hold one twice) are taken regardless of how often they are used.
    """
    count, groups = similarity_NK.shape
    uses = -(-groups * size // count)
    used = np.zeros(count, np.int64)
    chosen: list[list[int]] = [[] for _ in range(groups)]
    unfilled = groups
    for pair in np.argsort(-similarity_NK, axis=None, kind="stable").tolist():
        vector, group = divmod(pair, groups)
        if used[vector] < uses and len(chosen[group]) < size:
            used[vector] += 1
            chosen[group].append(vector)
            unfilled -= len(chosen[group]) == size
            if not unfilled:
                break
    for group, members in enumerate(chosen):
        if len(members) < size:
            own = set(members)
            others = [v for v in np.argsort(-similarity_NK[:, group], kind="stable").tolist() if v not in own]
            members += others[: size - len(members)]
    return np.sort(np.array(chosen, np.int64), axis=1)
