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
    """`count` directions [K, D] that the vectors gather around (Dhillon and Modha, 2001).

    A group that runs empty begins anew at the vector that fits its own group least.
    """
    x = unit(x_ND)
    found = _spread(x, count, rng)
    for _ in range(iterations):
        similarity = x @ found.T
        member = similarity.argmax(1)
        is_member = member[:, None] == np.arange(count)
        sums = is_member.T.astype(np.float32) @ x
        empty = ~is_member.any(0)
        sums[empty] = x[np.argsort(similarity.max(1))[: empty.sum()]]
        found = unit(sums)
    return found


def _spread(x_ND: F32Array, count: int, rng: np.random.Generator) -> F32Array:
    """Vectors far from each other to begin with: k-means++, at each step the best of a few draws."""
    centers = [x_ND[rng.integers(len(x_ND))]]
    nearest_N = x_ND @ centers[0]
    draws = 2 + int(np.log2(count))
    while len(centers) < count:
        far_N = np.maximum(1 - nearest_N.astype(np.float64), 0)
        drawn = rng.choice(len(x_ND), size=draws, p=far_N / far_N.sum() if far_N.sum() > 0 else None)
        nearer_DN = np.maximum(nearest_N, x_ND[drawn] @ x_ND.T)
        best = int(nearer_DN.sum(1).argmax())
        centers.append(x_ND[drawn[best]])
        nearest_N = nearer_DN[best]
    return np.stack(centers)


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
