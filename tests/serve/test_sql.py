"""Databases over HTTP: the same answers as the command line's, under the same guard and policy."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.ask import AskOptions, ask
from openarctic.copilot.databases import open_database
from openarctic.copilot.policy import read_policy
from openarctic.copilot.principal import Principal
from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine, load
from openarctic.errors import UserError
from openarctic.serve.desk import MAX_BUSY, MAX_BUSY_OF_KEY, Desk, Seat, named
from openarctic.serve.keys import ANYONE, Key, digest_of, key_line, read_keys

from .test_gate import post_bytes, wait_until
from .world import Server, running

QUESTION = "How many orders have the status cancelled?"
SLOW = "SELECT count(*) FROM orders a, orders b, orders c, orders d WHERE a.order_id + b.order_id < c.order_id * d.order_id"
POLICY = """
roles:
  sales:
    tables:
      customers: {columns: {mask: {email: hash}}, rows: "segment = 'Club'"}
users:
  ann: [sales]
"""


@pytest.fixture(scope="module")
def nano() -> Engine:
    return load(threads=1)


@pytest.fixture(scope="module")
def served(nano: Engine) -> Iterator[Server]:
    desk = Desk(nano, {"sample": database_or_sample(None)})
    with running(nano, desk) as server:
        yield server
    desk.close()


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    parts = [part.split("\n") for part in body.decode().strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_a_question_whole_and_in_stages(served: Server, nano: Engine) -> None:
    wanted = ask(QUESTION, model=nano, options=AskOptions(chart=True)).to_dict()
    del wanted["timings_ms"]
    whole = served.post("/v1/ask", {"question": QUESTION, "stream": False, "chart": True}).json
    assert whole.pop("timings_ms")
    assert "chart_svg" not in whole  # one number is no picture
    assert whole == json.loads(json.dumps(wanted, default=str))
    told = events(served.post("/v1/ask", {"question": QUESTION, "database": "sample", "chart": True}).body)
    assert [name for name, _ in told] == ["linked", "sql", "rows", "answer", "done"]
    stages = dict(told)
    assert {"orders"} <= set(stages["linked"]["tables"])
    assert stages["linked"]["values"] == [{"value": "cancelled", "places": ["orders.status"]}]
    assert (stages["sql"]["sql"], stages["rows"]["rows"], stages["answer"]["answer"]) == (
        whole["sql"],
        whole["rows"],
        whole["answer"],
    )
    assert stages["done"].pop("timings_ms") and stages["done"] == whole


@pytest.mark.parametrize(
    ("question", "status", "type"), [("Delete all orders", "refused", "not_a_read"), ("", "error", "bad_input")]
)
def test_what_is_no_question(served: Server, question: str, status: str, type: str) -> None:
    [(name, told)] = events(served.post("/v1/ask", {"question": question}).body)
    assert (name, told["status"], told["error"]["type"]) == ("error", status, type)
    reply = served.post("/v1/ask", {"question": question, "stream": False})
    assert reply.status == (403 if status == "refused" else 400)
    assert reply.json["status"] == status and reply.json["error"]["hint"]


def test_statements(served: Server) -> None:
    sql = "SELECT segment, count(*) AS n, avg(customer_id) AS a FROM customers GROUP BY segment ORDER BY segment"
    body = served.post("/v1/query", {"sql": sql, "chart": True}).json
    assert body["columns"] == ["segment", "n", "a"] and len(body["rows"]) == 3 and body["status"] == "ok"
    assert body["chart"]["mark"] and body["chart_svg"].startswith("<svg ")
    cut = served.post("/v1/query", {"sql": "SELECT * FROM orders", "limit": 5}).json
    assert len(cut["rows"]) == 5 and cut["truncated"]
    text = served.post("/v1/query", {"sql": sql, "format": "csv"})
    assert text.headers["content-disposition"] == 'attachment; filename="result.csv"'
    rows = list(csv.reader(io.StringIO(text.body.decode())))
    assert rows[0] == body["columns"] and rows[1] == [str(cell) for cell in body["rows"][0]]


def test_parquet_keeps_the_rows(served: Server, tmp_path: Path) -> None:
    import duckdb

    sql = "SELECT 1 AS n, 1.5 AS f, 'x' AS t, NULL AS e, 2 AS N, true AS b UNION ALL SELECT 3, NULL, '=1+1', NULL, 4, false"
    reply = served.post("/v1/query", {"sql": sql, "format": "parquet"})
    assert reply.status == 200, reply.body
    path = tmp_path / "r.parquet"
    path.write_bytes(reply.body)
    found = duckdb.sql(f"SELECT * FROM '{path}' ORDER BY 1")
    assert found.columns == ["n", "f", "t", "e", "N_2", "b"]
    assert found.fetchall() == [(1, 1.5, "x", None, 2, True), (3, None, "=1+1", None, 4, False)]


def test_a_file_for_spreadsheets_holds_no_formulas(served: Server) -> None:
    reply = served.post("/v1/query", {"sql": "SELECT '=cmd()' AS a, '-5' AS b, '@x' AS c", "format": "csv"})
    assert reply.body.decode().splitlines()[1] == "'=cmd(),-5,'@x"


@pytest.mark.parametrize(
    ("sql", "status", "type"),
    [
        ("DROP TABLE orders", 403, "not_a_read"),
        ("SELECT * FROM nowhere", 400, "unknown_table"),
        ("SELECT nothing FROM orders", 400, "unknown_column"),
        ("SELECT read_text('/etc/passwd')", 403, "forbidden_function"),
        ("SELECT (", 400, "unparsable"),
        ("selec 1", 400, "unparsable"),
        ("", 400, "unparsable"),
        ("-- nothing", 400, "unparsable"),
        ("SELECT 1; SELECT 2", 403, "not_a_read"),
        ("SELECT CAST('x' AS INTEGER) FROM orders", 400, "bad_input"),
    ],
)
def test_refusals(served: Server, sql: str, status: int, type: str) -> None:
    for format in ("json", "csv"):
        reply = served.post("/v1/query", {"sql": sql, "format": format})
        assert (reply.status, reply.json["error"]["type"]) == (status, type), reply.body
        assert reply.json["status"] == ("error" if type == "bad_input" else "refused")


def test_schema_and_names(served: Server) -> None:
    body = served.get("/v1/schema").json
    orders = next(table for table in body["tables"] if table["name"] == "orders")
    assert "status" in [column["name"] for column in orders["columns"]] and "values" not in orders["columns"][0]
    assert served.get("/v1/databases").json["data"] == [{"id": "sample", "dialect": "duckdb"}]
    assert served.post("/v1/feedback", {"question": "x", "sql": "SELECT 1", "verdict": "up"}).error["code"] == "no_feedback"
    for name in ("other", "/etc/passwd", "../sample"):
        reply = served.post("/v1/query", {"sql": "SELECT 1", "database": name})
        assert (reply.status, reply.error["code"]) == (404, "unknown_database")


def test_cortex_analysts_form(served: Server) -> None:
    url = "/api/v2/cortex/analyst/message"
    asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]}
    for named_by in ({}, {"semantic_view": "DB.PUBLIC.SAMPLE"}, {"semantic_model_file": "@db.public.stage/sample.yaml"}):
        body = served.post(url, {**asked, **named_by}).json
        text, sql = body["message"]["content"]
        assert QUESTION in text["text"] and "orders" in sql["statement"] and body["request_id"]
        assert sql["confidence"] == {"verified_query_used": None}
    assert served.post(url, {**asked, "semantic_view": "db.public.other"}).json["error_code"] == "unknown_database"


def put_together(told: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Blocks of content from their deltas, as clients of Cortex Analyst do it."""
    blocks: dict[int, dict[str, Any]] = {}
    for name, data in told:
        if name == "message.content.delta":
            block = blocks.setdefault(data.pop("index"), {})
            for field, value in data.items():
                field = field.removesuffix("_delta")
                block[field] = value if field in ("type", "confidence") else block.get(field, "") + value
    return [blocks[index] for index in sorted(blocks)]


