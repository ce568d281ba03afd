"""Votes are by result and weighted by probability; sentences say only what the rows say."""

from __future__ import annotations

import math

import pytest

from openarctic.copilot.execute import Result
from openarctic.copilot.vote import Ballot, elect, result_key


def ballot(sql: str, probability: float, *rows: tuple[object, ...]) -> Ballot:
    return Ballot(sql, math.log(probability), Result(["a"], list(rows), False, 0.0))


def test_results_are_elected_not_statements() -> None:
    winner, share = elect([ballot("a", 0.4, (1,)), ballot("b", 0.3, (2,)), ballot("c", 0.25, (2.0,))])
    assert winner.sql == "b"
    assert share == pytest.approx(0.55 / 0.95)


def test_an_empty_result_counts_half() -> None:
    assert elect([ballot("empty", 0.5), ballot("full", 0.3, (1,))])[0].sql == "full"
    assert elect([ballot("empty", 0.7), ballot("full", 0.3, (1,))])[0].sql == "empty"


def test_order_and_rounding_do_not_split_votes() -> None:
    assert result_key([(1, "a"), (0.1 + 0.2, None)]) == result_key([(0.3, None), (1.0, "a")])
    assert result_key([(1,), (1,)]) != result_key([(1,)])
    assert result_key([([1, 2],)]) == result_key([([1, 2],)])
