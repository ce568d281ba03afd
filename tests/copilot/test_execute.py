"""Limits of time, memory and rows; the child dies when it must."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.execute import Worker, execute
from openarctic.copilot.guard import Checked
from openarctic.errors import CapacityError, MissingError, UserError

from .files import write_both


@pytest.fixture
def database(tmp_path: Path) -> Database:
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 10) for i in range(2000)])
    connection.close()
    return open_database(tmp_path / "t.sqlite")


def read(sql: str) -> Checked:
    return Checked(sql, ("t",), ())


def test_rows_and_truncation(database: Database) -> None:
    with Worker(database) as worker:
        some = worker.execute(read("SELECT a, b FROM t ORDER BY a"), limit=3)
        every = worker.execute(read("SELECT a FROM t"), limit=2000)
    assert (some.columns, some.rows[0], len(some.rows), some.truncated) == (["a", "b"], (0, "x" * 10), 3, True)
    assert (len(every.rows), every.truncated) == (2000, False)


def test_a_long_query_is_stopped_and_the_worker_lives_on(database: Database) -> None:
    bomb = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    with Worker(database) as worker:
        worker.execute(read("SELECT 1"))
        started = time.monotonic()
        with pytest.raises(CapacityError, match="longer than"):
            worker.execute(read(bomb), timeout_s=0.5)
        assert time.monotonic() - started < 1.5
        assert worker.execute(read("SELECT count(*) FROM t")).rows == [(2000,)]


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_a_statement_is_stopped_from_another_thread(dialect: str, tmp_path: Path) -> None:
    """What runs ends, nothing runs (nor starts a process) until the worker is closed, and then everything does again."""
    files = write_both(tmp_path, "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2), (3), (4);")
    slow = read("SELECT count(*) FROM " + ", ".join(f"t AS t{i}" for i in range(16)))
    with Worker(open_database(files[dialect])) as worker, ThreadPoolExecutor() as threads:
        running = threads.submit(worker.execute, slow, timeout_s=60)
        time.sleep(0.3)
        worker.stop()
        with pytest.raises(CapacityError):
            running.result(timeout=10)
        with pytest.raises(CapacityError, match="was stopped"):
            worker.execute(read("SELECT 1 AS one"))
        assert worker._process is None
        worker.close()
        assert worker.execute(read("SELECT 1 AS one")).rows == [(1,)]


def test_a_query_that_kills_its_process_is_a_capacity_error(database: Database) -> None:
    worker = Worker(database)
    worker.execute(read("SELECT 1"))
    assert worker._process is not None
    worker._process.kill()
    with pytest.raises(CapacityError):
        worker.execute(read("SELECT 1"))
    assert worker.execute(read("SELECT 1")).rows == [(1,)]
    worker.close()


def test_errors_of_the_database_are_told(database: Database) -> None:
    with pytest.raises(UserError, match="nothere"):
        execute(database, read("SELECT nothere FROM t"))


def test_the_child_ends_with_its_parent(database: Database) -> None:
    code = (
        "import sys, os; from openarctic.copilot.databases import open_database; "
        "from openarctic.copilot.execute import Worker; "
        f"w = Worker(open_database({str(database.path)!r})); print(w._process.pid, flush=True); os._exit(9)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


@pytest.fixture
def logged(tmp_path: Path) -> Database:
    """A database in write-ahead-log mode that nobody has open."""
    with sqlite3.connect(tmp_path / "w.sqlite") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a INTEGER)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    return open_database(tmp_path / "w.sqlite")


def test_reading_a_database_with_a_log_leaves_no_files(logged: Database) -> None:
    before = logged.path.read_bytes()
    read_schema(logged)
    assert execute(logged, read("SELECT a FROM t")).rows == [(1,)]
    assert [p.name for p in logged.path.parent.iterdir()] == ["w.sqlite"]
    assert logged.path.read_bytes() == before


def test_what_a_writer_adds_is_seen(logged: Database) -> None:
    with Worker(logged) as worker:
        assert worker.execute(read("SELECT count(*) FROM t")).rows == [(1,)]
        writer = sqlite3.connect(logged.path)
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        assert worker.execute(read("SELECT count(*) FROM t")).rows == [(2,)]
        writer.close()  # the log is merged into the file
        assert worker.execute(read("SELECT count(*) FROM t")).rows == [(2,)]


def test_a_database_that_has_gone_is_told(logged: Database) -> None:
    with Worker(logged) as worker:
        worker.execute(read("SELECT a FROM t"))
        logged.path.unlink()
        with pytest.raises(MissingError, match="any more"):
            worker.execute(read("SELECT a FROM t"))
