"""Opening and reading: both engines give the same schema, and every wrong file gets its own clear error."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from openarctic.copilot.databases import open_database, read_schema
from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, UserError

from .files import write_both

TABLES = """
CREATE TABLE shops (shop_id INTEGER PRIMARY KEY, city VARCHAR);
CREATE TABLE sales (sale_id INTEGER PRIMARY KEY, shop_id INTEGER REFERENCES shops (shop_id), note VARCHAR, price DOUBLE);
CREATE VIEW cheap AS SELECT * FROM sales WHERE price < 10;
INSERT INTO shops VALUES (1, 'Oslo'), (2, 'Rome');
INSERT INTO sales VALUES (1, 1, 'gift', 5.0), (2, 1, '2024-01-01', 20.0), (3, 2, NULL, 7.5);
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_both(tmp_path, TABLES)


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_schema(files: dict[str, Path], dialect: str) -> None:
    database = open_database(files[dialect])
    assert (database.dialect, database.name) == (dialect, "shop")
    schema = read_schema(database)
    tables = {t.name: t for t in schema.tables}
    assert set(tables) == {"shops", "sales", "cheap"}
    assert tables["cheap"].is_view and not tables["sales"].is_view
    assert tables["sales"].primary_key == ("sale_id",)
    assert tables["sales"].row_count == 3
    [key] = tables["sales"].foreign_keys
    assert (key.column, key.table, key.to_column) == ("shop_id", "shops", "shop_id")
    city = tables["shops"].column("CITY")
    assert city is not None and set(city.values) == {"Oslo", "Rome"}
    note = tables["sales"].column("note")
    assert note is not None and note.values == ("gift",)  # dates and NULL are not linkable
    assert list(schema.links("shops")) == [("sales", "shop_id", "shop_id")]


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_reading_changes_nothing(files: dict[str, Path], dialect: str) -> None:
    before = files[dialect].read_bytes()
    read_schema(open_database(files[dialect]))
    assert files[dialect].read_bytes() == before
    assert {p.name for p in files[dialect].parent.iterdir()} == {"shop.sqlite", "shop.duckdb"}


def test_urls(files: dict[str, Path]) -> None:
    assert open_database(f"sqlite:///{files['sqlite']}").path == files["sqlite"]
    assert open_database(f"duckdb://{files['duckdb']}").path == files["duckdb"]
    with pytest.raises(UserError, match="scheme 'oracle'"):
        open_database("oracle://somewhere/db")


def wrong_files(folder: Path) -> dict[str, tuple[Path, type[OpenArcticError], str]]:
    """Kind -> (path, error, part of its message)."""
    (folder / "empty.db").touch()
    (folder / "text.db").write_text("just some text, long enough for a header")
    (folder / "cut.duckdb").write_bytes(b"\0" * 8 + b"DUCK" + b"\xff" * 5000)
    (folder / "cut.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with sqlite3.connect(folder / "bare.sqlite") as bare:
        bare.execute("CREATE TABLE t (a)")
        bare.execute("DROP TABLE t")
    bare.close()
    duckdb.connect(str(folder / "bare.duckdb")).close()
    return {
        "missing": (folder / "none.db", MissingError, "no database at"),
        "directory": (folder, UserError, "is a directory"),
        "empty": (folder / "empty.db", UserError, "is empty"),
        "text": (folder / "text.db", UserError, "neither a DuckDB nor a SQLite"),
        "corrupt duckdb": (folder / "cut.duckdb", CorruptError, "cannot read"),
        "corrupt sqlite": (folder / "cut.sqlite", CorruptError, "cannot read"),
        "sqlite without tables": (folder / "bare.sqlite", UserError, "no tables"),
        "duckdb without tables": (folder / "bare.duckdb", UserError, "no tables"),
    }


KINDS = ["missing", "directory", "empty", "text", "corrupt duckdb", "corrupt sqlite", "sqlite without tables"]


@pytest.mark.parametrize("kind", [*KINDS, "duckdb without tables"])
def test_wrong_files(tmp_path: Path, kind: str) -> None:
    path, error, text = wrong_files(tmp_path)[kind]
    with pytest.raises(error, match=text) as caught:
        read_schema(open_database(path))
    assert caught.value.hint


def test_a_locked_duckdb_file(files: dict[str, Path]) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb, sys; c = duckdb.connect({str(files['duckdb'])!r}); print(1, flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(CapacityError, match="locked"):
            read_schema(open_database(files["duckdb"]))
    finally:
        holder.communicate()


def test_a_locked_sqlite_file(files: dict[str, Path]) -> None:
    with sqlite3.connect(files["sqlite"]) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CapacityError, match="locked"):
            read_schema(open_database(files["sqlite"]))
    writer.close()


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_views_come_with_the_text_that_made_them(tmp_path: Path, dialect: str) -> None:
    path = write_both(tmp_path, "CREATE TABLE t (a INTEGER); CREATE VIEW v AS SELECT a + 1 AS b FROM t;")[dialect]
    schema = read_schema(open_database(path))
    view, table = schema.table("v"), schema.table("t")
    assert view is not None and view.is_view and "a + 1" in view.definition
    assert table is not None and table.definition == ""


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_comments(tmp_path: Path, dialect: str) -> None:
    script = """CREATE TABLE orders /* what was bought */ (
      id INTEGER PRIMARY KEY, -- its number
      price DOUBLE NOT NULL, /* in euros, "net" */
      -- the day
      day DATE,
      note VARCHAR
    );"""
    path = write_both(tmp_path, script)[dialect]
    if dialect == "duckdb":
        with duckdb.connect(str(path)) as connection:
            connection.execute("COMMENT ON TABLE orders IS 'what was bought'; COMMENT ON COLUMN orders.id IS 'its number'")
            connection.execute("COMMENT ON COLUMN orders.price IS 'in euros, \"net\"'; COMMENT ON COLUMN orders.day IS 'the day'")
    [table] = read_schema(open_database(path)).tables
    assert table.comment == "what was bought"
    assert [column.comment for column in table.columns] == ["its number", 'in euros, "net"', "the day", ""]
