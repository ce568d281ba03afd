"""Queries carried to other schemas run there, say the same thing, and never name what is not there."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.joins import expand, shorten
from openarctic.copilot.transfer import Rows, transfer

SINGERS = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, theme TEXT, year INTEGER, singer_id INTEGER REFERENCES singer (singer_id));
INSERT INTO singer VALUES (1, 'Ann', 'France', 30), (2, 'Bob', 'Spain', 41);
INSERT INTO concert VALUES (1, 'Rock night', 2014, 1), (2, 'Jazz', 2015, 2);
"""
SHOPS = """
CREATE TABLE brand (brand_id INTEGER PRIMARY KEY, title TEXT, home TEXT, founded INTEGER);
CREATE TABLE product (product_id INTEGER PRIMARY KEY, label TEXT, price REAL, brand_id INTEGER REFERENCES brand (brand_id));
INSERT INTO brand VALUES (1, 'Acme', 'Rome', 1990), (2, 'Zeta', 'Oslo', 2001);
INSERT INTO product VALUES (1, 'Pot', 12.5, 1), (2, 'Pan', 20, 1), (3, 'Cup', 3, 2);
"""
QUERIES = (
    "SELECT name FROM singer WHERE country = 'France' AND age > 20",
    "SELECT country, COUNT(*) FROM singer GROUP BY country HAVING COUNT(*) >= 1 ORDER BY COUNT(*) DESC LIMIT 3",
    "SELECT name FROM concert, singer WHERE year = 2014",
    "SELECT name FROM singer WHERE NOT singer_id IN (SELECT singer_id FROM concert WHERE theme LIKE '%Rock%')",
    "SELECT name FROM singer WHERE age = (SELECT MAX(age) FROM singer)",
    "SELECT country FROM singer WHERE age > 40 UNION SELECT country FROM singer WHERE age < 35",
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name, script in (("singers", SINGERS), ("shops", SHOPS)):
        made[name] = tmp_path / f"{name}.sqlite"
        with sqlite3.connect(made[name]) as connection:
            connection.executescript(script)
        connection.close()
    return made


@pytest.fixture
def linked(files: dict[str, Path]) -> dict[str, LinkedSchema]:
    return {name: LinkedSchema(read_schema(open_database(path))) for name, path in files.items()}


def shape(sql: str) -> list[str]:
    """The kinds of its nodes, without names and values."""
    tree = sqlglot.parse_one(sql, read="sqlite")
    return [type(node).__name__ for node in tree.walk() if not isinstance(node, exp.Identifier)]


@pytest.fixture
def rows(files: dict[str, Path]) -> Iterator[Rows]:
    reader = Rows(files["shops"])
    yield reader
    reader.close()


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_keeps_its_shape_and_finds_rows(
    query: str, linked: dict[str, LinkedSchema], files: dict[str, Path], rows: Rows
) -> None:
    found = list(transfer([("singers", query)], linked, {"shops": files["shops"]}, 3, seed=1))
    assert found
    for name, sql in found:
        assert name == "shops"
        assert shape(sql) == shape(query)
        assert rows.run(expand(sql, linked["shops"].schema))
        assert shorten(expand(sql, linked["shops"].schema), linked["shops"].schema) == sql


def test_the_same_seed_gives_the_same_queries_once_each(linked: dict[str, LinkedSchema], files: dict[str, Path]) -> None:
    sources = [("singers", query) for query in QUERIES]
    first, again = (list(transfer(sources, linked, files, 30, seed=5)) for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first) > len(QUERIES)
    assert not set(first) & set(sources)


def test_what_has_no_counterpart_is_left_out(linked: dict[str, LinkedSchema], files: dict[str, Path]) -> None:
    aliased = ("singers", "SELECT a.name FROM singer AS a, singer AS b WHERE a.age > b.age")
    assert list(transfer([aliased], linked, files, 1, seed=0)) == []


def test_a_slow_query_is_stopped(rows: Rows) -> None:
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    assert rows.run(endless) is None


def test_numbers_are_those_of_the_column(rows: Rows) -> None:
    drawn = {rows.number(("product", "price"), random.Random(seed)) for seed in range(40)}
    assert drawn == {"12.5", "20", "3"}
    assert rows.number(("product", "label"), random.Random(0)) is None
