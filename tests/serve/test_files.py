"""Rows as bodies of answers: exact, soon, and without holding up anybody else."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime
from datetime import time as clock
from decimal import Decimal
from math import inf, isnan
from pathlib import Path
from typing import Any

import duckdb
import pytest

from openarctic.copilot.databases import open_database
from openarctic.copilot.execute import Result
from openarctic.engine import Engine
from openarctic.serve import files
from openarctic.serve.desk import Desk

from .world import Server, running

ROWS = 100_000


@pytest.fixture(scope="module")
def served(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    with duckdb.connect(str(folder / "typed.duckdb")) as connection:
        connection.execute(TYPED)
        connection.execute(
            f"CREATE TABLE big AS SELECT range AS id, 'row ' || range AS name, range / 7 AS part FROM range({ROWS})"
        )
    with sqlite3.connect(folder / "loose.sqlite") as loose:
        loose.execute("CREATE TABLE loose (mixed, numbers, large, bytes, digits, none)")
        loose.execute("INSERT INTO loose VALUES (1, 1, 9007199254740993, x'00ff', '007', NULL)")
        loose.execute("INSERT INTO loose VALUES ('1', 1.5, 1.5, NULL, '1e3', NULL)")
        loose.execute("INSERT INTO loose VALUES (x'aa', NULL, NULL, x'', NULL, NULL)")
    databases = {name.partition(".")[0]: open_database(folder / name) for name in ("typed.duckdb", "loose.sqlite")}
    desk = Desk(engine, databases)
    with running(engine, desk) as server:
        yield server
    desk.close()


TYPED = """
CREATE TABLE typed AS SELECT * FROM (VALUES
  (1, 9007199254740993::BIGINT, 170141183460469231731687303715884105727::HUGEINT, 12345678901234567890::HUGEINT,
   12345678901234567890.12::DECIMAL(30, 2), '007', 'a"b' || chr(10) || 'c,d', '\\x00\\xff'::BLOB, true, 'nan'::DOUBLE,
   DATE '2024-02-29', TIMESTAMP '2024-02-29 12:34:56.789012', TIMESTAMPTZ '2024-02-29 12:00:00+00', TIME '12:34:56.5', [1, 2]),
  (2, NULL, NULL, NULL, NULL, NULL, '', NULL, NULL, 'infinity'::DOUBLE, NULL, NULL, NULL, NULL, NULL),
  (3, -9223372036854775808, 1, 1, 0.10, '1e3', 'NULL', ''::BLOB, false, 0.1,
   DATE '0001-01-01', TIMESTAMP '1969-12-31 23:59:59', TIMESTAMPTZ '1969-12-31 23:00:00-01', TIME '00:00:00', [])
) AS t(id, whole, huge, beyond, exact, digits, text, bytes, truth, float, day, moment, instant, clock, list)
"""


def parquet(reply_body: bytes, folder: Path) -> duckdb.DuckDBPyRelation:
    path = folder / "result.parquet"
    path.write_bytes(reply_body)
    return duckdb.sql(f"SELECT * FROM '{path}'")


def test_parquet_keeps_every_value_and_its_type(served: Server, tmp_path: Path) -> None:
    asked = {"database": "typed", "sql": "SELECT * FROM typed ORDER BY id", "format": "parquet"}
    reply = served.post("/v1/query", asked)
    assert reply.status == 200, reply.body
    found = parquet(reply.body, tmp_path)
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
        "id": "BIGINT",
        "whole": "BIGINT",
        "huge": "VARCHAR",  # Parquet's decimals end at 38 digits
        "beyond": "DECIMAL(38,0)",
        "exact": "DECIMAL(38,2)",
        "digits": "VARCHAR",
        "text": "VARCHAR",
        "bytes": "BLOB",
        "truth": "BOOLEAN",
        "float": "DOUBLE",
        "day": "DATE",
        "moment": "TIMESTAMP",
        "instant": "TIMESTAMP WITH TIME ZONE",
        "clock": "TIME",
        "list": "VARCHAR",
    }
    rows = found.project("* REPLACE (epoch(instant) AS instant)").fetchall()
    first, second, third = rows
    assert isnan(first[9])
    assert first[:9] == (
        1,
        9007199254740993,
        "170141183460469231731687303715884105727",
        Decimal("12345678901234567890"),
        Decimal("12345678901234567890.12"),
        "007",
        'a"b\nc,d',
        b"\x00\xff",
        True,
    )
    moment = datetime(2024, 2, 29, 12, 34, 56, 789012)
    assert first[10:] == (date(2024, 2, 29), moment, 1709208000.0, clock(12, 34, 56, 500000), "[1, 2]")
    assert second == (2, None, None, None, None, None, "", None, None, inf, None, None, None, None, None)
    assert third[1:10] == (-(2**63), "1", Decimal(1), Decimal("0.10"), "1e3", "NULL", b"", False, 0.1)
    assert third[10:] == (date(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59), 0.0, clock(0), "[]")


def test_columns_of_mixed_values_are_text_unless_a_number_has_them_all(served: Server, tmp_path: Path) -> None:
    reply = served.post("/v1/query", {"database": "loose", "sql": "SELECT * FROM loose", "format": "parquet"})
    found = parquet(reply.body, tmp_path)
    assert list(map(str, found.types)) == ["VARCHAR", "DOUBLE", "VARCHAR", "BLOB", "VARCHAR", "VARCHAR"]
    assert found.fetchall() == [
        ("1", 1.0, "9007199254740993", b"\x00\xff", "007", None),
        ("1", 1.5, "1.5", None, "1e3", None),
        ("aa", None, None, b"", None, None),
    ]


def test_a_column_without_a_name_and_no_rows(tmp_path: Path) -> None:
    found = parquet(files.as_parquet(Result(["", "a", "A", ""], [], False, 0.0, [[], ["int"], [], []])), tmp_path)
    assert found.columns == ["column", "a", "A_2", "column_2"] and found.fetchall() == []


def test_csv_has_all_digits(served: Server) -> None:
    sql = "SELECT whole, exact, moment FROM typed WHERE id = 1"
    text = served.post("/v1/query", {"database": "typed", "sql": sql, "format": "csv"}).body.decode()
    assert list(csv.reader(io.StringIO(text)))[1] == [
        "9007199254740993",
        "12345678901234567890.12",
        "2024-02-29 12:34:56.789012",
    ]


def test_json_in_parts_is_the_same_json() -> None:
    body = {"a": None, "rows": [[i, "x", None] for i in range(2500)], "z": {"n": date(2024, 1, 2)}}
    for rows in (body["rows"], [], None):
        assert json.loads(files.as_json({**body, "rows": rows})) == {"a": None, "rows": rows, "z": {"n": "2024-01-02"}}
    assert files.as_json({}) == b"{}"


@pytest.mark.parametrize(("format", "maker"), [("json", "as_json"), ("csv", "as_csv"), ("parquet", "as_parquet")])
def test_others_are_served_while_a_body_is_made(served: Server, monkeypatch: pytest.MonkeyPatch, format: str, maker: str) -> None:
    begun, others_served = threading.Event(), threading.Event()

    def slowly(given: Any) -> bytes:
        begun.set()
        return b"made" if others_served.wait(20) else b"nobody was served"

    monkeypatch.setattr(files, maker, slowly)
    replies: list[bytes] = []
    asked = {"database": "typed", "sql": "SELECT 1", "format": format}
    download = threading.Thread(target=lambda: replies.append(served.post("/v1/query", asked).body))
    download.start()
    assert begun.wait(20)
    assert served.get("/health").status == 200
    others_served.set()
    download.join()
    assert replies == [b"made"]


def test_a_large_file_takes_seconds(served: Server, tmp_path: Path) -> None:
    """100,000 rows: half a second on a free processor. Row by row they took four minutes."""
    began = time.monotonic()
    asked = {"database": "typed", "sql": "SELECT * FROM big ORDER BY id", "limit": ROWS, "timeout": 60, "format": "parquet"}
    reply = served.post("/v1/query", asked)
    assert time.monotonic() - began < 40
    found = parquet(reply.body, tmp_path)
    assert found.aggregate("count(*), sum(id), count(DISTINCT name)").fetchall() == [(ROWS, ROWS * (ROWS - 1) // 2, ROWS)]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_file_tells_whether_it_was_cut(served: Server, format: str) -> None:
    for limit, told in ((3, "false"), (2, "true")):
        reply = served.post("/v1/query", {"database": "typed", "sql": "SELECT id FROM typed", "limit": limit, "format": format})
        assert reply.headers["x-truncated"] == told
