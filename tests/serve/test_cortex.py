"""What the demos of Cortex Analyst send and read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.feedback import Feedback, FeedbackFile
from openarctic.copilot.sample import database_or_sample
from openarctic.engine import load
from openarctic.serve import answers
from openarctic.serve.answers import Given, LatestAnswers
from openarctic.serve.desk import Desk
from openarctic.serve.keys import Key, digest_of

from .test_sql import QUESTION, events
from .world import Server, running

MESSAGE, FEEDBACK = "/api/v2/cortex/analyst/message", "/api/v2/cortex/analyst/feedback"
ANN, BOB = ({"Authorization": f'Snowflake Token="{key}"'} for key in "ab")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    nano = load(threads=1)
    feedback = FeedbackFile(tmp_path_factory.mktemp("cortex") / "feedback.jsonl")
    desk = Desk(nano, {"sample": database_or_sample(None)}, feedback=feedback)
    keys = (Key("ann", digest_of("a")), Key("bob", digest_of("b")), Key("dan", digest_of("d"), frozenset({"generate"})))
    with running(nano, desk, keys=keys) as server:
        yield server
    desk.close()


def asked(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]}


def test_the_second_turn_brings_back_the_first_answer(served: Server) -> None:
    first = served.post(MESSAGE, asked(QUESTION), **ANN)
    assert first.status == 200, first.body
    answer = {**first.json["message"], "request_id": first.json["request_id"]}
    again = asked(QUESTION)["messages"] + [answer] + asked("How many customers are there?")["messages"]
    second = served.post(MESSAGE, {"messages": again}, **ANN)
    assert second.status == 200 and "customers" in second.json["message"]["content"][1]["statement"]


def test_a_key_as_snowflakes_token(served: Server) -> None:
    for right in ('Snowflake Token="a"', 'snowflake token="a"', "Bearer a"):
        assert served.get("/v1/schema", Authorization=right).status == 200
    for wrong in ('Snowflake Token="x"', "Snowflake a", 'Snowflake Token=""', 'Basic Token="a"'):
        assert served.get("/v1/schema", Authorization=wrong).status == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_wish_to_write_is_declined_in_the_message(served: Server, stream: bool) -> None:
    reply = served.post(MESSAGE, {**asked("delete the customers"), "stream": stream}, **ANN)
    assert reply.status == 200
    told = (
        dict(events(reply.body))["message.content.delta"]["text_delta"] if stream else reply.json["message"]["content"][0]["text"]
    )
    assert "asks to delete data, and OpenArctic only reads" in told


def test_errors_have_the_fields_that_demos_read(served: Server) -> None:
    unknown = {**asked(QUESTION), "semantic_view": "db.public.other"}
    for reply, code in (
        (served.post(MESSAGE, unknown, **ANN), "unknown_database"),
        (served.post(MESSAGE, asked(QUESTION)), "invalid_api_key"),
        (served.post(MESSAGE, {**asked(QUESTION), "made_up": 1}, **ANN), "unknown_parameter"),
        (served.post(MESSAGE, asked(""), **ANN), "invalid_request_error"),
        (served.get(MESSAGE, **ANN), "invalid_request_error"),
    ):
        body = reply.json
        assert (body["error_code"], body["message"]) == (code, body["error"]["message"])
        assert body["request_id"] == reply.headers["x-request-id"]
    assert set(served.post("/v1/query", {}).json) == {"error"}


def test_feedback_by_the_id_of_an_answer(served: Server) -> None:
    answer = served.post(MESSAGE, asked(QUESTION), **ANN).json
    verdict = {"request_id": answer["request_id"], "positive": False, "feedback_message": "not what I meant"}
    reply = served.post(FEEDBACK, verdict, **ANN)
    assert (reply.status, reply.json) == (200, {"status": "ok"})
    assert served.desk is not None and served.desk.feedback is not None
    [kept] = served.desk.feedback.records()
    assert isinstance(kept, Feedback)
    assert (kept.question, kept.sql, kept.verdict) == (QUESTION, answer["message"]["content"][1]["statement"], "down")
    assert (kept.by, kept.comment) == ("ann", "not what I meant")
    for key in (BOB, ANN):  # nobody judges another's answer
        other = verdict if key is BOB else {**verdict, "request_id": "x"}
        assert (reply := served.post(FEEDBACK, other, **key)).status == 404 and reply.json["error_code"] == "unknown_request"
    declined = served.post(MESSAGE, asked("delete the customers"), **ANN).json["request_id"]
    reply = served.post(FEEDBACK, {"request_id": declined, "positive": True}, **ANN)
    assert (reply.status, reply.json["error_code"]) == (400, "no_sql")
    assert served.post(FEEDBACK, verdict, Authorization="Bearer d").status == 403
    paths = served.get("/openapi.json").json["paths"]
    assert "AnalystFeedback" in str(paths[FEEDBACK]) and "error_code" in str(paths[FEEDBACK]["post"]["responses"]["404"])


def test_the_oldest_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 2)
    latest = LatestAnswers()
    for id_ in "abc":
        latest.add(id_, Given("ann", id_, ""))
    assert [latest.find(id_, "ann") is not None for id_ in "abc"] == [False, True, True]
    assert latest.find("c", "bob") is None


def test_lines_of_feedback_without_a_comment_are_read(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"kind": "feedback", "question": "How many?", "sql": "SELECT 1", "verdict": "up"}\n')
    assert [record.comment for record in FeedbackFile(path).records() if isinstance(record, Feedback)] == [""]
