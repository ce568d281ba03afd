"""The audit log: every door writes to it, values do not reach it, and whoever changes it is found out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.copilot.access import open_access
from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.audit import AuditLog, Event, redacted, verify
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.principal import ANYONE
from openarctic.errors import CorruptError, MissingError, RefusedError, UserError
from openarctic.generator import ScriptedGenerator

from .files import write_both

SETUP = """
CREATE TABLE orders (id INTEGER, owner VARCHAR);
CREATE TABLE secrets (word VARCHAR);
INSERT INTO orders VALUES (1, 'ann'), (2, 'bob');
"""
POLICY = "roles: {r: {tables: {orders: {rows: 'owner = :user'}}}}\nusers: {ann: [r]}\naudit: log/audit.jsonl\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_both(tmp_path, SETUP)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "log").mkdir()
    return tmp_path


def lines(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (place / "log/audit.jsonl").read_text().splitlines()]


def query(place: Path, sql: str, user: str = "ann") -> int:
    return main(["query", sql, "--db", str(place / "shop.sqlite"), "--policy", str(place / "policy.yaml"), "--user", user])


def test_queries_and_refusals_are_recorded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert query(place, "SELECT id FROM orders WHERE owner = 'Bob Smith' AND id < 12345") == 0
    assert "only some rows of orders" in capsys.readouterr().err
    assert query(place, "SELECT word FROM secrets") == 3
    assert query(place, "SELECT 1", "joe") == 3
    answered, refused, unknown = lines(place)
    assert (answered["user"], answered["status"], answered["rows"], answered["tables"]) == ("ann", "ok", 0, ["orders"])
    assert answered["sql"] == "SELECT id FROM orders WHERE owner = ? AND id < ?"
    assert (refused["status"], refused["error"], refused["rows"]) == ("refused", "not_permitted", None)
    assert (unknown["user"], unknown["roles"], unknown["status"]) == ("joe", [], "refused")
    assert main(["audit", "verify", str(place / "log/audit.jsonl")]) == 0
    assert str(unknown["hash"]) in capsys.readouterr().out


def test_questions_are_recorded_without_their_words(place: Path) -> None:
    database = open_database(place / "shop.sqlite")
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM orders WHERE owner = 'Bob'"]])
    with Copilot(database, model, policy=place / "policy.yaml", user="ann") as copilot:
        copilot.ask("How many orders has Bob Smith?", AskOptions(candidates=1))
    (line,) = lines(place)
    assert line["door"] == "ask" and len(str(line["question_sha256"])) == 64 and line["rows"] == 1
    assert "Bob" not in json.dumps(line)


def test_what_cannot_be_recorded_is_not_answered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "log").rmdir()
    assert query(place, "SELECT id FROM orders") == 2
    out = capsys.readouterr()
    assert out.out == "" and "audit log" in out.err
    (place / "log").mkdir()
    (place / "log/audit.jsonl").write_text('{"hash": "cut o')
    assert query(place, "SELECT id FROM orders") == 6
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dialect", "sql", "kept"),
    [
        ("duckdb", "SELECT id /* Bob */ FROM orders WHERE owner = 'Bob' -- 42", "SELECT id FROM orders WHERE owner = ?"),
        ("duckdb", 'SELECT id AS "Bob Smith" FROM "orders"', 'SELECT id AS "?" FROM "orders"'),
        ("duckdb", "SELECT 12, 1.5e3, 0xFF, DATE '2024-01-01', INTERVAL 5 DAY", "SELECT ?, ?, ?, DATE ?, INTERVAL ? DAY"),
        ("sqlite", 'SELECT id FROM orders WHERE owner = "Bob" LIMIT 7', 'SELECT id FROM orders WHERE owner = "?" LIMIT ?'),
        ("postgres", "SELECT E'Bob\\n', $$Bob$$, x'4b', B'01'", "SELECT ?, ?, ?, ?"),
        ("snowflake", "DROP TABLE orders; SELECT $$Bob$$, $1", "DROP TABLE orders; SELECT ?, ?"),
        ("duckdb", "SELEC nonsense 'Bob' )( 42", "SELEC nonsense ? )( ?"),
        ("duckdb", "SELECT 'Bob", "(not SQL that can be read)"),
        ("sqlite", "PRAGMA key = 'Bob'", "PRAGMA key = ?"),
    ],
)
def test_no_value_is_kept(tmp_path: Path, dialect: str, sql: str, kept: str) -> None:
    database = open_database(write_both(tmp_path, SETUP)["sqlite"])
    assert redacted(sql, dialect, read_schema(database)) == kept


def event(name: str = "query") -> Event:
    return Event(door=name, principal=ANYONE, dialect="duckdb", sql="SELECT 1")


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for _ in range(5):
        log.append(event())
    return log


def test_the_chain_holds(log: AuditLog) -> None:
    last = log.append(event())
    chain = verify(log.path)
    assert (chain.lines, chain.last_hash) == (6, last)
    assert verify(log.path, anchor=last).lines == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:2], lines[2].replace("anyone", "nobody"), *lines[3:]], "line 3 was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3 does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lambda lines: [*lines, lines[-1]], "line 6 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [*lines[:3], "{}\n", *lines[3:]], "line 4 does not follow"),
        (lambda lines: [*lines[:4], lines[4][:-20]], "line 5 is damaged or cut off"),
    ],
)
def test_a_change_is_found_out(log: AuditLog, change: object, said: str) -> None:
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(change(lines)))  # type: ignore[operator]
    with pytest.raises(CorruptError, match=said):
        verify(log.path)


def test_a_shorter_log_misses_its_anchor(log: AuditLog) -> None:
    last = verify(log.path).last_hash
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(lines[:3]))
    assert verify(log.path).lines == 3  # by itself it is whole
    with pytest.raises(CorruptError, match="does not hold the hash"):
        verify(log.path, anchor=last)
    with pytest.raises(MissingError):
        verify(log.path.with_name("none"))


def test_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with ThreadPoolExecutor(4) as writers:  # each opens and locks the file for itself, as processes do
        list(writers.map(lambda _: AuditLog(path).append(event()), range(60)))
    assert verify(path).lines == 60


def test_a_policy_without_a_log_records_nothing(place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY.split("audit:")[0])
    assert query(place, "SELECT id FROM orders") == 0
    assert not list((place / "log").iterdir())


def test_errors_of_the_door_come_out_unchanged(place: Path) -> None:
    access = open_access(read_schema(open_database(place / "shop.sqlite")), place / "policy.yaml", "ann")
    with pytest.raises(UserError, match="mine"), access.recorded("query"):
        raise UserError("mine")
    with pytest.raises(RefusedError), access.recorded("query"):
        access.check("SELECT word FROM secrets")
    assert [line["status"] for line in lines(place)] == ["failed", "refused"]


@pytest.mark.parametrize(("raised", "told"), [(KeyboardInterrupt(), "interrupted"), (ZeroDivisionError("bob"), "internal_error")])
def test_what_was_cut_off_is_recorded(place: Path, raised: BaseException, told: str) -> None:
    access = open_access(read_schema(open_database(place / "shop.sqlite")), place / "policy.yaml", "ann")
    with pytest.raises(type(raised)), access.recorded("query", sql="SELECT id FROM orders"):
        raise raised
    [line] = lines(place)
    assert (line["status"], line["error"]) == ("failed", told)
    assert "bob" not in json.dumps(line)
