"""Plans of real engines, digested; and advice about indexes, which is never carried out."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from openarctic.copilot.access import Access
from openarctic.copilot.answers.execution_plan import _READERS, Plan, plan_of
from openarctic.copilot.answers.indexes import missing_indexes
from openarctic.copilot.answers.optimise import optimise
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import check
from openarctic.copilot.schema import Column, Schema, Table

from ..files import write_both
from ..postgres_server import Server

SCRIPT = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, cid INTEGER, state TEXT);
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rows = ", ".join(f"({i}, {i % 50}, '{'open' if i % 3 else 'shut'}')" for i in range(2000))
    return write_both(tmp_path_factory.mktemp("plans"), f"{SCRIPT} INSERT INTO orders VALUES {rows};")


def planned(path: Path, sql: str) -> tuple[Plan, list[str]]:
    database = open_database(path)
    schema = read_schema(database, values=False)
    checked = check(sql, database.dialect, schema)
    with Worker(database) as worker:
        plan = plan_of(worker, checked, schema)
        assert worker.execute(checked).rows is not None  # the worker still runs statements
    assert checked.tree is not None
    return plan, missing_indexes(checked.tree, plan.steps, schema)


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_what_is_read_and_how(paths: dict[str, Path], dialect: str) -> None:
    sql = "SELECT city, COUNT(*) FROM orders JOIN customers ON cid = customers.id WHERE state = 'open' GROUP BY city ORDER BY 2"
    plan, advice = planned(paths[dialect], sql)
    read = [step for step in plan.steps if step.table]
    assert {step.table for step in read} == {"orders", "customers"}
    assert any(step.kind == "scan" and step.text.startswith("read orders whole") for step in read)
    assert plan.raw and all(step.line.strip() for step in plan.steps)
    if dialect == "duckdb":
        assert any(step.kind == "join" and "hash" in step.text for step in plan.steps) and advice == []
        assert all(isinstance(step.rows, int) for step in read)
    else:
        assert [step.text for step in read if step.kind == "index"] == ["look up customers by its key"]
        assert advice == ["CREATE INDEX ON orders (state): 2,000 rows are read to find those with the right state"]


def test_nothing_is_executed(paths: dict[str, Path]) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900000000000) SELECT COUNT(*) FROM n"
    for path in paths.values():
        database = open_database(path)
        schema = read_schema(database, values=False)
        with Worker(database) as worker:
            assert plan_of(worker, check(endless, database.dialect, schema), schema, timeout_s=5).steps


def test_an_index_made_for_one_run_is_advised(paths: dict[str, Path]) -> None:
    plan, advice = planned(paths["sqlite"], "SELECT COUNT(*) FROM customers LEFT JOIN orders ON orders.cid = customers.id + 0")
    assert any("index made for this query alone" in step.text for step in plan.steps)
    assert advice == ["CREATE INDEX ON orders (cid): an index is made for it at every run"]
    with sqlite3.connect(paths["sqlite"]) as connection:
        assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'index'").fetchone() == (0,)


def test_no_advice_for_small_tables_keys_and_columns_compared_with_columns(paths: dict[str, Path]) -> None:
    for sql in (
        "SELECT id FROM customers WHERE city = 'x'",
        "SELECT id FROM orders WHERE id > 3",
        "SELECT id FROM orders WHERE cid = id",
    ):
        assert planned(paths["sqlite"], sql)[1] == []


def test_postgres_plans() -> None:
    schema = Schema(
        dialect="postgres",
        tables=(Table(name="orders", columns=(Column(name="id"), Column(name="state")), primary_key=("id",), row_count=50_000),),
    )
    scan = {"Node Type": "Seq Scan", "Relation Name": "orders", "Plan Rows": 9800, "Filter": "(state = 'open'::text)"}
    index = {
        "Node Type": "Index Scan",
        "Relation Name": "orders",
        "Index Name": "orders_pkey",
        "Plan Rows": 1,
        "Index Cond": "(id = 3)",
    }
    hashed = {"Node Type": "Hash", "Plan Rows": 1, "Plans": [index]}
    join = {"Node Type": "Hash Join", "Plan Rows": 12, "Hash Cond": "(a.id = b.id)", "Plans": [scan, hashed]}
    plan = _READERS["postgres"]([(json.dumps([{"Plan": join}]),)], schema)
    assert [step.line for step in plan.steps] == [
        "join by hash: (a.id = b.id) (about 12 rows)",
        "  read orders whole: (state = 'open'::text) (about 9,800 rows)",
        "  look up orders by orders_pkey: (id = 3) (about 1 row)",
    ]
    checked = check("SELECT id FROM orders WHERE state = 'open'", "postgres", schema)
    assert checked.tree is not None
    assert missing_indexes(checked.tree, plan.steps, schema) == [
        "CREATE INDEX ON orders (state): 50,000 rows are read to find those with the right state"
    ]


@pytest.mark.postgres
def test_plans_and_forms_on_a_postgres_server(postgres: Server) -> None:
    postgres.run("CREATE DATABASE plans")
    postgres.run(
        "CREATE TABLE orders (id integer PRIMARY KEY, cid integer, state text)",
        "CREATE TABLE customers (id integer PRIMARY KEY, name text)",
        "INSERT INTO customers SELECT g, 'n' || g FROM generate_series(1, 300) g",
        "INSERT INTO orders SELECT g, g % 300 + 1, CASE g % 3 WHEN 0 THEN 'open' ELSE 'shut' END FROM generate_series(1, 5000) g",
        "ANALYZE orders",
        "ANALYZE customers",
        "CREATE ROLE planner LOGIN PASSWORD 'planner'",
        "GRANT SELECT ON orders, customers TO planner",
        name="plans",
    )
    database = open_database(postgres.url("planner", "planner", "plans"))
    schema = read_schema(database, values=False)
    sql = "SELECT name, (SELECT COUNT(*) FROM orders o WHERE o.cid = c.id) FROM customers c"
    with Worker(database) as worker:
        checked = check("SELECT id FROM orders WHERE state = 'open'", "postgres", schema)
        assert checked.tree is not None
        plan = plan_of(worker, checked, schema)
        assert [step.table for step in plan.steps] == ["orders"] and plan.steps[0].kind == "scan"
        assert len(missing_indexes(checked.tree, plan.steps, schema)) == 1
        best = optimise(sql, Access(schema), worker, repeats=3).best
        assert best is not None and best.rewrite.name == "group once"
