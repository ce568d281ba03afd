"""Several candidates, one answer: those that ran vote by their result."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from openarctic.copilot.execute import Result

EMPTY_WEIGHT = 0.5  # a query without rows is more often wrong than one with rows


@dataclass(frozen=True, slots=True)
class Ballot:
    """A candidate that ran: how probable the model found it (log), and what it returned."""

    sql: str
    logprob: float
    result: Result


def result_key(rows: Iterable[Sequence[Any]]) -> Hashable:
    """Equal for equal multisets of rows; floats are rounded to 4 places, so that sums in another order agree."""
    return frozenset(Counter(tuple(_cell(v) for v in row) for row in rows).items())


def _cell(value: Any) -> Hashable:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, Hashable) else repr(value)
    return round(float(value), 4)


def elect(ballots: Sequence[Ballot]) -> tuple[Ballot, float]:
    """The most probable ballot of the result with the largest share, and that share in [0, 1].

    Each distinct statement counts once, weighted by its probability per the model. Raises ValueError without ballots.
    """
    weights: dict[Hashable, float] = defaultdict(float)
    best: dict[Hashable, Ballot] = {}
    for ballot in ballots:
        key = result_key(ballot.result.rows)
        weights[key] += math.exp(ballot.logprob) * (1.0 if ballot.result.rows else EMPTY_WEIGHT)
        if key not in best or ballot.logprob > best[key].logprob:
            best[key] = ballot
    winner = max(weights, key=lambda key: weights[key])
    return best[winner], weights[winner] / sum(weights.values())
