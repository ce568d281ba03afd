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
        ("What are the average and the maximum distance?", "AVG(distance), MAX(distance)"),
        ("What are the maximum and the average distance?", "MAX(distance), AVG(distance)"),
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
        ("Show the class and the distance.", "*"),
        ("Show the class and the distance.", "distance"),
    ],
)
def test_what_does_not_tell_it_stays(question: str, columns: str) -> None:
    sql = f"SELECT {columns} FROM race"
    assert ordered(question, sql) == sql


def test_sides_of_a_union_stay() -> None:
    sql = "SELECT distance, class FROM race UNION SELECT distance, class FROM race"
    assert ordered("Show the class and the distance.", sql) == sql
