"""A counted suffix trie of token texts, limited in depth, that grows a token at a time and drafts what may come next.

A node stands for a string of at most `depth` tokens; its count is how often that string occurs in all texts, occurrences at a
text's end included. The work is done in `native/suffix.cpp`. Two tricks keep it quick:

- a string that occurs once is a leaf: it keeps its place in the text instead of children, and so grows with the text for nothing.
  It is expanded, a level at a time, when it occurs again.
- the strings that end a text and occur elsewhere too are always its suffixes of length 1 to some L, whose nodes every text keeps.
  A new token moves each of them one level down (amortised: a suffix leaves the list as a leaf, or at the depth limit), and they
  are exactly the matches that a draft starts from, so nothing is searched.

Suffix decoding is specified in spec/arctic-family.md section 10.2; tests/engine/suffix_reference.py is the same in a few lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from openarctic.native._suffix import SuffixTree as NativeTree

DEPTH = 64
FLOOR = 0.1  # a draft ends before its probability falls below


class Draft(NamedTuple):
    """Tokens that may follow, and for each the estimated probability that it and all before it are right."""

    tokens: list[int]
    probabilities: list[float]
    match_length: int = 0  # tokens of context that the draft rests on

    @property
    def score(self) -> float:
        """The expected number of accepted tokens, as the trie estimates it."""
        return sum(self.probabilities)


NO_DRAFT = Draft([], [])


class SuffixTree:
    """The trie of several texts; each is named by an id of the caller's."""

    def __init__(self, depth: int = DEPTH) -> None:
        self._tree = NativeTree(depth)

    @property
    def num_nodes(self) -> int:
        """Strings that occur more than once, and one for every place where a text left them."""
        return int(self._tree.num_nodes)

    @property
    def num_bytes(self) -> int:
        """Memory that is allocated."""
        return int(self._tree.num_bytes)

    def __contains__(self, text_id: int) -> bool:
        return text_id in self._tree

    def append(self, text_id: int, tokens: Sequence[int]) -> None:
        """Tokens at the end of a text; the first ones start it."""
        self._tree.append(text_id, tokens)

    def count(self, tokens: Sequence[int]) -> int:
        """How often the string occurs. At most `depth` tokens."""
        return int(self._tree.count(tokens))

    def draft(self, text_id: int, limit: int, alpha: float = 1.0, offset: float = 0.0, floor: float = FLOOR) -> Draft:
        """What may follow the text.

        For every suffix that occurs elsewhere, the most frequent continuation of at most alpha * its length + offset tokens; of
        these the one with the highest score, at equality that of the longer suffix. Equally frequent tokens: the lower one.
        """
        return Draft(*self._tree.draft(text_id, limit, alpha, offset, floor))

    def remove(self, text_id: int) -> None:
        """The trie as if the text had never been there. Texts that are not there are none."""
        self._tree.remove(text_id)
