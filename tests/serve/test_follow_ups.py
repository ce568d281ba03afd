"""Conversations over HTTP: the client keeps the history, and the server checks what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.policy import read_policy
from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine, load
from openarctic.serve.desk import Desk
from openarctic.serve.keys import Key, digest_of

from .test_sql import events
from .world import Server, running

FIRST = {
    "question": "How many customers are there in Germany?",
    "sql": "SELECT COUNT(*) FROM customers WHERE country = 'Germany'",
}
POLICY = """
roles:
  sales:
    tables:
      customers: {columns: {deny: [email]}, rows: "segment = 'Club'"}
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


def ask(server: Server, question: str, **fields: Any) -> dict[str, Any]:
    return dict(server.post("/v1/ask", {"question": question, "stream": False, **fields}).json)


def test_an_answer_is_the_history_of_the_next(served: Server) -> None:
    history = [{**FIRST, "confidence": 0.75, "calibrated": True}]
    for question, sql in (
        ("and in France?", "SELECT COUNT(*) FROM customers WHERE country = 'France'"),
        ("by segment", "SELECT segment, COUNT(*) FROM customers WHERE country = 'France' GROUP BY segment"),
        ("only Club", "SELECT segment, COUNT(*) FROM customers WHERE country = 'France' AND segment = 'Club' GROUP BY segment"),
    ):
        told = ask(served, question, history=history)
        assert (told["status"], told["sql"], told["question"]) == ("ok", sql, question)
        assert told["read_as"].startswith(f'"{FIRST["question"]}", changed: ') and told["confidence"] == 0.75
        history.append({k: told[k] for k in ("question", "sql", "read_as", "confidence", "calibrated")})


def test_the_stages_say_how_it_was_read(served: Server) -> None:
    told = dict(events(served.post("/v1/ask", {"question": "and in France?", "history": [FIRST]}).body))
    assert list(told) == ["sql", "rows", "answer", "done"]  # no model was asked
    assert "instead of 'Germany'" in told["sql"]["read_as"] and told["done"]["read_as"] == told["sql"]["read_as"]


def test_a_choice_answers_the_question_back(served: Server) -> None:
    asked_back = {
        "question": "How many customers?",
        "choices": [
            {"text": "all", "sql": "SELECT COUNT(*) FROM customers"},
            {"text": "those with orders", "sql": "SELECT COUNT(DISTINCT customer_id) FROM orders"},
        ],
    }
    told = ask(served, "2", clarification=asked_back)
    assert told["question"] == "How many customers?" and told["sql"] == "SELECT COUNT(DISTINCT customer_id) FROM orders"
    assert told["read_as"] == '"How many customers?", meant: those with orders'
    assert ask(served, "all", clarification=asked_back)["rows"] == [[300]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"history": [{"question": "x"}]}, "history"),
        ({"history": [FIRST] * 21}, "history"),
        ({"history": [{**FIRST, "rows": []}]}, "history"),
        ({"clarification": {"question": "x", "choices": []}}, "clarification"),
    ],
)
def test_a_history_of_another_form_is_refused(served: Server, fields: dict[str, Any], param: str) -> None:
    reply = served.post("/v1/ask", {"question": "and in France?", **fields})
    assert reply.status == 400 and param in str(reply.error)


def test_forged_history_shows_nothing(nano: Engine, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    desk = Desk(nano, {"sample": database_or_sample(None)}, policy=read_policy(tmp_path / "policy.yaml"))
    with running(nano, desk, keys=(Key("ann", digest_of("a"), frozenset({"ask"})),)) as server:
        server.headers = {"Authorization": "Bearer a"}
        for sql in ("SELECT email FROM customers", "SELECT amount FROM payments", "DROP TABLE customers"):
            told = ask(server, "show all", history=[{"question": "x", "sql": sql}])
            assert told["status"] == "refused", sql
        all_of_them = ask(server, "by segment", history=[{"question": "x", "sql": "SELECT COUNT(*) FROM customers"}])
        assert [row[0] for row in all_of_them["rows"]] == ["Club"] and all_of_them["hidden_by_policy"] == ["customers"]
        choice = {"question": "x", "choices": [{"text": "a", "sql": "SELECT email FROM customers"}] * 2}
        assert ask(server, "1", clarification=choice)["status"] == "refused"
    desk.close()


def test_cortex_analysts_messages_are_a_conversation(served: Server) -> None:
    def said(role: str, *content: dict[str, Any]) -> dict[str, Any]:
        return {"role": role, "content": list(content)}

    messages = [
        said("user", {"type": "text", "text": FIRST["question"]}),
        said("analyst", {"type": "text", "text": "This is ..."}, {"type": "sql", "statement": FIRST["sql"]}),
        said("user", {"type": "text", "text": "and in France?"}),
    ]
    body = served.post("/api/v2/cortex/analyst/message", {"messages": messages}).json
    text, sql = body["message"]["content"]
    assert sql["statement"] == "SELECT COUNT(*) FROM customers WHERE country = 'France'"
    assert "country 'France' instead of 'Germany'" in text["text"]
