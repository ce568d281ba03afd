"""Data files as tables: every form, groups of parts, and files that are not what they seem."""

from __future__ import annotations

import datetime
import gzip
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.databases.files import table_name
from openarctic.copilot.execute import Worker, execute
from openarctic.copilot.guard import Checked, check
from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, UserError

needs_openpyxl = pytest.mark.skipif(importlib.util.find_spec("openpyxl") is None, reason="openpyxl is not installed")
ROWS = "id,city,price\n1,Oslo,5.5\n2,Rome,7\n"


def run(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """Through schema, guard and child."""
    return execute(database, check(sql, "duckdb", read_schema(database, values=False))).rows


def names(database: Database) -> list[str]:
    return [table.name for table in read_schema(database, values=False).tables]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One table in every form that DuckDB reads."""
    (tmp_path / "shops.csv").write_text(ROWS)
    (tmp_path / "shops.tsv").write_text(ROWS.replace(",", "\t"))
    (tmp_path / "shops.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    (tmp_path / "shops.jsonl").write_text('{"id": 1, "city": "Oslo", "price": 5.5}\n{"id": 2, "city": "Rome", "price": 7}\n')
    (tmp_path / "shops.json").write_text('[{"id": 1, "city": "Oslo", "price": 5.5}, {"id": 2, "city": "Rome", "price": 7}]')
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM read_csv('{tmp_path}/shops.csv')) TO '{tmp_path}/shops.parquet'")
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "jsonl", "json", "parquet"])
def test_every_form_gives_the_same_table(folder: Path, ending: str) -> None:
    database = open_database(folder / f"shops.{ending}")
    [table] = read_schema(database).tables
    assert (table.name, table.row_count, table.is_view) == ("shops", 2, False)
    assert [(c.name, c.type) for c in table.columns] == [("id", "BIGINT"), ("city", "VARCHAR"), ("price", "DOUBLE")]
    assert set(table.columns[1].values) == {"Oslo", "Rome"}
    assert run(database, "SELECT city, price FROM shops ORDER BY id") == [("Oslo", 5.5), ("Rome", 7.0)]


def test_a_folder_and_a_pattern(folder: Path) -> None:
    assert sorted(names(open_database(folder))) == ["shops", "shops_2", "shops_3", "shops_4", "shops_5", "shops_6"]
    (folder / "other shop's.csv").write_text("a\n1\n")
    database = open_database(f"file://{folder}/*.csv")
    assert names(database) == ["other_shop_s", "shops"]
    assert run(database, "SELECT count(*) FROM shops, other_shop_s") == [(2,)]


def test_files_whose_names_differ_in_numbers_are_one_table(tmp_path: Path) -> None:
    for year in (2022, 2023, 2024):
        (tmp_path / f"orders_{year}.csv").write_text(f"year,n\n{year},1\n")
    (tmp_path / "orders_9.csv").write_text("something,else\n1,1\n")  # another first line: another table
    (tmp_path / "stores.csv").write_text("a\n1\n")
    (tmp_path / "big").mkdir()
    for i in range(3):
        duckdb.sql(f"SELECT {i} AS i").write_parquet(str(tmp_path / "big" / f"part-{i:05}.parquet"))
    database = open_database(tmp_path)
    assert names(database) == ["orders", "orders_9", "stores"]
    assert run(database, "SELECT sum(year), count(*) FROM orders") == [(6069, 3)]
    assert names(open_database(tmp_path / "**" / "*.parquet")) == ["big"]
    assert run(open_database(tmp_path / "big"), "SELECT sum(i) FROM big") == [(3,)]
    assert names(open_database(tmp_path / "orders_2022.csv")) == ["orders_2022"]


@pytest.mark.parametrize("text", ["", "2024", "a b", "Ünï-cödé", "💶", "select", "a.b.c", "x" * 300])
def test_names_of_tables_need_no_quotes(text: str) -> None:
    name = table_name(text)
    assert name.replace("_", "a").isalnum() and not name[0].isdigit()


def test_names_of_files_and_columns_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "it's [1] *weird* 💶.csv"
    path.write_text('"sel""ect",order,"new\nline",💶\n1,2,3,4\n')
    database = open_database(path)
    [table] = read_schema(database).tables
    assert [c.name for c in table.columns] == ['sel"ect', "order", "new\nline", "💶"]
    sql = f'SELECT "sel""ect", "order", "new\nline", "💶" FROM {table.name}'
    assert run(database, sql) == [(1, 2, 3, 4)]


def test_nothing_but_these_files_can_be_read(folder: Path) -> None:
    secret = folder / "secret.txt"
    secret.write_text("s3cret")
    with Worker(open_database(folder / "shops.csv")) as worker:
        for sql in (
            f"SELECT * FROM read_text('{secret}')", f"SELECT * FROM read_csv('{folder}/shops.tsv')", 
            "SELECT * FROM glob('/etc/*')",
            f"COPY shops TO '{folder}/out.csv'", "SET enable_external_access = true", f"ATTACH '{folder}/x.db'", "INSTALL httpfs",
        ):  # fmt: skip
            with pytest.raises(OpenArcticError) as caught:
                worker.execute(Checked(sql, (), ()))
            assert "s3cret" not in str(caught.value)
        assert worker.execute(Checked("SELECT count(*) FROM shops", (), ())).rows == [(2,)]
    assert not (folder / "out.csv").exists()


def test_a_file_that_changes_or_goes_is_noticed(folder: Path) -> None:
    path = folder / "shops.csv"
    with Worker(open_database(path)) as worker:
        count = Checked("SELECT count(*) FROM shops", (), ())
        assert worker.execute(count).rows == [(2,)]
        path.write_text(ROWS + "3,Bern,1\n")
        assert worker.execute(count).rows == [(3,)]
        path.write_text("now,another\n1,2\n")
        with pytest.raises(MissingError, match="city"):
            worker.execute(Checked("SELECT city FROM shops", (), ()))
        path.unlink()
        with pytest.raises(MissingError, match="any more"):
            worker.execute(count)


def test_a_type_that_changes_late_in_the_file(tmp_path: Path) -> None:
    lines = [*(str(i) for i in range(50_000)), "none"]
    (tmp_path / "late.csv").write_text("n\n" + "\n".join(lines) + "\n")
    assert run(open_database(tmp_path / "late.csv"), "SELECT max(n), count(*) FROM late") == [("none", 50_001)]


def wrong(folder: Path, kind: str) -> Path:
    content: dict[str, tuple[str, bytes]] = {
        "empty": ("e.csv", b""),
        "not parquet": ("x.parquet", b"no parquet here, certainly not"),
        "not json": ("x.json", b"{broken"),
        "not utf-8": ("x.csv", b"a,b\n" + "é".encode("latin-1") + b",1\n" * 3),
        "old excel": ("x.xls", b"\xd0\xcf\x11\xe0" * 10),
        "not excel": ("x.xlsx", b"PK\x03\x04 but no archive"),
        "another archive": ("y.xlsx", b""),
        "text": ("x.txt", b"just text"),
        "gzipped parquet": ("x.parquet.gz", b"\x1f\x8b" * 10),
    }
    name, data = content[kind]
    path = folder / name
    path.write_bytes(data)
    if kind == "another archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "x")
    return path


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("empty", UserError, "is empty"),
        ("not parquet", CorruptError, "cannot read"),
        ("not json", CorruptError, "cannot read"),
        ("not utf-8", CorruptError, "cannot read"),
        ("old excel", UserError, "neither"),
        pytest.param("not excel", CorruptError, "not an Excel book", marks=needs_openpyxl),
        pytest.param("another archive", CorruptError, "not an Excel book", marks=needs_openpyxl),
        ("text", UserError, "neither"),
        ("gzipped parquet", UserError, "neither"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path: Path, kind: str, error: type[OpenArcticError], text: str) -> None:
    path = wrong(tmp_path, kind)
    with pytest.raises(error, match=text) as caught:
        read_schema(open_database(path))
    assert caught.value.hint


def test_folders_and_patterns_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        open_database(tmp_path)
    with pytest.raises(MissingError, match="no data file matches"):
        open_database(tmp_path / "*.csv")
    with pytest.raises(UserError, match="no option 'schema'"):
        open_database(f"file://{tmp_path}/x.csv?schema=a")


# --- Excel ---


@pytest.fixture
def book(tmp_path: Path) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Sales 2024"
    day = datetime.datetime(2024, 2, 29)
    rows = [(), ("id", "City", "City", None, "when", "open", "at"), (1, "Oslo", 1.5, "x", day, True, day.replace(hour=8)),
            (), (2, "Rome", 2, None, day, False, None), (None, None, None, None, None, None, None)]  # fmt: skip
    for row in rows:
        sheet.append(row)
    made.create_sheet("mixed & empty").append(("a", "b"))
    made["mixed & empty"].append((1, None))
    made["mixed & empty"].append(("two", None))
    made.save(tmp_path / "shop.xlsx")
    return tmp_path / "shop.xlsx"


def test_sheets_are_tables(book: Path) -> None:
    database = open_database(book)
    schema = read_schema(database)
    sales = schema.table("shop_sales_2024")
    assert {t.name for t in schema.tables} == {"shop_Sales_2024", "shop_mixed_empty"}
    assert sales is not None and sales.row_count == 2
    assert [(c.name, c.type) for c in sales.columns] == [
        ("id", "BIGINT"), ("City", "VARCHAR"), ("City_1", "DOUBLE"), ("column4", "VARCHAR"), ("when", "DATE"),
        ("open", "BOOLEAN"),
        ("at", "TIMESTAMP"),
    ]  # fmt: skip
    assert set(sales.columns[1].values) == {"Oslo", "Rome"}
    assert run(database, "SELECT * FROM shop_Sales_2024 ORDER BY id") == [
        (1, "Oslo", 1.5, "x", "2024-02-29", True, "2024-02-29 08:00:00"),
        (2, "Rome", 2.0, None, "2024-02-29", False, None),
    ]
    assert run(database, "SELECT a, b FROM shop_mixed_empty") == [("1", None), ("two", None)]


def test_books_beyond_the_limits(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openarctic.copilot.databases.excel.MAX_CELLS", 5)
    with pytest.raises(CapacityError, match="more than 5 cells"):
        read_schema(open_database(book))
    monkeypatch.setattr("openarctic.copilot.databases.excel.MAX_UNPACKED_BYTES", 100)
    with pytest.raises(CapacityError, match="unpacks to"):
        open_database(book)


def test_a_missing_reader_of_books_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(MissingError, match="openpyxl"):
        open_database(tmp_path / "a.xlsx")
