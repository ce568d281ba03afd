"""Verified queries: has somebody already found the SQL for this question, or for one very much like it?

An exact match has the same words (`words.normal_words`). A near one has a score, the cosine of the questions' words and pairs of
words, rare ones counting more. Where two questions differ in nothing but values of the same column or in numbers, the match says
so (`changes`), and `adapt.py` finds out whether the SQL can be changed in the same way.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.linking.words import stem
from openarctic.copilot.semantic.model import VerifiedQuery
from openarctic.copilot.semantic.words import find_words, is_number, normal_words

NEAR = 0.6  # the least score of a match
PAIR_SHARE = 0.25  # of the score: pairs of neighbouring words

Links = Callable[[str], Sequence[ValueLink]]


@dataclass(frozen=True, slots=True)
class Change:
    """`old` of the verified question stands where the asked one has `new`; both are in all of `places`.

    `places` are (table, column) as the value links have them, in lower case; none for numbers.
    """

    old: str
    new: str
    places: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Match:
    """A verified query for a question. `changes` is None where the questions differ in more than values."""

    query: VerifiedQuery
    exact: bool
    score: float
    changes: tuple[Change, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    query: VerifiedQuery
    words: tuple[str, ...]
    form: _Form


@dataclass(frozen=True, slots=True)
class _Form:
    """A question with slots for its values and numbers, and what fills them."""

    words: tuple[str, ...]
    fillings: tuple[tuple[str, frozenset[tuple[str, str]]], ...]


class VerifiedQueries:
    """The verified queries of a model. `links` finds the cell values in a question; without it only numbers may differ."""

    def __init__(self, queries: Iterable[VerifiedQuery], links: Links | None = None) -> None:
        self._links = links
        self._known = [_Known(q, words, self._form(q.question, words)) for q in queries if (words := normal_words(q.question))]
        counts = Counter(word for known in self._known for word in _features(known.words))
        self._weights = {word: math.log(1 + len(self._known) / count) for word, count in counts.items()}
        self._unseen = math.log(2 + len(self._known))
        self._vectors = [_parts(self._vector(known.words)) for known in self._known]

    def find(self, question: str) -> Match | None:
        """The latest exact match, else one that differs in values alone, else the nearest with a score of at least `NEAR`."""
        words = normal_words(question)
        same = [known for known in self._known if known.words == words]
        if same:
            return Match(max(same, key=lambda known: known.query.verified_at or 0).query, True, 1.0, ())
        if not words or not self._known:
            return None
        form = self._form(question, words)
        asked = _parts(self._vector(words))
        scored = [
            (self._changes(known.form, form), _score(asked, vector), known)
            for known, vector in zip(self._known, self._vectors, strict=True)
        ]
        changes, score, known = max(scored, key=lambda item: (item[0] is not None, item[1]))
        if changes is None and score < NEAR:
            return None
        return Match(known.query, False, round(score, 4), changes)

    def _form(self, question: str, words: tuple[str, ...]) -> _Form:
        """Longer values first, so that a part of one is not taken for another."""
        slots: dict[int, tuple[int, str, frozenset[tuple[str, str]]]] = {}
        taken: set[int] = set()
        links = self._links(question) if self._links else ()
        for link in sorted(links, key=lambda link: -len(link.value)):
            part = normal_words(link.said or link.value)
            for start in find_words(words, part):
                span = range(start, start + len(part))
                if taken.isdisjoint(span):
                    taken.update(span)
                    slots[start] = (len(part), link.value, frozenset(link.places))
        form: list[str] = []
        fillings: list[tuple[str, frozenset[tuple[str, str]]]] = []
        i = 0
        while i < len(words):
            if i in slots:
                length, value, places = slots[i]
                form.append("<value>")
                fillings.append((value, places))
                i += length
                continue
            form.append("<number>" if is_number(words[i]) else words[i])
            if is_number(words[i]):
                fillings.append((words[i], frozenset()))
            i += 1
        return _Form(tuple(form), tuple(fillings))

    @staticmethod
    def _changes(known: _Form, asked: _Form) -> tuple[Change, ...] | None:
        if known.words != asked.words:
            return None
        changes = []
        for (old, old_places), (new, new_places) in zip(known.fillings, asked.fillings, strict=True):
            shared = old_places & new_places
            if old_places and not shared:
                return None
            if old != new:
                changes.append(Change(old, new, shared))
        return tuple(changes)

    def _vector(self, words: tuple[str, ...]) -> dict[str, float]:
        return {word: count * self._weights.get(word, self._unseen) for word, count in Counter(_features(words)).items()}


def _features(words: Sequence[str]) -> list[str]:
    stems = [stem(word) for word in words]
    return [*stems, *(f"{a} {b}" for a, b in itertools.pairwise(stems))]


_Part = tuple[dict[str, float], float]


def _parts(vector: Mapping[str, float]) -> tuple[_Part, _Part]:
    """Single words and pairs, each with its length."""
    words = {word: weight for word, weight in vector.items() if " " not in word}
    pairs = {word: weight for word, weight in vector.items() if " " in word}
    return (words, _length(words)), (pairs, _length(pairs))


def _length(vector: Mapping[str, float]) -> float:
    return math.sqrt(sum(weight * weight for weight in vector.values()))


def _score(a: tuple[_Part, _Part], b: tuple[_Part, _Part]) -> float:
    words, pairs = (_cosine(mine, its) for mine, its in zip(a, b, strict=True))
    return (1 - PAIR_SHARE) * words + PAIR_SHARE * pairs


def _cosine(a: _Part, b: _Part) -> float:
    length = a[1] * b[1]
    return sum(weight * b[0][word] for word, weight in a[0].items() if word in b[0]) / length if length else 0.0
