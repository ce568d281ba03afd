"""Votes are by result and weighted by probability; sentences say only what the rows say."""

from __future__ import annotations

import math

import pytest

from openarctic.copilot.answer import answer_sentence
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


@pytest.mark.parametrize(
    ("columns", "rows", "truncated", "sentence"),
    [
        (["n"], [], False, "No rows match."),
        (["n"], [(3,)], False, "The answer is 3."),
        (["n"], [(None,)], False, "The result is empty (NULL)."),
        (["a", "b"], [(1, "x")], False, "One row: a 1, b x."),
        (["a"], [("x",), ("y",)], False, "2 values: x, y."),
        (["a", "b"], [(1, 2), (3, 4)], False, "2 rows; the first is 1, 2."),
        (["a"], [(1,)] * 9, True, "More than 9 rows; the first is 1."),
    ],
)
def test_sentences(columns: list[str], rows: list[tuple[object, ...]], truncated: bool, sentence: str) -> None:
    assert answer_sentence(columns, rows, truncated) == sentence
