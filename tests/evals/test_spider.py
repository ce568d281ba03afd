"""Comparison of results and classes of hardness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openarctic.errors import UserError
from openarctic.evals.spider import hardness, is_ordered, read_questions, same_result


def test_rows_are_a_multiset_unless_gold_orders() -> None:
    assert same_result("SELECT a FROM t", [(1,), (2,), (2,)], [(2,), (1,), (2,)])
    assert not same_result("SELECT a FROM t", [(1,), (2,), (2,)], [(1,), (2,)])
    assert not same_result("SELECT a FROM t ORDER BY a", [(1,), (2,)], [(2,), (1,)])


def test_numbers_are_equal_across_types_and_null_equals_null() -> None:
    assert same_result("SELECT a FROM t", [(1, None), (0.33333333, "x")], [(1.0, None), (1 / 3, "x")])
    assert not same_result("SELECT a FROM t", [(None,)], [(0,)])


def test_columns_in_any_order() -> None:
    gold = [(1, "a", None), (2, "b", 1), (2, "a", 2)]

    def same(rows: list[tuple[object, ...]], sql: str = "SELECT * FROM t") -> bool:
        return same_result(sql, gold, rows, any_order=True)

    turned = [(None, 1, "a"), (1, 2, "b"), (2, 2, "a")]
    assert same(turned) and same(turned[::-1]) and not same_result("SELECT * FROM t", gold, turned)
    assert not same(turned[::-1], "SELECT * FROM t ORDER BY 1")
    assert not same([(None, 2, "a"), (1, 2, "b"), (2, 1, "a")])  # each column has the values, no row has them together
    assert not same([row[:2] for row in turned]) and not same([]) and not same([(*row, 1) for row in turned])
    many = [(0,) * 20 + (i,) for i in range(3)]
    assert same_result("SELECT 1", many, [row[::-1] for row in many], any_order=True)
    assert not same_result("SELECT 1", many, [(*row[:19], 1, row[20]) for row in many], any_order=True)


def test_order_of_a_subquery_does_not_count() -> None:
    assert not is_ordered("SELECT a FROM t WHERE b = (SELECT b FROM t ORDER BY c LIMIT 1)")
    assert is_ordered("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1")


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("SELECT count(*) FROM singer", "easy"),
        ("SELECT name, age FROM singer ORDER BY age DESC", "medium"),
        ("SELECT name FROM t WHERE a NOT IN (SELECT a FROM u)", "hard"),
        ("SELECT a, b FROM t JOIN u ON t.i = u.i WHERE c > 1 AND d < 2 GROUP BY a, b ORDER BY a LIMIT 1", "extra"),
    ],
)
def test_hardness(sql: str, level: str) -> None:
    assert hardness(sql) == level


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "q", "query": "SELECT 1", "db_id": "d"}) + "\n{}\n")
    with pytest.raises(UserError, match="line 2"):
        read_questions(file)