def test_cortex_analysts_stream_is_its_whole_message(served: Server) -> None:
    url = "/api/v2/cortex/analyst/message"
    asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]}
    whole = served.post(url, asked).json
    reply = served.post(url, {**asked, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    told = events(reply.body)
    assert put_together(told) == whole["message"]["content"]
    assert [data["status"] for name, data in told if name == "status"] == ["interpreting_question", "generating_sql", "done"]
    assert [name for name, _ in told][-3:] == ["response_metadata", "status", "done"]
    assert dict(told)["response_metadata"] == whole["response_metadata"]
    assert reply.body.decode().endswith('event: done\ndata: {"status":"done","status_message":"Done"}\n\n')
    unknown = served.post(url, {**asked, "semantic_view": "db.public.other", "stream": True})
    assert (unknown.status, unknown.json["error_code"]) == (404, "unknown_database")


def test_a_failure_in_cortex_analysts_stream_is_an_event(nano: Engine, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    desk = Desk(nano, {"sample": database_or_sample(None)}, read_policy(tmp_path / "policy.yaml"))
    with running(nano, desk, keys=(Key("bob", digest_of("b")),)) as server:
        asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}], "stream": True}
        told = events(server.post("/api/v2/cortex/analyst/message", asked, Authorization="Bearer b").body)
    assert [name for name, _ in told] == ["status", "error"]
    assert set(told[1][1]) == {"message", "code", "request_id"} and told[1][1]["code"] == "not_permitted"
    desk.close()


