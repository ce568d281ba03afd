"""Columns in the order of the question."""

from __future__ import annotations

import pytest

from openarctic.copilot.column_order import in_said_order
from openarctic.copilot.features import Evidence, NameIndex
from openarctic.copilot.schema import Column, Schema, Table

SCHEMA = Schema(
    dialect="sqlite",
    tables=(
        Table(
            name="race", columns=tuple(Column(name=name, type="TEXT") for name in ("race_id", "class", "start_date", "distance"))
        ),
    ),
)
NAMES = NameIndex(SCHEMA)


def ordered(question: str, sql: str) -> str:
    return in_said_order(sql, Evidence(question, NAMES))


@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("What are the start dates and classes of races?", "start_date, class"),
        ("Show class, distance and start date.", "class, distance, start_date"),
        ("What are the classes of races, and how many races does each have?", "class, COUNT(*)"),
    ],
)
def test_in_the_order_of_the_question(question: str, right: str) -> None:
    sql = f"SELECT {right} FROM race"
    assert ordered(question, f"SELECT {', '.join(reversed(right.split(', ')))} FROM race") == sql
    assert ordered(question, sql) == sql


@pytest.mark.parametrize(
    ("question", "columns"),
    [
        ("How many races does each class have?", "class, COUNT(*)"),  # questions like this want either
        ("Show the class and when it starts.", "start_date, class"),  # one is not wholly said
        ("Show the class.", "class, race_id"),
        ("Which races have a distance above 30? Show their class and distance.", "class, distance"),  # said twice
        ("List all races with their class and the date of the race's start", "class, start_date"),  # not in one piece
        ("What are the average and the maximum distance?", "MAX(distance), AVG(distance)"),
        ("The number of races, the number of classes and the class", "class, COUNT(*)"),
        ("Show the class and the distance.", "*"),
        ("Show the class and the distance.", "distance AS d, class, *"),
        ("Show the class and the distance.", "distance"),
    ],
)
def test_what_does_not_tell_it_stays(question: str, columns: str) -> None:
    sql = f"SELECT {columns} FROM race"
    assert ordered(question, sql) == sql


def test_sides_of_a_union_stay() -> None:
    sql = "SELECT distance, class FROM race UNION SELECT distance, class FROM race"
    assert ordered("Show the class and the distance.", sql) == sql


def test_columns_that_are_meant_by_number_stay() -> None:
    question = "Show the class, and how many races it has."
    for clause in ("GROUP BY 2", "GROUP BY class ORDER BY 1 DESC"):
        sql = f"SELECT COUNT(*), class FROM race {clause}"
        assert ordered(question, sql) == sql
    assert ordered(question, "SELECT COUNT(*), class FROM race GROUP BY class").startswith("SELECT class, COUNT(*)")


def test_a_table_in_the_name_of_a_column() -> None:
    tables = (Table(name="orders", columns=(Column(name="status", type="TEXT"), Column(name="order_date", type="TEXT"))),)
    evidence = Evidence("List all orders with their status and order date", NameIndex(Schema(dialect="sqlite", tables=tables)))
    sql = "SELECT status, order_date FROM orders"
    assert in_said_order(sql, evidence) == in_said_order("SELECT order_date, status FROM orders", evidence) == sql
