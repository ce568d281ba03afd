from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.data.permutation import SMALL, derive_key, permute, permute_one, uniforms


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_every_index_is_met_once(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 2**64 - 1), st.data())
def test_one_index_goes_where_it_goes_among_all(size: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    together = permute(np.array(indices), size, key).tolist()
    assert [permute_one(index, size, key) for index in indices] == together


def test_permutations_of_five_are_equally_likely() -> None:
    """Chi-square over the 120 orders, 12,000 keys: mean 119, standard deviation 15.4; four of them above is 181."""
    drawn = np.stack([permute(np.arange(5), 5, derive_key("order", key)) for key in range(12_000)])
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(order) for order in orders.tolist()} == set(permutations(range(5)))
    assert ((counts - 100) ** 2 / 100).sum() < 181


def test_the_smallest_network_sends_pairs_everywhere_alike() -> None:
    """Where 0 and 1 go, in sixteenths of the range, over 10,000 keys: 256 cells, mean 255, standard deviation 22.6."""
    size = SMALL + 1
    keys = [derive_key("pair", number) for number in range(10_000)]
    firsts, seconds = ([permute_one(index, size, key) for key in keys] for index in (0, 1))
    counts, _, _ = np.histogram2d(firsts, seconds, bins=16, range=((0, size), (0, size)))
    edges = np.histogram(np.arange(size), 16, (0, size))[0] / size
    expected = np.outer(edges, edges) * 10_000
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 4 * 22.6


def test_keys_depend_on_every_part_and_their_order() -> None:
    parts = [(1, 2), (2, 1), (12,), ("1", 2), (1, 2, 0)]
    assert len({derive_key(*own) for own in parts}) == len(parts)


def test_uniforms_fill_the_interval() -> None:
    drawn = uniforms(10_000, 3)
    assert drawn.min() >= 0 and drawn.max() < 1 and np.histogram(drawn, 10, (0, 1))[0].min() > 850