def test_no_database(server: Server) -> None:
    assert server.get("/v1/schema").error["param"] == "database"


def test_a_key_sees_what_its_policy_shows(nano: Engine, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    desk = Desk(nano, {"sample": database_or_sample(None)}, read_policy(tmp_path / "policy.yaml"))
    keys = (Key("ann", digest_of("a")), Key("bob", digest_of("b")))
    ann, bob = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
    with running(nano, desk, keys=keys) as server:
        assert [table["name"] for table in server.get("/v1/schema", **ann).json["tables"]] == ["customers"]
        body = server.post("/v1/query", {"sql": "SELECT DISTINCT segment FROM customers"}, **ann).json
        assert body["rows"] == [["Club"]] and body["hidden_by_policy"] == ["customers"]
        reply = server.post("/v1/query", {"sql": "SELECT count(*) FROM orders"}, **ann)
        assert (reply.status, reply.json["error"]["type"]) == (403, "not_permitted")
        assert server.post("/v1/query", {"sql": "SELECT 1"}, **bob).status == 403
    desk.close()


ROLES = """
roles:
  club:
    tables:
      customers: {columns: {mask: {email: hash}}, rows: "segment = 'Club'"}
  everything:
    tables: {"*": }
users:
  cleo: [everything]
salt: 0123456789abcdef
audit: audit.jsonl
"""


def test_roles_in_the_key_file_reach_the_policy(nano: Engine, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(ROLES)
    (tmp_path / "keys").write_text(
        f"{key_line('ann', 'a', ('query',), ('club',))}\n"
        f"{key_line('bob', 'b', ('query',), ('club', 'everything'))}\n"
        f"{key_line('cleo', 'c', ('query',))}\n"
        f"{key_line('dan', 'd', ('query',))}\n"
    )
    desk = Desk(nano, {"sample": database_or_sample(None)}, read_policy(tmp_path / "policy.yaml"))
    sql = "SELECT DISTINCT segment, email LIKE '%@%' AS is_clear FROM customers ORDER BY 1, 2"
    seen: dict[str, Any] = {}
    with running(nano, desk, keys=read_keys(tmp_path / "keys")) as server:
        for name in "abcd":
            reply = server.post("/v1/query", {"sql": sql}, Authorization=f"Bearer {name}")
            seen[name] = reply.json["rows"] if reply.status == 200 else reply.status
    desk.close()
    assert seen["a"] == [["Club", False]]  # some rows, masked
    assert seen["b"] == seen["c"] and len(seen["b"]) == 3 and all(is_clear for _, is_clear in seen["b"])
    assert seen["d"] == 403  # no role anywhere
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["user"], line["roles"]) for line in lines] == [
        ("ann", ["club"]),
        ("bob", ["club", "everything"]),
        ("cleo", ["everything"]),
        ("dan", []),
    ]
    with pytest.raises(UserError, match="'clubb'"):
        desk.policy.principal(Principal("eve", ("clubb",)))


