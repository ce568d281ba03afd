"""The command line as its user meets it: output, exit codes, one clear line for everything that is wrong."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openarctic.cli import COMMANDS, main
from openarctic.cli.render import render
from openarctic.copilot.sample import sample_database

HOSTILE = Path(__file__).parent.parent / "copilot" / "cases"
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900000000) SELECT count(*) FROM n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, cid INTEGER REFERENCES customers (id), region TEXT, x REAL);"
            "CREATE TABLE salaries (id INTEGER, amount INTEGER);"
            "INSERT INTO customers VALUES (1, 'Ann'), (2, 'Bo | Co'), (3, NULL);"
            "INSERT INTO salaries VALUES (1, 987654);"
        )
    connection.close()
    return tmp_path / "shop.sqlite"


def run(*arguments: str) -> int:
    """The exit code, also where argparse ends the program."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def test_query_prints_rows_and_nothing_else(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("query", "SELECT name FROM customers ORDER BY id", "--db", str(shop), "--format", "csv") == 0
    printed = capsys.readouterr()
    assert printed.out == 'name\nAnn\nBo | Co\n""\n'
    assert printed.err == ""


def test_query_json(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("query", "SELECT id, name FROM customers", "--db", str(shop), "--limit", "2", "--format", "json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "ok" and body["error"] is None and body["truncated"] is True
    assert body["columns"] == ["id", "name"] and body["rows"] == [[1, "Ann"], [2, "Bo | Co"]]


def test_query_stays_within_the_named_tables(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--db", str(shop), "--tables", "orders,customers", "--format", "json")
    assert run("query", "SELECT amount FROM salaries", *arguments) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["type"] == "not_permitted"
    assert "987654" not in printed.out + printed.err


def test_hostile_statements_do_nothing(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = shop.read_bytes()
    for sql in (HOSTILE / "hostile_sqlite.sql").read_text().splitlines():
        assert run("query", sql, "--db", str(shop), "--tables", "orders,customers") == 3, sql
    printed = capsys.readouterr()
    assert "987654" not in printed.out and "Traceback" not in printed.err
    assert shop.read_bytes() == before
    assert [p.name for p in shop.parent.iterdir()] == ["shop.sqlite"]


def test_hostile_statements_do_nothing_in_duckdb(capsys: pytest.CaptureFixture[str]) -> None:
    path = sample_database().path
    before = path.read_bytes()
    for sql in (HOSTILE / "hostile_duckdb.sql").read_text().splitlines():
        assert run("query", sql, "--tables", "orders,customers") == 3, sql
    assert "Traceback" not in capsys.readouterr().err
    assert path.read_bytes() == before


def test_schema(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    assert run("schema", "--db", str(shop)) == 0
    assert "cid INTEGER > customers.id" in capsys.readouterr().out
    assert run("schema", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)["tables"]) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["ask", ""], 2, "empty"),
        (["ask", "x" * 20_000], 2, "20000"),
        (["ask", "\x00\x01\x02\x03"], 2, "question"),
        (["ask", "delete all orders"], 3, "delete"),
        (["ask", "How many?", "--model", "arctic-nan"], 2, "no model named 'arctic-nan'"),
        (["ask", "How many?", "--db", "/no/such/file.db"], 2, "no database"),
        (["ask", "How many?", "--candidates", "0"], 2, "--candidates is 0"),
        (["query", "SELECT 1", "--limit", "0"], 2, "--limit is 0"),
        (["query", "SELECT 1", "--timeout", "0"], 2, "--timeout"),
        (["query", "SELEC 1"], 3, "SQL"),
        (["query", "SELECT nme FROM customers"], 3, "nme"),
        (["schema", "--db", "/dev"], 2, "directory"),
        (["generate", "x", "--max-tokens", "0"], 2, "--max-tokens is 0"),
        (["generate", "x", "--grammar", "/no/grammar"], 2, "no grammar"),
        (["eval", "spider", "--questions", "/no/q.jsonl", "--databases", "/no"], 2, "no question file"),
        (["nonsense"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_input_is_told_in_a_line(arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert "Traceback" not in printed.err and printed.out == ""


def test_errors_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ask", "drop table orders", "--format", "json") == 3
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "refused" and body["sql"] is None and body["error"]["hint"]


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "file" / "cache"))
    assert run("query", "SELECT count(*) FROM customers") == 2
    assert "OPENARCTIC_CACHE" in capsys.readouterr().err


def test_questions_from_standard_input_must_be_text() -> None:
    done = subprocess.run(command("ask", "-"), input=b"\xff\xfe\x00", capture_output=True)
    assert done.returncode == 2 and b"UTF-8" in done.stderr and b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    pipe = (
        f"{' '.join(map(repr, command('query', 'SELECT o.order_id FROM orders o, orders p', '--limit', '100000')))} | head -n 1"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("times", [1, 3])
def test_interrupted(shop: Path, times: int) -> None:
    process = subprocess.Popen(
        command("query", SLOW, "--db", str(shop), "--timeout", "60"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = wait_for_children(process.pid)
    time.sleep(1.0)  # on a busy machine modules are still being loaded before, and some loaders swallow an interrupt
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err
    time.sleep(0.2)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def command(*arguments: str) -> list[str]:
    """The program, whether installed or not."""
    return [sys.executable, "-c", "import sys; from openarctic.cli import main; sys.exit(main())", *arguments]


def wait_for_children(pid: int) -> list[str]:
    """Process ids, once there are some."""
    for _ in range(200):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("no child was started")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: openarctic {name}")
    assert name == "doctor" or f"openarctic {name}" in text.split("\n", 3)[3], "no example"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("openarctic 0.")


def test_a_cell_cannot_steer_the_terminal() -> None:
    for form in ("table", "md"):
        assert "\x1b" not in render(["a"], [["\x1b[31mred"]], form)


def test_markdown_and_json() -> None:
    assert render(["a|b"], [["x|y"]], "md") == "| a\\|b |\n| --- |\n| x\\|y |\n"
    assert json.loads(render(["a"], [[None]], "json")) == {"columns": ["a"], "rows": [[None]]}


@pytest.mark.parametrize(
    ("number", "name", "code", "told"),
    [
        (errno.EACCES, "x.gguf", 2, "error: x.gguf: Permission denied"),
        (errno.ENOSPC, "x.gguf", 5, "error: x.gguf: No space left on device"),
        (errno.EIO, None, 2, "error: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, name: str | None, code: int, told: str
) -> None:
    def refused(args: argparse.Namespace) -> int:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr("openarctic.cli.doctor.run", refused)
    assert main(["doctor"]) == code
    assert told in capsys.readouterr().err


def test_an_error_of_nobody_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: argparse.Namespace) -> int:
        raise OSError("not from the system")

    monkeypatch.setattr("openarctic.cli.doctor.run", broken)
    with pytest.raises(OSError, match="not from the system"):
        main(["doctor"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_at_the_output() -> None:
    code = "import sys; from openarctic.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "model", "describe", "arctic-nano"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5 and done.stderr.startswith("error: No space left on device") and "Traceback" not in done.stderr
