"""Grammars of requests: what is too large, and that nobody waits for those of others."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine
from openarctic.generator import Constraint
from openarctic.serve.desk import Desk
from openarctic.serve.errors import HTTPError
from openarctic.serve.grammars import MAX_BYTES, MAX_CHOICES, MAX_LARK_BYTES, THREADS, Form, Grammars, check_size
from openarctic.serve.protocol import ChatRequest, Tool
from openarctic.serve.tools import calls_form

from .test_gate import wait_until
from .world import Server, running

URL = "/v1/completions"


def asked(outputs: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "name", "max_tokens": 3, "temperature": 0, "structured_outputs": outputs}


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"regex": "(a{1000}){1000}"}, "too large"),
        ({"regex": "a" * (MAX_BYTES + 1)}, f"at most {MAX_BYTES}"),
        ({"choice": [str(i) for i in range(MAX_CHOICES + 1)]}, f"at most {MAX_CHOICES}"),
        ({"json": {"enum": ["a" * MAX_BYTES]}}, f"at most {MAX_BYTES}"),
        ({"grammar": 'start: "' + "a" * 1_000_000 + '"'}, "too large"),
        ({"grammar": "start: A | " + " " * MAX_LARK_BYTES}, f"at most {MAX_LARK_BYTES}"),
        ({"grammar": 'start: C\nA: "a"{1000}\nC: A{1000}'}, "too large"),
    ],
)
def test_what_is_too_large_is_refused(server: Server, outputs: dict[str, Any], told: str) -> None:
    reply = server.post(URL, asked(outputs))
    [kind] = outputs
    assert (reply.status, reply.error["param"]) == (400, f"structured_outputs.{kind}")
    assert told in reply.error["message"] and len(reply.body) < 500


def test_many_tools_may_be_larger_together(server: Server) -> None:
    schema = {"type": "object", "description": "x" * 2000, "properties": {"a": {"type": "boolean"}}}
    tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(60)]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 1}
    reply = server.post("/v1/chat/completions", body)
    assert reply.error["code"] == "context_length_exceeded"  # which is what the tiny model lacks
    form = calls_form(ChatRequest.model_validate(body), [Tool.model_validate(tool).function for tool in tools], None)
    check_size(form)


@pytest.fixture
def stuck(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Grammars take for ever, until the end of the test; those that have begun are listed."""
    begun: list[Any] = []
    goes_on = threading.Event()

    def follower(self: Engine, grammar: Any) -> None:
        begun.append(grammar)
        goes_on.wait(30)

    monkeypatch.setattr(Engine, "follower", follower)
    yield begun
    goes_on.set()


def test_a_grammar_ends_with_the_time_of_its_request(engine: Engine, stuck: list[Any]) -> None:
    with running(engine, request_timeout_s=0.3) as server:
        reply = server.post(URL, asked({"regex": "[0-9]"}))
    assert (reply.status, reply.error["code"], len(stuck)) == (504, "deadline", 1)


def test_others_go_on_while_grammars_are_compiled(engine: Engine, stuck: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openarctic.serve")
    desk = Desk(engine, {"sample": database_or_sample(None)})
    with running(engine, desk) as server:
        waiting = [server.connection() for _ in range(40)]  # more than the threads of asyncio's own
        for number, connection in enumerate(waiting):
            body = json.dumps(asked({"regex": f"[0-9]{number}"}))
            connection.request("POST", URL, body, {"Content-Type": "application/json"})
        wait_until(lambda: len(stuck) == THREADS)
        assert server.post("/v1/query", {"sql": "SELECT 1"}).status == 200
        assert server.post(URL, {"prompt": "name", "max_tokens": 2}).status == 200
        hang_up(waiting)
        wait_until(lambda: sum('"status": 499' in record.message for record in caplog.records) == len(waiting))
    assert len(stuck) == THREADS  # nobody waits for the rest
    desk.close()


def hang_up(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def test_what_nobody_waits_for_is_not_begun(engine: Engine, stuck: list[Any]) -> None:
    grammars = Grammars(engine)

    async def ask(number: int) -> None:
        await grammars.compiled(Form(Constraint(regex=f"[0-9]{number}"), "regex"), 0.2)

    async def all_() -> list[Any]:
        return await asyncio.gather(*(ask(i) for i in range(10)), return_exceptions=True)

    errors = asyncio.run(all_())
    assert all(isinstance(error, HTTPError) and error.status == 504 for error in errors)
    assert len(stuck) == THREADS