def test_a_database_that_changes_is_read_anew(nano: Engine, tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE a (x INTEGER)")
    desk = Desk(nano, {"shop": open_database(path)})
    with running(nano, desk) as server:
        assert server.post("/v1/query", {"sql": "SELECT count(*) FROM a"}).json["rows"] == [[0]]
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE b (y INTEGER)")
        assert server.post("/v1/query", {"sql": "SELECT count(*) FROM b"}).json["rows"] == [[0]]
    desk.close()


def test_a_statement_ends_when_its_client_leaves(nano: Engine) -> None:
    desk = Desk(nano, {"sample": database_or_sample(None)})
    before = children()
    with running(nano, desk) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(post_bytes({"sql": SLOW, "timeout": 60}, "/v1/query"))
        wait_until(lambda: children() > before)
        connection.close()
        wait_until(lambda: children() <= before)
        assert server.post("/v1/query", {"sql": "SELECT 1 AS one"}).json["rows"] == [[1]]
    desk.close()


def test_a_question_has_a_deadline(nano: Engine) -> None:
    desk = Desk(nano, {"sample": database_or_sample(None)})
    asked = {"question": QUESTION, "timeout": 60}
    with running(nano, desk, request_timeout_s=0.2) as server:
        reply = server.post("/v1/ask", {**asked, "stream": False})
        assert (reply.status, reply.error["code"]) == (504, "deadline")
        assert events(server.post("/v1/ask", asked).body)[-1][1]["error"]["code"] == "deadline"
        reply = server.post("/v1/query", {"sql": SLOW, "timeout": 60})
        assert (reply.status, reply.error["code"]) == (504, "deadline")
        wait_until(lambda: nano.num_running == 0)
        server.service.settings = replace(server.service.settings, request_timeout_s=60)
        desk.timeout_s = 60
        assert server.post("/v1/query", {"sql": "SELECT 1 AS one"}).json["rows"] == [[1]]
    desk.close()


def test_what_a_question_costs_is_logged_and_counted(nano: Engine, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(nano, {"sample": database_or_sample(None)})
    with running(nano, desk) as server, caplog.at_level(logging.INFO, "openarctic.serve"):
        for stream in (True, False):
            assert server.post("/v1/ask", {"question": QUESTION, "stream": stream}).status == 200
        wait_until(lambda: len(caplog.records) >= 2)
        lines = [json.loads(record.message) for record in caplog.records]
        text = server.get("/metrics").body.decode()
    desk.close()
    assert all(line["prompt_tokens"] > 50 and line["completion_tokens"] > 10 for line in lines)
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("openarctic_generation_tokens_total"))
    assert [float(value) for value in counted.values()] == [sum(line["completion_tokens"] for line in lines)]


def test_no_key_takes_all_seats(nano: Engine) -> None:
    """With keys, one that holds all its turns waits for them; others do not."""
    keys = tuple(Key(name, digest_of(name), frozenset({"query"})) for name in ("greedy", "other"))
    desk = Desk(nano, {"sample": database_or_sample(None)})
    with running(nano, desk, keys=keys) as server:
        held = []
        for _ in range(MAX_BUSY):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            data = post_bytes({"sql": SLOW, "timeout": 60}, "/v1/query")
            connection.sendall(data.replace(b"Host:", b"Authorization: Bearer greedy\r\nHost:", 1))
            held.append(connection)
        wait_until(lambda: desk._busy is not None and desk._busy._value == MAX_BUSY - MAX_BUSY_OF_KEY)
        time.sleep(0.3)
        assert desk._busy is not None and desk._busy._value == MAX_BUSY - MAX_BUSY_OF_KEY
        reply = server.post("/v1/query", {"sql": "SELECT 1 AS one"}, Authorization="Bearer other")
        assert reply.json["rows"] == [[1]]
        for connection in held:
            connection.close()
        wait_until(lambda: desk._busy is not None and desk._busy._value == MAX_BUSY)
    desk.close()


def test_who_gives_up_while_a_database_is_read_leaves_it_to_the_next(nano: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(nano, {"sample": database_or_sample(None)})
    may_end = threading.Event()
    made, make = [], desk._make

    def slowly(name: str, user: Principal | str | None) -> Seat:
        may_end.wait()
        made.append(make(name, user))
        return made[-1]

    async def take() -> Seat:
        async with desk.seat("sample", ANYONE) as seat:
            return seat

    async def give_up_and_ask_again() -> Seat:
        first = asyncio.create_task(take())
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        may_end.set()
        while not desk._idle:
            await asyncio.sleep(0.01)
        return await take()

    monkeypatch.setattr(Desk, "_make", lambda self, name, user: slowly(name, user))
    assert [asyncio.run(give_up_and_ask_again())] == made
    desk.close()


class Broken(Desk):
    """A desk with a bug, whose words hold what was asked."""

    def database(self, name: str | None) -> str:
        if name == "broken":
            raise KeyError("SECRET-BUG")
        return super().database(name)


SECRETS = ("SECRET", "Bearer", "cancelled", "orders", "Oslo")


def talk(server: Server) -> None:
    """Every way that contents may come: in questions, statements, prompts, headers, paths, and in what goes wrong."""
    own = {"Authorization": "Bearer SECRET-KEY"}
    server.post("/v1/ask", {"question": f"{QUESTION} SECRET-A", "stream": False}, **own)
    server.post("/v1/ask", {"question": "Delete SECRET-B"}, **own)
    server.post("/v1/query", {"sql": "SELECT 'SECRET-C', city FROM customers LIMIT 3"}, **own)
    server.post("/v1/query", {"sql": "SELECT CAST('SECRET-D' AS INTEGER)"}, **own)
    server.post("/v1/query", {"sql": "SELECT (SECRET-E", "SECRET-F": 1}, **own)
    server.post("/v1/query", {"sql": "SELECT 1", "database": "broken"}, **own)
    server.post("/v1/query", {"sql": "SELECT 1"}, Authorization="Bearer SECRET-WRONG")
    server.post("/v1/query", b"{SECRET-G", **own)
    server.get("/v1/schema?database=SECRET-H", **own)
    server.get("/SECRET-I", **own)
    server.post("/v1/completions", {"prompt": "SECRET-J", "max_tokens": 2, "ignore_eos": True}, **own)
    server.post("/v1/completions", {"prompt": "SECRET-K", "stream": True, "model": "SECRET-L"}, **own)


@pytest.mark.parametrize("is_asked", [False, True])
def test_contents_are_logged_only_when_asked(
    nano: Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], is_asked: bool
) -> None:
    desk = Broken(nano, {"sample": database_or_sample(None)})
    with running(nano, desk, keys=(Key("ann", digest_of("SECRET-KEY")),), log_contents=is_asked) as server:
        with caplog.at_level(logging.DEBUG):
            talk(server)
            wait_until(lambda: sum(record.name == "openarctic.serve" for record in caplog.records) >= 12)
    desk.close()
    lines = [json.loads(record.message) for record in caplog.records if record.name == "openarctic.serve"]
    assert [line["status"] for line in lines] == [200, 200, 200, 400, 400, 500, 401, 400, 404, 404, 200, 404]
    assert lines[5]["error"].startswith("KeyError at tests/serve/test_sql.py:")
    assert lines[10]["completion_tokens"] == 2 and lines[10]["prompt_tokens"] > 2
    told = caplog.text + "".join(capfd.readouterr())
    assert "SECRET-KEY" not in told and "SECRET-WRONG" not in told and "SECRET-BUG" not in told
    if is_asked:
        assert "SECRET-A" in lines[0]["request"] and "cancelled" in lines[0]["answer"] and "SECRET-C" in lines[2]["answer"]
    else:
        assert not any(secret in told for secret in SECRETS), told


def children() -> int:
    """Processes of this one, by whichever thread they were started."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            count += path.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    return count


def test_names_of_databases() -> None:
    assert named(["shop=sqlite:///x.db", "data/sales.duckdb"]) == {"shop": "sqlite:///x.db", "sales": "data/sales.duckdb"}
    for wrong in (["a=x", "a=y"], ["=x"], ["a b=x"]):
        with pytest.raises(UserError):
            named(wrong)
