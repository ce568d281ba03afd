"""The guard against a corpus of hostile statements, on trees and on real databases."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import DIALECTS, check
from openarctic.errors import CapacityError, OpenArcticError, RefusedError, UserError

from .files import write_both

CASES = Path(__file__).parent / "cases"
ALLOWED = ("orders", "customers")
SETUP = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, cid INTEGER, region VARCHAR, x DOUBLE, d DATE, note VARCHAR);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR);
CREATE TABLE salaries (id INTEGER, amount INTEGER);
INSERT INTO orders VALUES (1, 1, 'north', 2.5, '2024-01-02', 'a'), (2, 1, 'south', 4.0, '2024-02-03', 'drop table; delete');
INSERT INTO customers VALUES (1, 'Ann'), (2, 'Bo');
INSERT INTO salaries VALUES (1, 987654);
"""


def statements(kind: str) -> Iterator[tuple[str, str]]:
    for dialect in (d for d in DIALECTS if (CASES / f"{kind}_{d}.sql").exists()):
        for line in (CASES / f"{kind}_{dialect}.sql").read_text().splitlines():
            if line and not line.startswith("--"):
                yield dialect, line


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Database]:
    paths = write_both(tmp_path_factory.mktemp("guard"), SETUP)
    return {dialect: open_database(path) for dialect, path in paths.items()}


@pytest.mark.parametrize(("dialect", "sql"), list(statements("hostile")))
def test_hostile_statements_are_refused(dialect: str, sql: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check(sql, dialect, None, ALLOWED)
    assert caught.value.type in RefusedError.REFUSALS


@pytest.mark.parametrize(("dialect", "sql"), [*statements("good"), *statements("pass")])
def test_good_statements_pass(dialect: str, sql: str) -> None:
    checked = check(sql, dialect, None, ALLOWED)
    assert set(checked.tables) <= set(ALLOWED)
    check(checked.sql, dialect, None, ALLOWED)


@pytest.mark.parametrize(("dialect", "sql"), list(statements("refused")))
def test_what_the_list_does_not_know_is_refused_though_harmless(dialect: str, sql: str) -> None:
    with pytest.raises(RefusedError):
        check(sql, dialect, None, ALLOWED)


def test_nothing_hostile_reaches_a_database(databases: dict[str, Database]) -> None:
    before = {name: hashlib.sha256(db.path.read_bytes()).digest() for name, db in databases.items()}
    for name, database in databases.items():
        schema = read_schema(database)
        for dialect, sql in statements("hostile"):
            if dialect == name:
                with pytest.raises(RefusedError):
                    check(sql, dialect, schema, ALLOWED)
    assert before == {name: hashlib.sha256(db.path.read_bytes()).digest() for name, db in databases.items()}


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@pytest.mark.parametrize(
    ("sql", "type"),
    [
        ("SELECT nam FROM customers", "unknown_column"),
        ("SELECT c.x FROM customers c", "unknown_column"),
        ("SELECT x FROM customers WHERE id IN (SELECT cid FROM orders)", "unknown_column"),
        ("SELECT name FROM custmers", "unknown_table"),
        ("SELECT amount FROM salaries", "not_permitted"),
        ("SELEC 1", "unparsable"),
        ("", "unparsable"),
        ("DELETE FROM orders", "not_a_read"),
        ("SELECT load_extension('x') FROM orders", "forbidden_function"),
    ],
)
def test_refusals_say_which(databases: dict[str, Database], dialect: str, sql: str, type: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check(sql, dialect, read_schema(databases[dialect]), ALLOWED)
    assert caught.value.type == type


def test_hints_name_the_nearest(databases: dict[str, Database]) -> None:
    with pytest.raises(RefusedError) as caught:
        check("SELECT nam FROM customers", "sqlite", read_schema(databases["sqlite"]))
    assert caught.value.hint == "did you mean name?"


def test_scopes_are_followed(databases: dict[str, Database]) -> None:
    schema = read_schema(databases["sqlite"])
    sql = "SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.cid = c.id)"
    assert check(sql, "sqlite", schema).tables == ("customers", "orders")


def test_deep_nesting_is_refused_not_a_crash() -> None:
    with pytest.raises(RefusedError):
        check("SELECT " + "(" * 5000 + "1" + ")" * 5000 + " FROM orders", "sqlite", None, ALLOWED)


FRAGMENTS = [
    "SELECT", "*", "id", "name", "FROM", "orders", "customers", "salaries", "sqlite_master", "WHERE", "IN", "(", ")",
    "UNION", "JOIN", "ON", "WITH", "AS", ",", "=", "1", "count(*)", "DELETE", "INSERT INTO", "UPDATE", "SET", "DROP TABLE",
    ";", "'a'", "load_extension('x')", "zeroblob(9)", "EXISTS", "main.", "t", "PRAGMA", "ATTACH", "--", "/*", "*/", "VALUES",
    "SELECT id FROM salaries", "(SELECT amount FROM salaries)", "WITH orders AS (SELECT * FROM salaries)",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=2, max_size=14))
def test_whatever_passes_reads_only_what_is_allowed(parts: list[str]) -> None:
    sql = " ".join(parts)
    try:
        checked = check(sql, "sqlite", None, ALLOWED)
    except OpenArcticError:
        return
    read: set[str] = set()
    connection = sqlite3.connect(":memory:")
    connection.executescript(SETUP)

    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ:
            read.add(str(first).lower())
        allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
        assert action in allowed, f"{checked.sql} does more than read"
        return sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    try:
        connection.execute(checked.sql).fetchmany(5)
    except sqlite3.Error:
        pass
    finally:
        connection.set_authorizer(None)
        connection.close()
    assert not read & {"salaries", "sqlite_master"}


def test_the_engines_refuse_by_themselves(databases: dict[str, Database]) -> None:
    from openarctic.copilot.guard import Checked

    for sql in ("SELECT amount FROM salaries", "DELETE FROM orders", "SELECT load_extension('x')"):
        with Worker(databases["sqlite"]) as worker, pytest.raises(OpenArcticError):
            worker.execute(Checked(sql, ("orders",), ()))
    for sql in ("SELECT * FROM read_text('/etc/hostname')", "DELETE FROM orders", "SET threads = 4"):
        with Worker(databases["duckdb"]) as worker, pytest.raises(OpenArcticError):
            worker.execute(Checked(sql, ("orders",), ()))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Database]:
    """The same tables with enough rows that a cross join does not end."""
    rows = [(i, i % 7, "north", i / 3, "2024-01-02", "note" * 20) for i in range(10, 1200)]
    paths = write_both(tmp_path_factory.mktemp("large"), SETUP, "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", rows)
    return {dialect: open_database(path) for dialect, path in paths.items()}


