"""The MCP server as the official SDK's client sees it: in this process, and (`-m ecosystem`) the real command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest

from openarctic.copilot.databases import open_database
from openarctic.copilot.guard import DIALECTS
from openarctic.serve.desk import Desk
from openarctic.serve.keys import ANYONE, key_line
from openarctic.serve.mcp.model import as_engine
from openarctic.serve.mcp.tools import Limits, Toolbox

from ..scripted_server import ScriptedServer, scripted
from .test_mcp_tools import POLICY, SCRIPT, Chatty, Slow

pytest.importorskip("mcp", reason="pip install 'openarctic[mcp]'")

import anyio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from openarctic.serve.mcp.server import build_server

Result = TypeVar("Result")
COUNT = "```sql\nSELECT count(*) FROM customers\n```"
QUESTION = {"question": "How many customers are there?"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(SCRIPT)
    return path


def inside(shop: Path, use: Callable[[Client], Awaitable[Result]], model: Any = None, mode: str = "auto") -> Result:
    """A client of a server in this process."""
    desk = Desk(as_engine(model or Chatty([[COUNT]])), {"shop": open_database(shop)})

    async def run() -> Result:
        async with Client(build_server(Toolbox(desk, ANYONE, Limits(candidates=1))), mode=mode) as client:
            return await use(client)

    try:
        return asyncio.run(run())
    finally:
        desk.close()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_resources_answers_and_errors(shop: Path, mode: str) -> None:
    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["ask", "query", "schema", "chart"]
        for tool in tools.values():
            hints = tool.annotations
            assert hints is not None and hints.read_only_hint is True and hints.destructive_hint is False
            assert tool.output_schema is not None and tool.input_schema["additionalProperties"] is False
        heard: list[tuple[float, str | None]] = []

        async def progress(number: float, total: float | None, text: str | None) -> None:
            heard.append((number, text))

        answer = await client.call_tool("ask", QUESTION, progress_callback=progress)
        assert not answer.is_error and answer.structured_content["rows"] == [[3]]
        assert json.loads(answer.content[0].text) == answer.structured_content
        assert [number for number, _ in heard] == sorted({number for number, _ in heard})
        assert any("customers" in (text or "") for _, text in heard)
        refused = await client.call_tool("query", {"sql": "DROP TABLE customers"})
        assert refused.is_error and refused.structured_content["error"]["type"] == "not_a_read"
        drawn = await client.call_tool("chart", {"sql": "SELECT country, count(*) AS n FROM customers GROUP BY country"})
        kinds = [content.type for content in drawn.content]
        assert kinds[:2] == ["text", "text"] and set(kinds[2:]) <= {"image"}
        [resource] = (await client.list_resources()).resources
        whole = (await client.read_resource(resource.uri)).contents[0].text
        assert [table["name"] for table in json.loads(whole)["tables"]] == ["customers", "orders", "salaries", "wide"]
        [template] = (await client.list_resource_templates()).resource_templates
        one = (await client.read_resource(template.uri_template.replace("{table}", "orders"))).contents[0].text
        assert json.loads(one)["tables"][0]["name"] == "orders"
        for wrong in (client.call_tool("drop", {}), client.read_resource("openarctic://shop/data")):
            with pytest.raises(MCPError, match="there is no"):
                await wrong

    inside(shop, use, mode=mode)


def test_a_client_that_gives_up_ends_the_work(shop: Path) -> None:
    model = Slow()

    async def use(client: Client) -> None:
        with anyio.move_on_after(30) as scope:
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await asyncio.to_thread(model.asked.wait, 20)
                    scope.cancel()

                group.start_soon(give_up)
                await client.call_tool("ask", QUESTION)
        assert scope.cancelled_caught
        model.go.set()
        assert (await client.call_tool("ask", QUESTION)).structured_content["rows"] == [[3]]

    inside(shop, use, model, "legacy")


# What follows starts the real command.

PROGRAM = "import sys; from openarctic.cli import main; sys.exit(main())"


def command(*arguments: str) -> list[str]:
    return ["-c", PROGRAM, "mcp", *arguments]


def environment() -> dict[str, str]:
    names = ("PYTHONPATH", "OPENARCTIC_CACHE", "OMP_NUM_THREADS")
    return {name: os.environ[name] for name in names if name in os.environ}


def outside(use: Callable[[Client], Awaitable[Result]], *arguments: str) -> Result:
    """A client of a server of its own."""
    parameters = StdioServerParameters(command=sys.executable, args=command(*arguments), env=environment())

    async def run() -> Result:
        async with Client(parameters) as client:
            return await use(client)

    return asyncio.run(run())


@pytest.fixture
def model() -> Iterator[ScriptedServer]:
    with scripted(COUNT) as server:
        yield server


@pytest.mark.ecosystem
def test_the_bundled_model_answers(shop: Path) -> None:
    async def use(client: Client) -> Any:
        return await client.call_tool("ask", QUESTION)

    answer = outside(use, "--db", f"shop={shop}", "--candidates", "1")
    assert answer.structured_content["rows"] == [[3]] and answer.structured_content["model"] == "arctic-nano"


@pytest.mark.ecosystem
def test_policy_and_injection(shop: Path, tmp_path: Path, model: ScriptedServer) -> None:
    """A comment of the schema asks the client's model for a statement; whatever it sends, the policy holds."""
    policy, log = tmp_path / "policy.yaml", tmp_path / "audit.jsonl"
    policy.write_text(f"{POLICY}audit: {log}\n")
    before = shop.read_bytes()
    model.answers = ["```sql\nSELECT * FROM salaries\n```"]

    async def use(client: Client) -> None:
        schema = (await client.call_tool("schema", {})).structured_content
        [asked] = [
            column["comment"].partition("with: ")[2]
            for table in schema["tables"]
            for column in table["columns"]
            if "comment" in column
        ]
        for sql in (asked, "SELECT * FROM salaries", "SELECT 1; DROP TABLE orders"):
            assert (await client.call_tool("query", {"sql": sql})).is_error
        rows = (await client.call_tool("query", {"sql": "SELECT name, email FROM customers"})).structured_content
        assert rows["rows"] == [["Ann", None], ["Cy", None]]
        told = await client.call_tool("ask", QUESTION)
        assert told.is_error and told.structured_content["error"]["type"] == "not_permitted"
        assert "987654" not in str(told)

    outside(use, "--db", f"shop={shop}", "--policy", str(policy), "--user", "ann", "--model", model.url)
    assert shop.read_bytes() == before and "salaries" not in model.prompts[0]
    assert len(log.read_text().splitlines()) == 5


