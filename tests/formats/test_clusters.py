"""Directions that vectors gather around, and groups of one size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.formats.clusters import equal_groups, spherical_kmeans, unit


def test_directions_are_those_that_vectors_were_drawn_around() -> None:
    rng = np.random.default_rng(0)
    wanted = unit(rng.standard_normal((5, 16)).astype(np.float32))
    member = rng.integers(5, size=400)
    vectors = wanted[member] * rng.uniform(0.5, 2, (400, 1)) + 0.1 * rng.standard_normal((400, 16))
    found = spherical_kmeans(vectors.astype(np.float32), 5, np.random.default_rng(1))
    assert (found @ wanted.T).max(0).min() > 0.99
    nearest = (unit(vectors.astype(np.float32)) @ found.T).argmax(1)
    assert all(len(set(nearest[member == k])) == 1 for k in range(5))


def test_more_directions_than_different_vectors_do_not_fail() -> None:
    same = np.ones((8, 4), np.float32)
    assert np.isfinite(spherical_kmeans(same, 3, np.random.default_rng(0))).all()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), groups=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_groups_have_one_size_and_no_vector_twice(count: int, groups: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    similarity = np.random.default_rng(seed).standard_normal((count, groups)).astype(np.float32)
    chosen = equal_groups(similarity, size)
    assert chosen.shape == (groups, size)
    assert all(len(set(group)) == size for group in chosen.tolist())
    if groups * size <= count:
        assert len(set(chosen.reshape(-1).tolist())) == groups * size


def test_a_group_takes_what_is_most_similar() -> None:
    similarity = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.1, 0.5]], np.float32)
    assert equal_groups(similarity, 2).tolist() == [[0, 1], [2, 3]]
    assert equal_groups(similarity, 1).tolist() == [[0], [1]]
