"""Several candidates, one answer: those that ran vote by their result.

Each distinct statement is one `Candidate`. Candidates whose results are equal form a `Group`; the group with the greatest weight
wins, and its share of all weight is the agreement. A candidate's weight is what a `Scorer` finds it worth; without one it is the
model's own probability of it, or, where the model gives none, how often the model wrote it. Models that write long and different
statements seldom agree to the cell: `is_medoid` lets each candidate support the others as far as their results are alike, and
the one that has the most support wins (the medoid).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openarctic.copilot.execute import Result
from openarctic.copilot.guard import Checked

EMPTY_WEIGHT = 0.5  # a query without rows is more often wrong than one with rows


@dataclass(slots=True)
class Candidate:
    """A statement that may run: how probable the model found its most probable spelling (natural log, summed over `tokens`
    tokens; 0 tokens: unknown), `times` the model came to it, and what it returned. `is_first`: the greedy text came to it;
    `is_variant`: no text did, it was made of one that did (`variants.py`), from `short_sql`, the short form.
    `asked_logprob`: how probable the model finds it that the question is asked for this statement (natural log, of a token),
    where it was trained to say so. `features` and `score` are filled in by a scorer (`copilot/confidence.py`)."""

    checked: Checked
    logprob: float
    tokens: int = 0
    times: int = 1
    is_first: bool = False
    is_variant: bool = False
    short_sql: str = ""
    result: Result | None = None
    asked_logprob: float | None = None
    features: dict[str, float] = field(default_factory=dict)
    score: float = 0.0

    @property
    def sql(self) -> str:
        """As it is shown."""
        return self.checked.shown


@dataclass(slots=True)
class Group:
    """Candidates of one result, best first, and their weight together."""

    candidates: list[Candidate]
    weight: float

    @property
    def best(self) -> Candidate:
        """The candidate that stands for the group."""
        return self.candidates[0]

    @property
    def sql(self) -> str:
        """Of the best candidate."""
        return self.best.sql

    @property
    def result(self) -> Result | None:
        """Theirs all."""
        return self.best.result


@dataclass(slots=True)
class Election:
    """`groups` from the one that won to the one with the least weight. `share` is the winner's part of all weight. `confidence`
    is the probability that the winner is right, where `is_calibrated`; else it is a score in [0, 1] that only orders."""

    groups: list[Group]
    share: float
    confidence: float = 0.0
    is_calibrated: bool = False

    @property
    def winner(self) -> Candidate:
        """The best candidate of the group that won."""
        return self.groups[0].best


# Gives every candidate its weight; it may see them all.
Weigh = Callable[[Sequence[Candidate]], Sequence[float]]


def elect(candidates: Sequence[Candidate], weigh: Weigh | None = None, is_medoid: bool = False) -> Election:
    """The result that most speaks for. Candidates that did not run (`result` None) stand alone. Raises ValueError without any."""
    if not candidates:
        raise ValueError("nobody to elect")
    weights = list((weigh or own_weights)(candidates))
    groups = grouped(candidates, weights)
    if is_medoid and len(groups) > 1:
        for group, support in zip(groups, _support(groups), strict=True):
            group.weight = support
    groups.sort(key=lambda group: -group.weight)
    total = sum(group.weight for group in groups)
    return Election(groups, groups[0].weight / total if total else 1 / len(groups))


def own_weights(candidates: Sequence[Candidate]) -> list[float]:
    """The model's probabilities, or where it gives none how often it wrote each; without rows half of it."""
    knows = any(c.logprob for c in candidates)
    own = [math.exp(c.logprob) if knows else float(c.times) for c in candidates]
    return [w * (EMPTY_WEIGHT if c.result is not None and not c.result.rows else 1) for w, c in zip(own, candidates, strict=True)]


def grouped(candidates: Sequence[Candidate], weights: Sequence[float]) -> list[Group]:
    """One group for each distinct result, in the order of their first candidates; inside, the weightiest first."""
    members: dict[Hashable, list[tuple[float, Candidate]]] = {}
    for candidate, weight in zip(candidates, weights, strict=True):
        key = candidate.sql if candidate.result is None else result_key(candidate.result.rows)
        members.setdefault(key, []).append((weight, candidate))
    return [
        Group([c for _, c in sorted(found, key=lambda m: (-m[0], -m[1].logprob))], sum(w for w, _ in found))
        for found in members.values()
    ]


def _support(groups: Sequence[Group]) -> list[float]:
    """Each group's weight, and that of every other as far as their results are alike."""
    results = [group.result for group in groups]
    likeness = [
        [1.0 if i == j else 0.0 if a is None or b is None else similarity(a.rows, b.rows) for j, b in enumerate(results)]
        for i, a in enumerate(results)
    ]
    return [sum(like * group.weight for like, group in zip(row, groups, strict=True)) for row in likeness]


def similarity(left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> float:
    """How alike two results are, in [0, 1], whatever the order of rows and columns.

    Columns are paired, the most alike first; two are alike as far as they hold the same values the same number of times (common
    values over the larger count). The mean is over the columns of the wider result. Equal results give 1, and only results
    without rows are like each other.
    """
    if not left or not right:
        return float(not left and not right)
    mine = [Counter(map(_cell, column)) for column in zip(*left, strict=True)]
    its = [Counter(map(_cell, column)) for column in zip(*right, strict=True)]
    pairs = sorted((-(a & b).total(), i, j) for i, a in enumerate(mine) for j, b in enumerate(its))
    free_mine, free_its, common = set(range(len(mine))), set(range(len(its))), 0
    for overlap, i, j in pairs:
        if i in free_mine and j in free_its:
            free_mine.remove(i)
            free_its.remove(j)
            common -= overlap
    return common / max(len(left), len(right)) / max(len(mine), len(its))


def result_key(rows: Iterable[Sequence[Any]]) -> Hashable:
    """Equal for equal multisets of rows; floats are rounded to 4 places, so that sums in another order agree."""
    return frozenset(Counter(tuple(_cell(v) for v in row) for row in rows).items())


def _cell(value: Any) -> Hashable:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, Hashable) else repr(value)
    return round(float(value), 4)