@pytest.mark.parametrize(("dialect", "sql"), list(statements("bombs")), ids=lambda value: value[:30])
def test_what_is_endless_or_huge_is_ended(large: dict[str, Database], dialect: str, sql: str) -> None:
    schema = read_schema(large[dialect])
    with Worker(large[dialect]) as worker:
        worker._wait_ready()
        started = time.monotonic()
        with pytest.raises(OpenArcticError) as caught:
            worker.execute(check(sql, dialect, schema, ALLOWED), timeout_s=1.0)
    assert isinstance(caught.value, CapacityError | RefusedError | UserError)
    assert time.monotonic() - started < 2.0  # at most a second past the limit


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT (SELECT max(x) FROM orders AS i WHERE i.cid = c.id) FROM customers AS c ORDER BY 1",
        "SELECT 30 AS n, count(*) FROM orders GROUP BY 30",
        "SELECT id FROM (SELECT * FROM orders) AS t WHERE region = 'north'",
        "SELECT region, sum(x) FROM orders GROUP BY 1 ORDER BY 2 DESC, region",
    ],
)
def test_positions_and_stars_are_no_obstacle(databases: dict[str, Database], sql: str) -> None:
    assert check(sql, "sqlite", read_schema(databases["sqlite"])).sql


def test_in_and_a_name_is_no_list_in_sqlite(databases: dict[str, Database]) -> None:
    """SQLite takes the name for a table, even where a column has the same name."""
    with pytest.raises(RefusedError, match=r"IN region may not be used"):
        check("SELECT id FROM orders WHERE id IN region", "sqlite", read_schema(databases["sqlite"]))


def test_what_is_pivoted_keeps_its_qualifiers(databases: dict[str, Database]) -> None:
    sql = "PIVOT (SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON o.cid = c.id) ON name USING count(*)"
    checked = check(sql, "duckdb", read_schema(databases["duckdb"]))
    assert "o.cid = c.id" in checked.sql
    with Worker(databases["duckdb"]) as worker:
        assert worker.execute(checked).columns == ["id", "Ann"]


def test_the_corpora_are_as_large_as_promised() -> None:
    hostile, harmless = list(statements("hostile")), [*statements("good"), *statements("pass")]
    assert len(set(hostile)) >= 300 and {dialect for dialect, _ in hostile} == set(DIALECTS)
    assert len(set(harmless)) >= 100 and {dialect for dialect, _ in harmless} == set(DIALECTS)


def test_the_room_has_its_door() -> None:
    import openarctic.copilot

    assert openarctic.copilot.check is check
    with pytest.raises(AttributeError):
        _ = openarctic.copilot.nothing
