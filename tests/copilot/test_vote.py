"""Votes are by result; the weight is the model's probability, how often it wrote a statement, or a scorer's."""

from __future__ import annotations

import math
import random

import pytest

from openarctic.copilot.execute import Result
from openarctic.copilot.guard import Checked
from openarctic.copilot.vote import Candidate, elect, result_key, similarity


def candidate(sql: str, probability: float, *rows: tuple[object, ...], times: int = 1) -> Candidate:
    return Candidate(Checked(sql, (), ()), math.log(probability), times=times, result=Result(["a"], list(rows), False, 0.0))


def test_results_are_elected_not_statements() -> None:
    election = elect([candidate("a", 0.4, (1,)), candidate("b", 0.3, (2,)), candidate("c", 0.25, (2.0,))])
    assert election.winner.sql == "b"
    assert election.share == pytest.approx(0.55 / 0.95)
    assert [[c.sql for c in group.candidates] for group in election.groups] == [["b", "c"], ["a"]]
    assert [group.weight for group in election.groups] == pytest.approx([0.55, 0.4])


def test_an_empty_result_counts_half() -> None:
    assert elect([candidate("empty", 0.5), candidate("full", 0.3, (1,))]).winner.sql == "full"
    assert elect([candidate("empty", 0.7), candidate("full", 0.3, (1,))]).winner.sql == "empty"


def test_without_probabilities_the_number_of_times_counts() -> None:
    election = elect([candidate("a", 1.0, (1,), times=2), candidate("b", 1.0, (2,), times=3)])
    assert election.winner.sql == "b" and election.share == pytest.approx(0.6)


def test_a_scorer_weighs_them() -> None:
    found = [candidate("a", 0.9, (1,)), candidate("b", 0.1, (2,)), candidate("c", 0.1, (2,))]
    election = elect(found, lambda all: [0.5 if c.sql == "a" else 0.3 for c in all])
    assert election.winner.sql == "b" and election.groups[0].weight == pytest.approx(0.6)


def test_what_did_not_run_stands_alone() -> None:
    first, second = candidate("a", 0.4), candidate("b", 0.5)
    first.result = second.result = None
    assert elect([first, second]).winner.sql == "b" and len(elect([first, second]).groups) == 2
    with pytest.raises(ValueError, match="nobody"):
        elect([])


def test_the_medoid_wins_where_results_are_near_but_not_equal() -> None:
    """Three variants of one list, and two that agree on something else: equality elects the two, likeness the middle one."""
    names = [("ann",), ("bob",), ("cid",), ("dan",)]
    near = [candidate("all", 0.2, *names), candidate("less", 0.2, *names[:3]), candidate("ids", 0.2, *((n, 1) for (n,) in names))]
    other = [candidate("x", 0.15, ("zoe",)), candidate("y", 0.15, ("zoe",))]
    assert elect([*near, *other]).winner.sql == "x"
    election = elect([*near, *other], is_medoid=True)
    assert election.winner.sql == "all"
    # By hand: 1 for itself, 3 of 4 names of the shorter list, one of two columns of the wider.
    assert election.groups[0].weight == pytest.approx(0.2 * (1 + 0.75 + 0.5))


def test_likeness_is_one_for_equal_results_whatever_the_order() -> None:
    draw = random.Random(0)
    results = [[tuple(draw.choice("abc") for _ in range(2)) for _ in range(draw.randint(1, 4))] for _ in range(30)]
    for left in results:
        assert similarity(left, left[::-1]) == 1
        for right in results:
            assert 0 <= similarity(left, right) <= 1
            if result_key(left) == result_key(right):
                assert similarity(left, right) == 1
    # Columns in another order; two of three rows, one of two columns.
    assert similarity([(1, "a"), (2, "b")], [("b", 2), ("a", 1)]) == 1
    assert similarity([(1, "a"), (2, "b"), (3, "c")], [(1,), (2,)]) == pytest.approx(2 / 3 / 2)
    assert similarity([], []) == 1 and similarity([], [(1,)]) == 0


def test_order_and_rounding_do_not_split_votes() -> None:
    assert result_key([(1, "a"), (0.1 + 0.2, None)]) == result_key([(0.3, None), (1.0, "a")])
    assert result_key([(1,), (1,)]) != result_key([(1,)])
    assert result_key([([1, 2],)]) == result_key([([1, 2],)])
