"""ON-free SQL: shortened and expanded again, a query means the same."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import sqlglot

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.joins import expand, find_join, mend, short_text, shorten
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table

SETUP = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, "first year" INT);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, title TEXT, year INT);
CREATE TABLE singer_in_concert (singer_id INT REFERENCES singer, concert_id INT REFERENCES concert);
INSERT INTO singer VALUES (1, 'Ann', 'France', 1990), (2, 'Bo', 'Peru', 2001), (3, 'Cy', 'France', 1987);
INSERT INTO concert VALUES (10, 'A', 2014), (11, 'B', 2015);
INSERT INTO singer_in_concert VALUES (1, 10), (2, 10), (1, 11);
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(SETUP)
    connection.close()
    return path


@pytest.fixture
def schema(database: Path) -> Schema:
    return read_schema(open_database(database))


def rows(database: Path, sql: str) -> Counter[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    try:
        return Counter(connection.execute(sql).fetchall())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("sql", "short"),
    [
        (
            "SELECT T2.name FROM singer_in_concert AS T1 JOIN singer AS T2 ON T1.singer_id = T2.singer_id "
            "JOIN concert AS T3 ON T1.concert_id = T3.concert_id WHERE T3.year = 2014",
            "SELECT name FROM singer_in_concert, singer, concert WHERE year = 2014",
        ),
        ("SELECT count(*) FROM singer WHERE country = 'France'", "SELECT COUNT(*) FROM singer WHERE country = 'France'"),
        (
            "SELECT a.name, b.name FROM singer AS a JOIN singer AS b ON a.country = b.country",
            "SELECT a.name, b.name FROM singer AS a JOIN singer AS b ON a.country = b.country",
        ),
        ('SELECT "first year" FROM singer', 'SELECT "first year" FROM singer'),
    ],
)
def test_short_form(database: Path, schema: Schema, sql: str, short: str) -> None:
    assert shorten(sql, schema) == short
    assert rows(database, expand(short, schema)) == rows(database, sql)


def test_a_bridge_table_is_found(schema: Schema) -> None:
    sql = expand("SELECT name, title FROM singer, concert", schema)
    assert "singer_in_concert" in sql and sql.count(" ON ") == 2


def test_missing_tables_are_added(database: Path, schema: Schema) -> None:
    mended = mend("SELECT name FROM concert WHERE year = 2014", schema)
    assert mended == "SELECT name FROM concert, singer WHERE year = 2014"
    assert rows(database, expand(mended, schema)) == Counter([("Ann",), ("Bo",)])


def test_right_scope_is_left_alone(schema: Schema) -> None:
    sql = "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM singer_in_concert)"
    assert mend(sql, schema) == sql


def test_a_plain_name_belongs_to_the_first_table_that_holds_it() -> None:
    shops = Schema(
        dialect="sqlite",
        tables=(
            Table(name="shop", columns=(Column(name="id"), Column(name="name"))),
            Table(
                name="stock",
                columns=(Column(name="shop_id"), Column(name="good_id"), Column(name="price")),
                foreign_keys=(
                    ForeignKey(column="shop_id", table="shop", to_column="id"),
                    ForeignKey(column="good_id", table="good", to_column="good_id"),
                ),
            ),
            Table(name="good", columns=(Column(name="good_id"), Column(name="name"))),
        ),
    )
    assert expand("SELECT name FROM good, stock, shop", shops).startswith("SELECT good.name FROM good JOIN stock")
    # The bridge has a good_id too, but nobody listed it.
    bridged = expand("SELECT good_id, shop.name FROM good, shop", shops)
    assert bridged.startswith("SELECT good.good_id, shop.name FROM good JOIN stock ON")
    assert expand("SELECT name AS name FROM good, shop ORDER BY name", shops).endswith("ORDER BY name")


def test_ids_of_two_tables_do_not_join_them() -> None:
    tables = tuple(Table(name=name, columns=(Column(name="id"), Column(name="shop_id"))) for name in ("genres", "media"))
    schema = Schema(dialect="sqlite", tables=tables)
    assert find_join(schema, ["genres"], "media") == ("genres", "shop_id", "shop_id")
    bare = Schema(dialect="sqlite", tables=tuple(Table(name=t.name, columns=t.columns[:1]) for t in tables))
    assert find_join(bare, ["genres"], "media") is None


def test_short_text_leaves_texts_alone() -> None:
    sql = "SELECT name FROM singer, concert WHERE year != 2014 AND name != 'a <> b, ''c'' <> d'"
    assert short_text(sqlglot.parse_one(sql, read="sqlite")) == sql
