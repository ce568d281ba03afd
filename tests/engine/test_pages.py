"""Pages: free, held or cached, each exactly once; the longest known prefix; eviction by last use, leaves first; pins."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from openarctic.engine.pages import PagePool, PartialMatch
from openarctic.errors import CapacityError


def filled(pool: PagePool, tokens: Sequence[int], salt: str = "") -> list[int]:
    """A table that computed these tokens: its full pages are known."""
    table = pool.try_allocate(pool.pages_for(len(tokens)))
    assert table is not None
    for index in range(len(tokens) // pool.page_size):
        content = tokens[index * pool.page_size : (index + 1) * pool.page_size]
        table[index] = pool.insert(table[index], content, after=table[index - 1] if index else None, salt=salt)
    return table


def cache(pool: PagePool, tokens: Sequence[int], salt: str = "") -> list[int]:
    """The pages of tokens that were computed by a sequence that has ended."""
    table = filled(pool, tokens, salt)
    pool.release(table)
    pool.check([])
    return table


def counts(pool: PagePool) -> tuple[int, int, int]:
    return pool.free, pool.held, pool.cached


def test_pages_are_free_then_held_then_cached() -> None:
    pool = PagePool(6, 2)
    table = filled(pool, [1, 2, 3, 4, 5])
    pool.check([table])
    assert counts(pool) == (3, 3, 0)
    pool.hold(table[:2])
    pool.release(table)
    pool.check([table[:2]])
    assert counts(pool) == (4, 2, 0)
    pool.release(table[:2])
    pool.check([])
    assert counts(pool) == (4, 0, 2) and pool.available == 6


def test_all_pages_or_none_are_allocated() -> None:
    pool = PagePool(3, 2)
    table = pool.try_allocate(2)
    assert table is not None and pool.try_allocate(2) is None
    pool.check([table])
    assert pool.try_allocate(0) == []


@pytest.mark.parametrize(("count", "size"), [(0, 4), (4, 0)])
def test_a_pool_has_pages(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="pages"):
        PagePool(count, size)


def test_the_longest_known_prefix_is_found() -> None:
    pool = PagePool(10, 2)
    table = cache(pool, [1, 2, 3, 4, 5, 6])
    assert pool.match([1, 2, 3, 4, 9, 9]).pages == table[:2]
    assert pool.match([1, 2, 3, 4, 5, 6, 7]).pages == table
    assert pool.match([9, 2, 3, 4]).pages == []
    assert pool.match([1, 2, 3, 4, 5, 6, 7], limit=4).pages == table[:2]
    assert pool.match([1, 2, 3, 4, 5, 6, 7], table=table[:1]).pages == table[1:]


def test_the_last_token_is_left_to_compute() -> None:
    pool = PagePool(10, 4)
    table = cache(pool, [1, 2, 3, 4, 5, 6, 7, 8])
    match = pool.match([1, 2, 3, 4, 5, 6, 7, 8])
    assert match.pages == table[:1] and match.partial == PartialMatch(table[1], 3)
    assert pool.match([1]).pages == [] and pool.match([1]).partial is None


def test_a_part_of_a_page_is_found_among_siblings() -> None:
    pool = PagePool(20, 4)
    for tokens in ([5, 5, 5, 1], [5, 6, 1, 1], [5, 6, 7, 0], [7, 0, 0, 0]):
        cache(pool, [1, 2, 3, 4, *tokens])
    best = cache(pool, [1, 2, 3, 4, 5, 6, 7, 8])
    match = pool.match([1, 2, 3, 4, 5, 6, 7, 9, 9])
    assert match.pages == best[:1] and match.partial is not None and match.partial.num_tokens == 3
    match = pool.match([1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert match.partial is not None and match.partial.num_tokens == 3
    assert pool.match([1, 2, 3, 4, 6, 6, 6, 6, 6]).partial is None


@pytest.mark.parametrize("seed", range(30))
def test_the_search_finds_what_comparing_with_everything_finds(seed: int) -> None:
    rng = random.Random(seed)
    pool = PagePool(200, 3)
    texts = [[rng.randrange(3) for _ in range(rng.randint(1, 12))] for _ in range(20)]
    for text in texts:
        cache(pool, text)
    full = [text[: len(text) // 3 * 3] for text in texts]
    for _ in range(30):
        prompt = [rng.randrange(3) for _ in range(rng.randint(1, 14))]
        match = pool.match(prompt)
        longest = max(n for n in range(len(prompt)) for text in full if prompt[:n] == text[:n])
        assert 3 * len(match.pages) + (match.partial.num_tokens if match.partial else 0) == longest


def test_tenants_see_only_their_own_salt() -> None:
    pool = PagePool(10, 2)
    mine, theirs = cache(pool, [1, 2, 3], "mine"), cache(pool, [1, 2, 3], "theirs")
    assert mine[0] != theirs[0]
    assert pool.match([1, 2, 3], "mine").pages == mine[:1] and pool.match([1, 2, 3], "theirs").pages == theirs[:1]
    assert pool.match([1, 2, 3]).pages == [] and pool.match([1, 2, 3]).partial is None


def test_a_page_that_is_known_already_replaces_its_copy() -> None:
    pool = PagePool(10, 2)
    first, second = filled(pool, [1, 2, 3, 4, 5]), filled(pool, [1, 2, 3, 4, 6])
    pool.check([first, second])
    assert first[:2] == second[:2] and pool.num_holders(first[0]) == 2
    assert counts(pool) == (6, 4, 0)


def test_the_least_recently_used_leaf_is_evicted_first() -> None:
    pool = PagePool(6, 1, max_pinned=0)
    old = cache(pool, [1, 2])
    new = cache(pool, [1, 3])
    other = cache(pool, [4])
    assert new[0] == old[0]
    again = pool.match([1, 2, 9]).pages
    pool.hold(again)
    pool.release(again)  # [1, 2] is now the most recently used
    taken = pool.try_allocate(pool.free) or []
    order = []
    while pool.cached:
        before = {page for page in range(pool.count) if pool.is_known(page)}
        taken += pool.try_allocate(1) or []
        order += before - {page for page in range(pool.count) if pool.is_known(page)}
        pool.check([taken])
    assert order == [new[1], other[0], old[1], old[0]]
    assert pool.evictions == 4 and pool.try_allocate(1) is None


def test_touching_a_page_keeps_it_longer() -> None:
    pool = PagePool(3, 2)
    first, second = cache(pool, [1, 2]), cache(pool, [3, 4])
    pool.touch(first[0])
    table = pool.try_allocate(2) or []
    pool.check([table])
    assert pool.is_known(first[0]) and not pool.is_known(second[0])


def test_held_pages_are_not_evicted() -> None:
    pool = PagePool(4, 2)
    table = filled(pool, [1, 2, 3, 4])
    assert pool.available == 2 and pool.try_allocate(3) is None
    pool.check([table])


def test_pinned_pages_are_not_evicted_until_unpinned() -> None:
    pool = PagePool(6, 2, max_pinned=3)
    table = cache(pool, [1, 2, 3, 4])
    cache(pool, [5, 6])
    pin = pool.pin([1, 2, 3, 4])
    assert pin.pages == table and pool.pinned == 2 and pool.available == 4
    taken = pool.try_allocate(4) or []
    assert pool.try_allocate(1) is None
    pool.check([taken])
    pool.release(taken)
    assert pool.match([1, 2, 3, 4, 5]).pages == table
    pool.unpin(pin)
    pool.unpin(pin)  # once more does nothing
    pool.check([])
    assert len(pool.try_allocate(6) or []) == 6 and pool.pinned == 0


def test_pinned_and_held_pages() -> None:
    pool = PagePool(4, 2, max_pinned=2)
    table = filled(pool, [1, 2, 3, 4])
    first, second = pool.pin([1, 2, 3]), pool.pin([1, 2, 3, 4])
    pool.release(table)
    pool.check([])
    pool.unpin(second)
    assert pool.available == 3
    pool.unpin(first)
    pool.check([])
    assert pool.available == 4


def test_pins_have_a_bound() -> None:
    pool = PagePool(8, 2)  # a quarter: 2
    cache(pool, [1, 2, 3, 4, 5, 6])
    with pytest.raises(CapacityError, match=r"3 pages would be pinned, the limit is 2"):
        pool.pin([1, 2, 3, 4, 5, 6])
    assert pool.pinned == 0
    pins = [pool.pin([1, 2, 3, 4]), pool.pin([1, 2])]  # the same pages count once
    assert pool.pinned == 2
    assert pool.try_break_pin() and pins[0].is_broken and not pins[1].is_broken and pool.pinned == 1
    assert pool.try_break_pin() and not pool.try_break_pin()
    pool.check([])


def test_the_check_sees_a_wrong_table() -> None:
    pool = PagePool(4, 2)
    table = filled(pool, [1, 2, 3])
    with pytest.raises(AssertionError, match="holders"):
        pool.check([])
    with pytest.raises(AssertionError, match="holders"):
        pool.check([table, table[:1]])