NOISE = """
import os
from openarctic.copilot.access import Access
quiet = Access.check
def noisy(self, sql):
    print("noise", flush=True)
    os.write(1, b"noise\\n")
    return quiet(self, sql)
Access.check = noisy
"""


@pytest.mark.ecosystem
def test_standard_output_is_the_protocols_alone(shop: Path, model: ScriptedServer) -> None:
    """Every line of it is JSON-RPC, also while a model is loaded and statements run."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "query", "arguments": {"sql": "SELECT 1"}}},
    ]
    program = f"{NOISE}\n{PROGRAM}"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command("--db", f"shop={shop}", "--model", model.url)[2:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment()},
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    for message in messages:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(2)]
    process.stdin.close()
    rest = process.stdout.read()
    assert process.wait(30) == 0 and rest == ""
    assert process.stderr is not None and process.stderr.read().count("noise") == 2
    assert [json.loads(line)["id"] for line in lines] == [1, 2]


@pytest.mark.ecosystem
def test_it_can_be_killed_and_started_again(shop: Path, model: ScriptedServer) -> None:
    async def use(client: Client) -> Any:
        return await client.call_tool("query", {"sql": "SELECT count(*) FROM customers"})

    async def die(client: Client) -> None:
        assert not (await use(client)).is_error
        [server] = _children(os.getpid(), "openarctic.cli")
        workers = _children(server, "sandbox.py")
        assert workers
        os.kill(server, signal.SIGKILL)
        with pytest.raises(MCPError):
            await use(client)
        deadline = time.monotonic() + 20
        while any(_is_alive(worker) for worker in workers) and time.monotonic() < deadline:
            await anyio.sleep(0.05)
        assert not any(_is_alive(worker) for worker in workers)  # what ran statements has gone with it

    arguments = ("--db", f"shop={shop}", "--model", model.url)
    outside(die, *arguments)
    assert outside(use, *arguments).structured_content["rows"] == [[3]]


def _children(parent: int, part: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == parent and part in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def _is_alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.ecosystem
def test_two_databases_one_of_which_vanishes(shop: Path, tmp_path: Path, model: ScriptedServer) -> None:
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS x")

    async def use(client: Client) -> None:
        assert (await client.call_tool("query", {"sql": "SELECT 1"})).is_error  # which one?
        for name, sql in (("shop", "SELECT count(*) FROM orders"), ("other", "SELECT x FROM t")):
            assert not (await client.call_tool("query", {"sql": sql, "database": name})).is_error
        shop.unlink()
        gone = await client.call_tool("query", {"sql": "SELECT count(*) FROM orders", "database": "shop"})
        assert gone.is_error and gone.structured_content["error"]["type"] == "not_found"
        still = await client.call_tool("query", {"sql": "SELECT x FROM t", "database": "other"})
        assert still.structured_content["rows"] == [[7]]

    outside(use, "--db", f"shop={shop}", "--db", f"other={other}", "--model", model.url)


@pytest.mark.ecosystem
def test_a_cancelled_question_is_over(shop: Path, model: ScriptedServer) -> None:
    model.gate.clear()

    async def use(client: Client) -> None:
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await asyncio.to_thread(model.arrived.wait, 50)
                    scope.cancel()

                group.start_soon(give_up)
                await client.call_tool("ask", QUESTION)
        assert scope.cancelled_caught
        started = time.monotonic()
        assert not (await client.call_tool("query", {"sql": "SELECT 1"})).is_error
        assert time.monotonic() - started < 20
        model.gate.set()

    outside(use, "--db", f"shop={shop}", "--model", model.url, "--candidates", "1")


HOSTILE = {
    "duckdb": "SELECT * FROM read_text('/etc/passwd')",
    "sqlite": "SELECT load_extension('/tmp/evil.so')",
    "postgres": "SELECT pg_read_file('/etc/passwd')",
    "snowflake": "SELECT SYSTEM$CANCEL_ALL_QUERIES(1)",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hostile_statement_of_each_dialect_is_refused(shop: Path, dialect: str) -> None:
    """The dialect is the database's; where no server of it is at hand, only the door to it stands."""
    from openarctic.copilot.access import Access
    from openarctic.copilot.schema import Schema

    async def use(client: Client) -> Any:
        return await client.call_tool("query", {"sql": HOSTILE[dialect]})

    desk = Desk(as_engine(Chatty([])), {"shop": open_database(shop)})
    box = Toolbox(desk, ANYONE)

    async def run() -> Any:
        async with desk.seat("shop", ANYONE) as seat:
            known = seat.copilot.access.schema
            seat.copilot.access = Access(Schema(dialect=dialect, tables=known.tables))
        async with Client(build_server(box)) as client:
            return await use(client)

    try:
        told = asyncio.run(run())
    finally:
        desk.close()
    assert told.is_error and told.structured_content["status"] == "refused"


