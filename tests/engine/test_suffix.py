"""The suffix trie against a table of all strings: counts, drafts, removal."""

from __future__ import annotations

import ctypes
import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openarctic.engine.suffix import SuffixTree
from tests.engine import suffix_reference

TOKENS = st.integers(0, 2)
ACTIONS = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.lists(TOKENS, min_size=1, max_size=12))), min_size=1, max_size=14
)


def check(tree: SuffixTree, texts: dict[int, list[int]], depth: int) -> None:
    """Every count and every text's draft is the reference's."""
    counts = suffix_reference.count_strings(texts.values(), depth)
    for size in range(1, min(depth, 4) + 1):
        for string in itertools.product(range(3), repeat=size):
            assert tree.count(string) == counts[string]
    for string, count in counts.items():
        assert tree.count(string) == count
    for text_id, text in texts.items():
        for limit, alpha, offset, floor in [(16, 1.0, 0.0, 0.1), (3, 2.0, -1.0, 0.3), (5, 0.5, 2.0, 0.0)]:
            draft = tree.draft(text_id, limit, alpha, offset, floor)
            assert tuple(draft) == suffix_reference.draft(counts, text, depth, limit, alpha, offset, floor)


@settings(max_examples=300, deadline=None)
@given(depth=st.integers(1, 9), actions=ACTIONS)
@example(depth=5, actions=[(0, [1, 0, 1, 1, 1, 0, 1, 1, 1, 1])])  # two drafts of the same score, up to how sums are rounded
def test_counts_and_drafts_are_the_reference_s(depth: int, actions: list[tuple[int, list[int] | None]]) -> None:
    """Texts that grow in turns and are removed, in any order."""
    tree, texts = SuffixTree(depth), dict[int, list[int]]()
    for text_id, tokens in actions:
        if tokens is None:
            tree.remove(text_id)
            texts.pop(text_id, None)
        else:
            tree.append(text_id, tokens)
            texts.setdefault(text_id, []).extend(tokens)
        check(tree, texts, depth)
    for text_id in texts:
        tree.remove(text_id)
    assert tree.num_nodes == 0 and tree.num_bytes == 0


class MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]  # [4] hblkhd, [7] uordblks


def allocated_bytes() -> int:
    """What is allocated of glibc's heap, and outside of it."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return int(info.field7 + info.field4)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize("vocab", [5, 30_000])
def test_the_bytes_that_are_told_are_those_that_are_taken(vocab: int) -> None:
    """Within a tenth; and removing gives back what was told."""
    rng, tree = random.Random(0), SuffixTree()
    texts = [rng.choices(range(vocab), k=100) for _ in range(3000)]
    before = allocated_bytes()
    for i, text in enumerate(texts):
        tree.append(i, text)
    assert 10e6 < tree.num_bytes == pytest.approx(allocated_bytes() - before, rel=0.1)
    for i in range(2000):
        tree.remove(i)
    assert tree.num_bytes == pytest.approx(allocated_bytes() - before, rel=0.1)
    rest = SuffixTree()
    for i in range(2000, 3000):
        rest.append(i, texts[i])
    assert tree.num_nodes == pytest.approx(rest.num_nodes, rel=0.01) and tree.num_bytes == pytest.approx(rest.num_bytes, rel=0.15)


def test_a_trie_needs_a_depth() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SuffixTree(0)
