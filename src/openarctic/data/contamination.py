"""Training documents that contain evaluation texts, found by shared runs of 13 words.

The rule is that of GPT-3 (Brown et al. 2020, appendix C): lower case, words without punctuation, and a document is contaminated
when it shares a run of N = 13 words with an evaluation text. Here a word is a run of letters and digits. A text of fewer than N
words is found where it is a whole document, and not inside of one; how many there are is told (GPT-3 went down to 8 words for
sets of short texts: use `words=8`). Runs that are frequent in the training data are not forgiven, as GPT-3's were.

Memory holds the evaluation texts' runs, 64 bytes each, and one document. Words are numbered by the evaluations' vocabulary; a
document's runs are looked up by 24 bits of a hash, which nearly all of them fail, then by all 64, and then word by word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from openarctic.data.documents import Document
from openarctic.errors import UserError

WORDS = 13
_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LIKELY_BITS = 24
_LIKELY_SHIFT = np.uint64(64 - _LIKELY_BITS)


class Item(NamedTuple):
    """An evaluation text."""

    evaluation: str
    line: int  # or row


@dataclass(frozen=True, slots=True)
class Finding:
    """A contaminated document: how many runs it shares with each evaluation text."""

    source: str
    index: int
    overlaps: dict[Item, int]


@dataclass(slots=True)
class Coverage:
    """How an evaluation fares. Texts are counted once, however often they are found."""

    texts: int = 0
    too_short: int = 0  # to be found inside of a document
    found: set[int] = field(default_factory=set)


def normalised_words(text: str) -> list[str]:
    """What is compared: lower-case runs of letters and digits."""
    return _WORD.findall(text.lower())


class ContaminationCheck:
    """Looks for the texts of evaluations (name -> texts). `evaluations` tells how each fares.

    Raises UserError for runs of fewer than two words, or when no text has a word.
    """

    def __init__(self, evaluations: Mapping[str, Iterable[Document]], words: int = WORDS) -> None:
        if words < 2:
            raise UserError(f"runs of {words} words say nothing", "13 is the usual number, 8 for short texts")
        self.words = words
        self.evaluations = {name: Coverage() for name in evaluations}
        self._numbers: dict[str, int] = {}  # of words, from 1
        self._items: list[Item] = []
        self._short: dict[tuple[str, ...], list[int]] = {}  # texts of fewer words than a run, and which items they are
        self._table = self._build(evaluations)

    def check(self, document: Document) -> Finding | None:
        """What the document shares with the evaluation texts; None for nothing."""
        owners = self._look_up(document.text)
        if not owners:
            return None
        overlaps = {self._items[owner]: count for owner, count in owners.items()}
        for item in overlaps:
            self.evaluations[item.evaluation].found.add(item.line)
        return Finding(document.source, document.index, overlaps)

    def _look_up(self, text: str) -> Counter[int]:
        words = normalised_words(text)
        if len(words) < self.words:
            return Counter(self._short.get(tuple(words), ()))
        numbers = np.fromiter(map(self._numbers.get, words, repeat(0)), np.int32, len(words))
        found: Counter[int] = Counter()
        hashes = _hash(numbers, self.words)
        places = np.flatnonzero(self._table.is_likely[hashes >> _LIKELY_SHIFT])
        rows = np.minimum(np.searchsorted(self._table.hashes, hashes[places]), len(self._table.hashes) - 1)
        is_there = self._table.hashes[rows] == hashes[places]
        for place, row in zip(places[is_there].tolist(), rows[is_there].tolist(), strict=True):
            while row < len(self._table.hashes) and self._table.hashes[row] == hashes[place]:
                if np.array_equal(self._table.runs[row], numbers[place : place + self.words]):
                    found[int(self._table.owners[row])] += 1
                row += 1
        return found

    def _build(self, evaluations: Mapping[str, Iterable[Document]]) -> _Table:
        all_runs, all_hashes = [np.zeros((0, self.words), np.int32)], [np.zeros(0, np.uint64)]
        all_owners = [np.zeros(0, np.int32)]
        for name, documents in evaluations.items():
            coverage = self.evaluations[name]
            for document in documents:
                coverage.texts += 1
                words = normalised_words(document.text)
                self._items.append(Item(name, document.index))
                if len(words) < self.words:
                    coverage.too_short += 1
                    if words:
                        self._short.setdefault(tuple(words), []).append(len(self._items) - 1)
                    continue
                numbers = np.array([self._numbers.setdefault(word, len(self._numbers) + 1) for word in words], np.int32)
                all_runs.append(sliding_window_view(numbers, self.words))
                all_hashes.append(_hash(numbers, self.words))
                all_owners.append(np.full(len(all_runs[-1]), len(self._items) - 1, np.int32))
        if not self._numbers and not self._short:
            raise UserError(
                f"no evaluation text has a word: {', '.join(evaluations) or 'none were given'}", "check files and fields"
            )
        runs, hashes, owners = np.concatenate(all_runs), np.concatenate(all_hashes), np.concatenate(all_owners)
        order = np.argsort(hashes, kind="stable")
        is_likely = np.zeros(1 << _LIKELY_BITS, np.bool_)
        is_likely[hashes >> _LIKELY_SHIFT] = True
        return _Table(hashes[order], runs[order], owners[order], is_likely)


class _Table(NamedTuple):
    """Runs [G, N] in the order of their hashes [G], the item that each is from [G], and which high bits a hash of theirs has."""

    hashes: NDArray[np.uint64]
    runs: NDArray[np.int32]
    owners: NDArray[np.int32]
    is_likely: NDArray[np.bool_]


def _hash(numbers: NDArray[np.int32], words: int) -> NDArray[np.uint64]:
    """A polynomial of each run of `words` numbers, modulo 2^64."""
    wide = numbers.astype(np.uint64)
    count = len(wide) - words + 1
    values = np.zeros(count, np.uint64)
    for offset in range(words):
        values *= _BASE
        values += wide[offset : offset + count]
    return values


def reference_overlaps(texts: Sequence[str], document: str, words: int = WORDS) -> Counter[int]:
    """The plain form of the check: how often runs of each text stand in the document, or whether a short text is the document."""
    own = normalised_words(document)
    in_document = Counter(tuple(own[i : i + words]) for i in range(len(own) - words + 1))
    found: Counter[int] = Counter()
    for number, text in enumerate(texts):
        known = normalised_words(text)
        if known and len(known) < words:
            found[number] = int(own == known)
        for i in range(len(known) - words + 1):
            found[number] += in_document[tuple(known[i : i + words])]
    return +found