@contextlib.contextmanager
def http_server(*arguments: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *command("--http", "--port", "0", *arguments)],
        stderr=subprocess.PIPE,
        env={**os.environ, **environment()},
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "serving MCP at " in line, line
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.ecosystem
def test_two_sessions_over_http_with_keys(shop: Path, tmp_path: Path, model: ScriptedServer) -> None:
    import httpx2

    keys, policy = tmp_path / "keys", tmp_path / "policy.yaml"
    lines = [
        key_line("ann", "ann-key", ("ask", "query")),
        key_line("boss", "boss-key", ("ask", "query")),
        key_line("asker", "a-key", ("ask",)),
    ]
    keys.write_text("\n".join(lines) + "\n")
    policy.write_text(
        POLICY.replace(
            "users: {ann: [clerk]}",
            "  all: {tables: {customers: , salaries: }}\nusers: {ann: [clerk], boss: [all], asker: [all]}",
        )
    )
    sql = {"sql": "SELECT count(*), max(email) FROM customers"}

    async def rows(url: str, key: str) -> Any:
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                told = [(await client.call_tool("query", sql)).structured_content for _ in range(3)]
                assert told[0] == told[1] == told[2]
                return told[0].get("rows") or told[0]["error"]

    async def run(url: str) -> list[Any]:
        return await asyncio.gather(rows(url, "ann-key"), rows(url, "boss-key"), rows(url, "a-key"))

    with http_server("--db", f"shop={shop}", "--policy", str(policy), "--api-key-file", str(keys), "--model", model.url) as url:
        ann, boss, asker = asyncio.run(run(url))
        assert ann == [[2, None]] and boss == [[3, "c@example.com"]] and asker["type"] == "insufficient_scope"
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer ann-key", "Host": "evil.example"}, 421),
            ({"Authorization": "Bearer ann-key", "Origin": "https://evil.example"}, 403),
        ):
            assert httpx2.post(url, headers=headers, json={}).status_code == status
