"""Statements that the model may have meant instead."""

from __future__ import annotations

import pytest

from openarctic.copilot.features import Evidence, NameIndex
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.variants import MAX_VARIANTS, variants


def column(name: str, type: str = "TEXT") -> Column:
    return Column(name=name, type=type)


SCHEMA = Schema(
    dialect="sqlite",
    tables=(
        Table(name="genres", columns=(column("id", "INTEGER"), column("name"))),
        Table(
            name="tracks",
            columns=(column("id", "INTEGER"), column("name"), column("genre_id", "INTEGER"), column("unit_price", "REAL")),
            foreign_keys=(ForeignKey(column="genre_id", table="genres", to_column="id"),),
        ),
    ),
)
NAMES = NameIndex(SCHEMA)
ROCK = "FROM genres, tracks WHERE genres.name = 'Rock'"


def found(question: str, sql: str) -> list[str]:
    return variants(sql, SCHEMA, Evidence(question, NAMES))


def test_a_column_that_is_said_instead_of_one_that_is_not() -> None:
    question = "What are the names of the tracks of the genre Rock?"
    assert f"SELECT tracks.name {ROCK}" in found(question, f"SELECT tracks.id {ROCK}")
    assert not any(".id" in sql for sql in found(question, f"SELECT tracks.name {ROCK}"))


def test_inside_an_aggregate_and_in_the_order() -> None:
    sql = "SELECT name, SUM(genre_id) FROM tracks GROUP BY name ORDER BY SUM(genre_id) DESC LIMIT 3"
    told = found("Which 3 tracks have the highest total unit price, and how much is it?", sql)
    assert "SELECT name, SUM(unit_price) FROM tracks GROUP BY name ORDER BY SUM(unit_price) DESC LIMIT 3" in told


def test_a_count_stays() -> None:
    assert "SELECT COUNT(unit_price) FROM tracks" not in found(
        "How many tracks have a unit price?", "SELECT COUNT(id) FROM tracks"
    )


def test_as_many_rows_as_are_asked_for() -> None:
    told = found("What are the 5 cheapest tracks?", "SELECT name FROM tracks ORDER BY unit_price LIMIT 1")
    assert "SELECT name FROM tracks ORDER BY unit_price LIMIT 5" in told


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM tracks", "SELECT name FROM tracks UNION SELECT name FROM genres", "SELECT FROM ("]
)
def test_nothing_is_made_of_what_cannot_be_changed(sql: str) -> None:
    assert found("What are the names?", sql) == []


def test_they_are_few_and_none_is_the_statement_itself() -> None:
    sql = "SELECT genre_id, id, genre_id, id, genre_id FROM tracks"
    told = found("Show names and unit prices of the tracks", sql)
    assert sql not in told and 0 < len(told) <= MAX_VARIANTS


def test_a_count_of_different_things() -> None:
    told = found("How many different unit prices are there?", "SELECT COUNT(DISTINCT id) FROM tracks")
    assert "SELECT COUNT(DISTINCT unit_price) FROM tracks" in told


def test_a_table_that_is_only_counted() -> None:
    told = found("How many tracks are there?", "SELECT COUNT(*) FROM tracks, genres WHERE unit_price > 1")
    assert "SELECT COUNT(*) FROM tracks WHERE unit_price > 1" in told


def test_the_name_of_what_a_key_points_at() -> None:
    sql = "SELECT COUNT(*), genre_id FROM tracks GROUP BY genre_id"
    assert "SELECT COUNT(*), genres.name FROM tracks, genres GROUP BY genres.name" in found(
        "How many tracks has each genre?", sql
    )
    assert not any("genres" in told for told in found("How many tracks has each genre id?", sql))


def test_the_table_that_is_said_next_to_a_name_wherever_that_is_said() -> None:
    question = "What are the genres by number of tracks? List the names of the genres and their tracks."
    sql = "SELECT genre_id, COUNT(*) FROM genres, tracks GROUP BY genre_id"
    assert "SELECT genres.name, COUNT(*) FROM genres, tracks GROUP BY genres.name" in found(question, sql)
