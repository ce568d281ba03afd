"""What databases hold that nobody expects: a right answer or an honest error (SQLite and DuckDB here)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.execute import Worker, execute
from openarctic.copilot.grammar import schema_grammar
from openarctic.copilot.guard import Checked, check
from openarctic.copilot.prompt import schema_text
from openarctic.errors import CapacityError, MissingError

DIALECTS = ("sqlite", "duckdb")
NAMES = [
    'with "quotes"', "emoji 💶", "new\nline", "select", "MixedCase", "tab\there", "semi;colon--", "per%cent", "back\\slash", "É",
    "it's", "a.b", "/* no */", "1st", "group", "[bracket]", "`tick`", "$dollar", "a" * 200, "مرحبا",
]  # fmt: skip


def read(sql: str) -> Checked:
    return Checked(sql, ("t",), ())


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def make(folder: Path, dialect: str, *statements: str) -> Database:
    path = folder / f"bad.{dialect}"
    connection: Any = sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(str(path))
    for statement in statements:
        connection.execute(statement)
    if dialect == "sqlite":
        connection.commit()
    connection.close()
    return open_database(path)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_name_can_be_read(tmp_path: Path, dialect: str) -> None:
    made = []
    for i, name in enumerate(NAMES):
        made += [f"CREATE TABLE {quoted(name)} ({quoted(name)} INTEGER, {quoted(name + '2')} VARCHAR)",
                 f"INSERT INTO {quoted(name)} VALUES ({i}, 'value')"]  # fmt: skip
    database = make(tmp_path, dialect, *made)
    schema = read_schema(database)
    assert {t.name for t in schema.tables} == set(NAMES)
    assert schema_text(schema) and schema_grammar(schema, "sql")
    with Worker(database) as worker:
        for i, name in enumerate(NAMES):
            table = schema.table(name)
            assert table is not None and table.columns[1].values == ("value",)
            alias = f"SELECT x.{quoted(name)} FROM {quoted(name)} AS x WHERE x.{quoted(name)} >= 0 ORDER BY {quoted(name)}"
            for sql in (f"SELECT {quoted(name)} FROM {quoted(name)}", alias):
                result = worker.execute(check(sql, dialect, schema))
                assert (result.columns, result.rows) == ([name], [(i,)])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_dropped_after_its_schema_was_read(tmp_path: Path, dialect: str) -> None:
    database = make(tmp_path, dialect, "CREATE TABLE t (a INTEGER, b INTEGER)", "CREATE TABLE u (a INTEGER)")
    schema = read_schema(database)
    make(tmp_path, dialect, "DROP TABLE t", "CREATE TABLE t (a INTEGER)", "DROP TABLE u")
    with Worker(database) as worker:
        for sql, name in {"SELECT b FROM t": "b", "SELECT * FROM u": "u"}.items():
            with pytest.raises(MissingError, match=name) as caught:
                worker.execute(check(sql, dialect, schema))
            assert "have changed since" in str(caught.value.hint)
        assert worker.execute(check("SELECT count(a) FROM t", dialect, schema)).rows == [(0,)]


def test_dates_that_python_does_not_know(tmp_path: Path) -> None:
    exact = {
        "DATE '0000-01-01'": "0001-01-01 (BC)", "DATE '0044-03-15 (BC)'": "0044-03-15 (BC)", "DATE 'infinity'": "infinity",
        "DATE '20000-01-01'": "20000-01-01", "DATE '2024-02-29'": "2024-02-29", 
        "TIMESTAMP '0000-01-01 12:00:00'": "0001-01-01 (BC) 12:00:00",
        "TIMESTAMP '2024-02-29 01:02:03.5'": "2024-02-29 01:02:03.5", "INTERVAL '14 months'": "1 year 2 months",
        "TIME '23:59:59'": "23:59:59", "'nan'::DOUBLE": "nan", "'-inf'::DOUBLE": "-inf", 
        "170141183460469231731687303715884105727::HUGEINT": 170141183460469231731687303715884105727,
        "1.10::DECIMAL(9,2)": 1.1, "'\\xFF'::BLOB": "ff", "[1, NULL]": [1, None],
        "{'a': 1}": {"a": 1}, "NULL": None,
    }  # fmt: skip
    database = make(tmp_path, "duckdb", "CREATE TABLE t AS SELECT " + ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(exact)))
    result = execute(database, check("SELECT * FROM t ORDER BY c0", "duckdb", read_schema(database)))
    assert dict(zip(exact, result.rows[0], strict=True)) == exact
    assert result.columns == [f"c{i}" for i in range(len(exact))]
    lite = make(tmp_path, "sqlite", "CREATE TABLE t (d DATE)", "INSERT INTO t VALUES ('0000-00-00'), (-62167219200), (x'ff00')")
    assert execute(lite, read("SELECT d FROM t")).rows == [("0000-00-00",), (-62167219200,), ("ff00",)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ten_million_rows(tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = make(tmp_path, dialect, "CREATE TABLE t (a INTEGER)")
    endless = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000) SELECT i FROM n",
        "duckdb": "SELECT range AS i FROM range(1, 10000001)",
    }[dialect]
    monkeypatch.setattr("openarctic.copilot.execute.RESULT_BYTES", 1 << 20)
    with Worker(database) as worker:
        first = worker.execute(read(endless), limit=1000, timeout_s=30)
        assert (len(first.rows), first.rows[-1], first.truncated) == (1000, (1000,), True)
        with pytest.raises(CapacityError, match="more than 1048576 bytes"):
            worker.execute(read(endless), limit=10_000_000, timeout_s=30)
        assert worker.execute(read("SELECT 1")).rows == [(1,)]


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("duckdb", marks=pytest.mark.slow)])
def test_a_cell_of_100_megabytes(tmp_path: Path, dialect: str) -> None:
    cell = "zeroblob(100000000)" if dialect == "sqlite" else "repeat('x', 100000000)"
    database = make(tmp_path, dialect, "CREATE TABLE t (a INTEGER, b VARCHAR)", f"INSERT INTO t VALUES (1, {cell}), (2, 'short')")
    [table] = read_schema(database).tables
    assert table.columns[1].values == ("short",)
    with Worker(database) as worker:
        with pytest.raises(CapacityError):
            worker.execute(read("SELECT b FROM t"), timeout_s=30)
        assert worker.execute(read("SELECT a FROM t ORDER BY 1")).rows == [(1,), (2,)]


def test_schemas_of_duckdb(tmp_path: Path) -> None:
    make(tmp_path, "duckdb", "CREATE SCHEMA sales", "CREATE TABLE sales.t (a INTEGER)", "CREATE TABLE main.t (b INTEGER)",
         "INSERT INTO sales.t VALUES (7)", 
         "COMMENT ON TABLE sales.t IS 'seven'", "COMMENT ON COLUMN sales.t.a IS 'one'")  # fmt: skip
    database = open_database(f"duckdb:///{tmp_path}/bad.duckdb?schema=sales")
    schema = read_schema(database)
    [table] = schema.tables
    assert (schema.namespace, table.comment, table.columns[0].comment) == ("sales", "seven", "one")
    assert execute(database, check("SELECT a FROM sales.t", "duckdb", schema)).rows == [(7,)]
