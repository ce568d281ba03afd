"""Schemas kept on disk: the same as read anew, and noticed when they are not."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import duckdb
import pytest

from openarctic.copilot.databases import cache, cached_schema, open_database, read_schema
from openarctic.errors import MissingError

from .files import write_both

TABLES = """
CREATE TABLE shops (shop_id INTEGER PRIMARY KEY, city VARCHAR);
CREATE TABLE sales (sale_id INTEGER PRIMARY KEY, shop_id INTEGER REFERENCES shops (shop_id), price DOUBLE);
CREATE VIEW cheap AS SELECT * FROM sales WHERE price < 10;
INSERT INTO shops VALUES (1, 'Oslo'), (2, 'Rome');
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "schemas"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every schema that was really read."""
    lines: list[str] = []

    def counted(database, *, values=True):  # type: ignore[no-untyped-def]
        lines.append(database.name)
        return read_schema(database, values=values)

    monkeypatch.setattr(cache, "read_schema", counted)
    return lines


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_what_is_kept_is_what_was_read(tmp_path: Path, dialect: str, reads: list[str], folder: Path) -> None:
    database = open_database(write_both(tmp_path, TABLES)[dialect])
    if dialect == "duckdb":
        with duckdb.connect(str(database.path)) as connection:
            connection.execute("COMMENT ON TABLE shops IS 'where'; COMMENT ON COLUMN shops.city IS 'its \"town\" 💶'")
    fresh = read_schema(database)
    assert cached_schema(database) == fresh and cached_schema(database) == fresh
    assert reads == ["shop"]
    assert cached_schema(database, values=False) == read_schema(database, values=False)
    assert cached_schema(database, refresh=True) == fresh
    assert reads == ["shop"] * 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_changes_are_noticed(tmp_path: Path, reads: list[str]) -> None:
    paths = write_both(tmp_path, TABLES)
    lite, duck = open_database(paths["sqlite"]), open_database(paths["duckdb"])
    for database in (lite, duck):
        assert len(cached_schema(database).tables) == 3
    writer = sqlite3.connect(lite.file)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE more (a)")
    writer.commit()
    assert len(cached_schema(lite).tables) == 4  # what is in the log alone, too
    writer.close()
    with duckdb.connect(str(duck.path)) as connection:
        connection.execute("DROP VIEW cheap")
    assert len(cached_schema(duck).tables) == 2
    assert len(reads) == 4
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    files = open_database(tmp_path / "a.csv")
    assert [c.name for c in cached_schema(files).tables[0].columns] == ["x", "y"]
    (tmp_path / "a.csv").write_text("x,z\n1,2\n")
    assert [c.name for c in cached_schema(files).tables[0].columns] == ["x", "z"]
    (tmp_path / "a.csv").unlink()
    with pytest.raises(MissingError, match="any more"):
        cached_schema(files)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"format": 1}', '{"format": 0, "fingerprint": [], "read_at": 0, "schema": {}}']
)
def test_a_damaged_cache_is_done_without(tmp_path: Path, folder: Path, damage: str) -> None:
    database = open_database(write_both(tmp_path, TABLES)["sqlite"])
    fresh = cached_schema(database)
    [kept] = folder.iterdir()
    kept.write_text(damage)
    assert cached_schema(database) == fresh
    assert kept.read_text() != damage


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(write_both(tmp_path, TABLES)["sqlite"])
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "in the way"))
    assert cached_schema(database) == read_schema(database)


@pytest.mark.postgres
def test_a_server_is_read_again_when_its_catalog_has_changed(
    postgres, reads: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch  # type: ignore[no-untyped-def]
) -> None:  # fmt: skip
    postgres.run("CREATE SCHEMA kept", "CREATE TABLE kept.t (a integer, b text)", "INSERT INTO kept.t VALUES (1, 'Oslo')")
    url = postgres.admin_url + "?allow_writing_role=yes&schema=kept"
    database = open_database(url)
    assert cached_schema(database) == cached_schema(database) == read_schema(database)
    assert len(reads) == 1
    for i, change in enumerate(
        ["ALTER TABLE kept.t ADD c date", "COMMENT ON COLUMN kept.t.c IS 'day'", "ALTER TABLE kept.t ADD PRIMARY KEY (a)",
         "CREATE VIEW kept.v AS SELECT 1 AS x", "ALTER TABLE kept.t ALTER c TYPE timestamp", "DROP VIEW kept.v"], start=2
    ):  # fmt: skip
        postgres.run(change)
        assert cached_schema(database) == read_schema(database)
        assert len(reads) == i
    monkeypatch.setattr(cache, "SERVER_AGE_S", 0.0)  # and when it is old
    cached_schema(database)
    assert len(reads) == 8
    kept = "".join(path.read_text() for path in folder.iterdir()) + " ".join(map(str, folder.iterdir()))
    assert "Oslo" in kept and "s3cret" not in kept
    postgres.run("DROP SCHEMA kept CASCADE")
    assert os.access(folder, os.R_OK)
