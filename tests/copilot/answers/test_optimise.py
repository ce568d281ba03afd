"""Faster forms: each rule applies where it is sound and nowhere else, every form keeps the rows, and claims are measured."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot

from openarctic.copilot.access import Access
from openarctic.copilot.answers.optimise import Trial, _Bench, _multiset, optimise
from openarctic.copilot.answers.rewrites import Rewrite, rewrites
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.execute import Worker
from openarctic.copilot.schema import Schema
from openarctic.errors import CapacityError, RefusedError, UserError

from ..files import write_both

SCRIPT = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, cid INTEGER REFERENCES customers (id), state TEXT, amount REAL, paid DATE);
CREATE TABLE tags (tag TEXT PRIMARY KEY, note TEXT);
"""

APPLIES: list[tuple[str, str]] = [
    ("drop DISTINCT", "SELECT DISTINCT id, name FROM customers"),
    ("drop DISTINCT", "SELECT DISTINCT o.id, c.name FROM orders o JOIN customers c ON c.id = o.cid"),
    ("drop DISTINCT", "SELECT DISTINCT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.cid WHERE o.amount > 3"),
    ("count rows", "SELECT COUNT(DISTINCT id) FROM orders WHERE state = 'open'"),
    ("drop a LEFT JOIN", "SELECT o.id, o.state FROM orders o LEFT JOIN customers c ON c.id = o.cid"),
    ("group once", "SELECT name, (SELECT COUNT(*) FROM orders o WHERE o.cid = c.id) FROM customers c"),
    (
        "group once",
        "SELECT name, (SELECT SUM(amount) FROM orders o WHERE o.cid = c.id AND o.state = 'open') AS s FROM customers c",
    ),
    ("group once", "SELECT id FROM orders o WHERE amount > (SELECT AVG(amount) FROM orders i WHERE i.state = o.state)"),
    ("group once", "SELECT id FROM orders o WHERE (SELECT COUNT(*) FROM orders i WHERE i.state = o.state AND i.cid = o.cid) > 1"),
    ("IN as EXISTS", "SELECT name FROM customers WHERE id IN (SELECT cid FROM orders WHERE state = 'open')"),
    ("IN as EXISTS", "SELECT id FROM orders WHERE state IN (SELECT DISTINCT state FROM orders WHERE amount > 5) AND amount < 9"),
    ("IN as a join", "SELECT o.id FROM orders o WHERE cid IN (SELECT id FROM customers WHERE city = 'Oslo')"),
    ("HAVING as WHERE", "SELECT state, COUNT(*) FROM orders GROUP BY state HAVING state <> 'open' AND COUNT(*) > 1"),
    ("OR as UNION ALL", "SELECT id, state FROM orders WHERE cid = 3 OR state = 'open'"),
    ("push down", "WITH o AS (SELECT id, cid, state FROM orders) SELECT o.id FROM o WHERE o.state = 'open'"),
    ("drop a nested ORDER BY", "SELECT COUNT(*) FROM (SELECT id FROM orders ORDER BY amount) AS o"),
]
DOES_NOT: list[tuple[str, str]] = [
    ("drop DISTINCT", "SELECT DISTINCT name FROM customers"),
    ("drop DISTINCT", "SELECT DISTINCT c.id FROM customers c JOIN orders o ON o.cid = c.id"),
    ("drop DISTINCT", "SELECT DISTINCT c.id FROM customers c, orders o"),
    ("drop DISTINCT", "SELECT DISTINCT tag FROM tags"),  # SQLite: a TEXT key may be NULL many times
    ("drop DISTINCT", "SELECT DISTINCT c.id FROM orders o RIGHT JOIN customers c ON c.id = o.cid"),
    ("count rows", "SELECT COUNT(DISTINCT cid) FROM orders"),
    ("count rows", "SELECT COUNT(DISTINCT c.id) FROM customers c JOIN orders o ON o.cid = c.id"),
    ("drop a LEFT JOIN", "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.cid"),
    ("drop a LEFT JOIN", "SELECT c.id FROM customers c LEFT JOIN orders o ON o.cid = c.id"),
    ("drop a LEFT JOIN", "SELECT o.id FROM orders o JOIN customers c ON c.id = o.cid"),
    ("drop a LEFT JOIN", "SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.cid ORDER BY c.city"),
    ("group once", "SELECT id FROM orders o WHERE amount > (SELECT AVG(amount) FROM orders i WHERE i.cid > o.cid)"),
    ("group once", "SELECT city, (SELECT COUNT(*) FROM orders o WHERE o.state = c.city) FROM customers c GROUP BY city"),
    ("group once", "SELECT name, (SELECT amount FROM orders o WHERE o.id = c.id) FROM customers c"),
    ("IN as EXISTS", "SELECT name FROM customers WHERE id NOT IN (SELECT cid FROM orders)"),
    ("IN as EXISTS", "SELECT name FROM customers WHERE id IN (SELECT cid FROM orders ORDER BY amount LIMIT 3)"),
    ("IN as EXISTS", "SELECT name FROM customers WHERE id IN (SELECT MAX(cid) FROM orders)"),
    ("IN as a join", "SELECT name FROM customers WHERE id IN (SELECT cid FROM orders)"),
    ("HAVING as WHERE", "SELECT state, COUNT(*) FROM orders GROUP BY state HAVING COUNT(*) > 1"),
    ("OR as UNION ALL", "SELECT COUNT(*) FROM orders WHERE cid = 3 OR state = 'open'"),
    ("OR as UNION ALL", "SELECT id FROM orders WHERE cid = 3 OR state = 'open' LIMIT 3"),
    ("drop a nested ORDER BY", "SELECT COUNT(*) FROM (SELECT id FROM orders ORDER BY amount LIMIT 5) AS o"),
    ("year as a range", "SELECT id FROM orders WHERE strftime('%Y', paid) = '2023'"),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rng = random.Random(4)

    def row(i: int) -> str:
        state, amount = rng.choice(["'open'", "'shut'", "NULL"]), rng.choice(["NULL", f"{rng.random() * 10:.3f}"])
        return (
            f"({i}, {rng.choice(['NULL', *range(1, 41)])}, {state}, {amount}, '202{rng.randint(2, 4)}-0{rng.randint(1, 9)}-11')"
        )

    customers = ", ".join(f"({i}, 'n{i % 7}', 'Oslo')" for i in range(1, 41))
    filling = f"INSERT INTO customers VALUES {customers}; INSERT INTO orders VALUES {', '.join(map(row, range(1500)))};"
    return write_both(tmp_path_factory.mktemp("optimise"), SCRIPT + filling)


@pytest.fixture(scope="module")
def sqlite(paths: dict[str, Path]) -> Iterator[tuple[Access, Worker]]:
    database = open_database(paths["sqlite"])
    with Worker(database) as worker:
        yield Access(read_schema(database, values=False)), worker


def schema_of(path: Path) -> Schema:
    return read_schema(open_database(path), values=False)


def forms(sql: str, schema: Schema) -> dict[str, str]:
    return {r.name: r.sql for r in rewrites(sqlglot.parse_one(sql, read=schema.dialect), schema)}


@pytest.mark.parametrize(("rule", "sql"), APPLIES)
def test_a_rule_applies(paths: dict[str, Path], rule: str, sql: str) -> None:
    schema = schema_of(paths["sqlite"])
    assert rule in forms(sql, schema)


@pytest.mark.parametrize(("rule", "sql"), DOES_NOT)
def test_a_rule_does_not_apply_where_it_would_be_wrong(paths: dict[str, Path], rule: str, sql: str) -> None:
    schema = schema_of(paths["sqlite"])
    assert rule not in forms(sql, schema)


def test_years_are_ranges_where_dates_are_dates(paths: dict[str, Path]) -> None:
    found = forms("SELECT id FROM orders WHERE EXTRACT(YEAR FROM paid) = 2023", schema_of(paths["duckdb"]))
    assert "paid >= CAST('2023-01-01' AS DATE) AND orders.paid < CAST('2024-01-01' AS DATE)" in found["year as a range"]


def test_names_of_columns_stay(paths: dict[str, Path]) -> None:
    for dialect, path in paths.items():
        schema = schema_of(path)
        sql = "SELECT name, COUNT(DISTINCT o.id) FROM orders o JOIN customers c ON c.id = o.cid GROUP BY name HAVING name > 'x'"
        assert "_col" not in forms(sql, schema)["HAVING as WHERE"], dialect


def filled(rng: random.Random) -> dict[str, list[tuple[Any, ...]]]:
    """Small tables full of NULLs, repeats, missing partners."""
    return {
        "customers": [(i, rng.choice(["a", "b", None]), rng.choice(["Oslo", "Rome", None])) for i in range(1, rng.randint(1, 6))],
        "orders": [
            (i, rng.choice([None, 1, 2, 3, 9]), rng.choice(["open", "shut", None]), rng.choice([None, 1.0, 5.5, 8.0, 10.0]),
             rng.choice([None, "2022-12-31", "2023-01-01", "2023-12-31", "2024-01-01"]))
            for i in range(1, rng.randint(1, 12))
        ],
        "tags": [],
    }  # fmt: skip


@pytest.mark.parametrize("count", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_every_form_keeps_the_rows_of_random_tables(paths: dict[str, Path], count: int) -> None:
    """Beside the measured data: databases of a few random rows, both engines, run directly."""
    rng = random.Random(8)
    schemas = {dialect: schema_of(path) for dialect, path in paths.items()}
    years = ("year as a range", "SELECT id FROM orders WHERE EXTRACT(YEAR FROM paid) = 2023 OR amount > 6")
    plans = {
        dialect: [(sql, forms(sql, schema)) for _, sql in (*APPLIES, *DOES_NOT[:-1], *([years] if dialect == "duckdb" else []))]
        for dialect, schema in schemas.items()
    }
    compared = 0
    for _ in range(count):
        rows = filled(rng)
        lite, duck = sqlite3.connect(":memory:"), duckdb.connect(":memory:")
        lite.executescript(SCRIPT)
        duck.execute(SCRIPT.replace("REFERENCES customers (id)", ""))
        for table, values in rows.items():
            for row in values:
                marks = ", ".join("?" * len(row))
                lite.execute(f"INSERT INTO {table} VALUES ({marks})", row)
                duck.execute(f"INSERT INTO {table} VALUES ({marks})", row)
        for dialect, connection in (("sqlite", lite), ("duckdb", duck)):
            for sql, found in plans[dialect]:
                if " LIMIT " in sql:
                    continue
                try:
                    original = _multiset(connection.execute(sql).fetchall())
                except (sqlite3.Error, duckdb.Error):
                    continue  # more rows than one in a scalar subquery
                for name, form in found.items():
                    assert _multiset(connection.execute(form).fetchall()) == original, (name, sql, form, rows)
                    compared += 1
        lite.close()
        duck.close()
    assert compared > 35 * count


def test_what_helps_is_measured(sqlite: tuple[Access, Worker]) -> None:
    access, worker = sqlite
    sql = "SELECT name, (SELECT COUNT(*) FROM orders o WHERE o.cid = c.id) FROM customers c"
    found = optimise(sql, access, worker, repeats=3)
    best = found.best
    assert best is not None and best.rewrite.name == "group once"
    assert best.after_ms is not None and best.before_ms is not None and best.after_ms < 0.5 * best.before_ms
    assert worker.execute(access.check(best.rewrite.sql)).rows


def test_what_does_not_help_is_said(sqlite: tuple[Access, Worker]) -> None:
    found = optimise("SELECT name FROM customers WHERE id = 3", *sqlite, repeats=2)
    assert found.best is None and found.trials == ()


def bench(sqlite: tuple[Access, Worker], sql: str, max_rows: int = 1000) -> _Bench:
    access, worker = sqlite
    return _Bench(access, worker, access.check(sql), 1, max_rows, 5.0)


@pytest.mark.parametrize(
    ("form", "verdict"),
    [
        ("SELECT id FROM customers LIMIT 3", "other rows"),
        ("SELECT id + 0 FROM customers UNION ALL SELECT 1", "other rows"),
        ("SELECT id, id FROM customers", "other rows"),
        ("SELECT id FROM secrets", "refused"),
        ("DELETE FROM customers", "refused"),
    ],
)
def test_a_form_with_other_rows_is_discarded(sqlite: tuple[Access, Worker], form: str, verdict: str) -> None:
    trial: Trial = bench(sqlite, "SELECT id FROM customers").trial(Rewrite("x", "", form))
    assert trial.verdict == verdict and trial.after_ms is None


def test_results_that_are_too_large_to_fetch(sqlite: tuple[Access, Worker], paths: dict[str, Path]) -> None:
    rewrite = Rewrite("x", "", "SELECT id + 0 FROM orders")
    assert bench(sqlite, "SELECT id FROM orders", max_rows=10).trial(rewrite).verdict == "not proven"
    database = open_database(paths["duckdb"])
    with Worker(database) as worker:
        both = Access(read_schema(database, values=False)), worker
        assert bench(both, "SELECT id FROM orders", max_rows=10).trial(rewrite).verdict in ("faster", "no gain")
        wrong = Rewrite("x", "", "SELECT id + 1 FROM orders")
        assert bench(both, "SELECT id FROM orders", max_rows=10).trial(wrong).verdict == "other rows"


def test_what_cannot_be_compared_or_run(sqlite: tuple[Access, Worker]) -> None:
    with pytest.raises(UserError, match="random"):
        optimise("SELECT id FROM customers ORDER BY random()", *sqlite)
    with pytest.raises(RefusedError):
        optimise("DELETE FROM customers", *sqlite)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900000000) SELECT count(*) FROM n"
    with pytest.raises(CapacityError):
        optimise(endless, *sqlite, timeout_s=0.3)
