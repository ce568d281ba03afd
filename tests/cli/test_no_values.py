"""`--no-values`: every command that has a model read prompts about a database can keep cell values out of them."""

from __future__ import annotations

import asyncio
import io
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.cli import main
from openarctic.remote import remote_model
from openarctic.serve.desk import Desk
from openarctic.serve.keys import ANYONE
from openarctic.serve.mcp.model import as_engine
from openarctic.serve.mcp.tools import Limits, Toolbox

from ..scripted_server import ScriptedServer, scripted

CELL = "Zanzibar"
QUESTION = "How many customers are there?"
COUNT = "```sql\nSELECT COUNT(*) FROM customers\n```"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.executescript(
            f"CREATE TABLE customers (id INTEGER PRIMARY KEY, city TEXT); INSERT INTO customers VALUES (1, '{CELL}');"
        )
    connection.close()
    (tmp_path / "questions.yaml").write_text(f"- question: {QUESTION}\n  sql: SELECT COUNT(*) FROM customers\n", encoding="utf-8")
    return tmp_path / "shop.sqlite"


@pytest.fixture
def model() -> Iterator[ScriptedServer]:
    with scripted(COUNT) as server:
        yield server


def asked(desk: Desk) -> None:
    """One question to a server that would now wait for some."""
    asyncio.run(Toolbox(desk, ANYONE, Limits(candidates=1)).call("ask", {"question": QUESTION}, ANYONE))
    desk.close()


def ask(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["ask", QUESTION, "--db", str(shop), "--model", model.url, "--candidates", "1"]


def chat(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUESTION.encode())))
    return ["chat", "--db", str(shop), "--model", model.url, "--candidates", "1"]


def report(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("openarctic.engine.load", lambda *_, **__: remote_model(model.url))
    return ["report", QUESTION, "--db", str(shop), "--candidates", "1", "--out", str(shop.with_name("page.md"))]


def serve(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fake(desk: Desk, _: Any, listening: socket.socket, *__: Any) -> None:
        listening.close()
        asked(desk)

    monkeypatch.setattr("openarctic.engine.load", lambda *_, **__: as_engine(remote_model(model.url)))
    monkeypatch.setattr("openarctic.serve.server.serve", fake)
    return ["serve", "--port", "0", "--db", str(shop)]


def mcp(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pytest.importorskip("mcp", reason="pip install 'openarctic[mcp]'")
    monkeypatch.setattr("openarctic.serve.mcp.server.serve_stdio", lambda toolbox: asked(toolbox.desk))
    return ["mcp", "--db", str(shop), "--model", model.url]


def eval_mine(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    questions = str(shop.with_name("questions.yaml"))
    return ["eval", "mine", questions, "--db", str(shop), "--model", model.url, "--candidates", "1"]


def write(shop: Path, model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["write", "etl", "count customers", "--target", "counts", "--db", str(shop), "--model", model.url, "--rounds", "1"]


@pytest.mark.parametrize("command", [ask, chat, report, serve, mcp, eval_mine, write])
def test_the_model_reads_no_cell_and_none_is_kept(
    command: Callable[[Path, ScriptedServer, pytest.MonkeyPatch], list[str]],
    shop: Path,
    model: ScriptedServer,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kept() -> bool:
        return any(CELL.encode() in path.read_bytes() for path in cache.rglob("*") if path.is_file())

    arguments = command(shop, model, monkeypatch)
    main([*arguments, "--no-values"])
    assert model.prompts and not any(CELL in prompt for prompt in model.prompts) and not kept()
    main(command(shop, model, monkeypatch))
    assert CELL in model.prompts[-1] and kept()
