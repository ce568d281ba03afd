"""`POST /api/v2/cortex/analyst/message` and `/feedback`: Snowflake's Cortex Analyst's form, so that its clients can point here.

Like there the answer is a sentence and a statement, which the client runs itself; the key needs the scope `ask`, and
nothing is executed for the answer beyond what voting needs. Messages before the last are the conversation that it may be about.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from openarctic.copilot.ask import Answer, AskOptions, OnLinked
from openarctic.copilot.conversation import Turn
from openarctic.copilot.intent import check_question, check_text
from openarctic.errors import AbstainedError, OpenArcticError, RefusedError
from openarctic.serve import sql
from openarctic.serve.answers import Given, LatestAnswers
from openarctic.serve.desk import Desk, Linked, answered
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.keys import Key
from openarctic.serve.protocol import AnalystFeedback, AnalystMessage, AnalystRequest, FeedbackRequest
from openarctic.serve.service import named_event, new_id


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that may be put to a database of the desk, and what its messages say was asked before."""

    database: str
    question: str
    turns: tuple[Turn, ...] = ()


def asked(desk: Desk, request: AnalystRequest) -> Asked:
    """What a request asks. Raises HTTPError or UserError."""
    return Asked(desk.database(_database(desk, request)), check_text(_question(request)), tuple(_turns(request)))


def _turns(request: AnalystRequest) -> Iterator[Turn]:
    """The questions that were answered with SQL."""
    question = ""
    for message in request.messages[:-1]:
        if message.role == "user":
            question = _text(message)
        elif question and (statements := [block.statement for block in message.content if block.statement]):
            yield Turn(question=question, sql=statements[-1])


async def message(desk: Desk, answers: LatestAnswers, asked: Asked, key: Key) -> dict[str, Any]:
    """The analyst's message. Raises HTTPError or an error of ours; what cannot be answered is said in the message."""
    async with aclosing(_steps(desk, answers, asked, key)) as steps:
        async for step in steps:
            if not isinstance(step, str):
                return step
    raise AssertionError("the last step is the message")


async def stream(desk: Desk, answers: LatestAnswers, asked: Asked, key: Key) -> AsyncIterator[bytes]:
    """The same as events: `status` as work goes on, `message.content.delta` for each block of the content, then
    `response_metadata`, the status `done` and `done`; or `error`."""
    try:
        async with aclosing(_steps(desk, answers, asked, key)) as steps:
            async for step in steps:
                for name, data in [("status", _status(step))] if isinstance(step, str) else _events(step):
                    yield named_event(name, data)
    except (OpenArcticError, HTTPError) as error:
        told = as_http(error) if isinstance(error, OpenArcticError) else error
        yield named_event("error", {"message": told.message, "code": told.code or told.type, "request_id": _request_id()})


def _status(name: str) -> dict[str, str]:
    return {"status": name, "status_message": name.replace("_", " ").capitalize().replace("sql", "SQL")}


def _events(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a whole message is told as: a client that puts the deltas of an index together has the block of that index."""
    for index, block in enumerate(body["message"]["content"]):
        for delta in _deltas(block):
            yield "message.content.delta", {"index": index, "type": block["type"], **delta}
    if body["warnings"]:
        yield "warnings", {"warnings": body["warnings"]}
    yield "response_metadata", body["response_metadata"]
    yield "status", _status("done")
    yield "done", _status("done")


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"text_delta": block["text"]}]
    if block["type"] == "sql":
        return [{"statement_delta": block["statement"], "confidence": block["confidence"]}]
    return [{"suggestions_delta": {"index": i, "suggestion_delta": text}} for i, text in enumerate(block["suggestions"])]


async def _steps(desk: Desk, answers: LatestAnswers, asked: Asked, key: Key) -> AsyncGenerator[str | dict[str, Any]]:
    """Names of stages as they begin, then the whole message."""
    yield "interpreting_question"
    request_id, given = _request_id(), Given(key.name, asked.question, "")
    async with desk.seat(asked.database, key) as seat:

        def ask(on_linked: OnLinked) -> Answer:
            # "Remove the emails" is about what is shown; without anything before it, it would be a change.
            if not asked.turns:
                check_question(asked.question)
            return seat.conversation.resume(asked.turns).ask(asked.question, AskOptions(), on_linked=on_linked)

        try:
            async with aclosing(answered(seat, ask)) as steps:
                async for step in steps:
                    if isinstance(step, Linked):
                        yield "generating_sql"
                    else:
                        content = _content(step)
                        given = replace(given, sql=step.sql or "")
        except (AbstainedError, RefusedError) as error:
            content = [{"type": "text", "text": f"{error.message}. {error.hint or ''}".strip()}]
    answers.add(request_id, given)
    yield {
        "request_id": request_id,
        "message": {"role": "analyst", "content": content},
        "warnings": [],
        "response_metadata": {"model_names": [seat.voice.name]},
    }


def keep_feedback(desk: Desk, answers: LatestAnswers, request: AnalystFeedback, key: Key) -> dict[str, Any]:
    """Add the verdict on an answer to the file of feedback. Raises HTTPError where no answer has that id, or it had no SQL."""
    given = answers.find(request.request_id, key.name)
    if given is None:
        message = "request_id is none of the latest answers that this key was given"
        raise HTTPError(404, message, type="not_found_error", param="request_id", code="unknown_request")
    if not given.sql:
        raise HTTPError(400, "that answer had no SQL to speak of", param="request_id", code="no_sql")
    kept = FeedbackRequest(question=given.question, sql=given.sql, verdict="up" if request.positive else "down")
    return sql.keep_feedback(desk, kept, key, request.feedback_message or "")


def _request_id() -> str:
    return new_id("")[:32]


def _database(desk: Desk, request: AnalystRequest) -> str | None:
    """`db.schema.sales` and `@db.schema.stage/sales.yaml` are the database `sales`, where that is served."""
    given = request.semantic_view or request.semantic_model_file
    if given is None:
        return None
    last = re.split(r"[/.]", re.sub(r"\.ya?ml$", "", given.strip('"')))[-1].strip('"')
    return next((name for name in desk.databases if name.lower() == last.lower()), last)


def _question(request: AnalystRequest) -> str:
    last = request.messages[-1]
    if last.role != "user":
        raise HTTPError(400, "the last message must be the user's", param="messages")
    return _text(last)


def _text(message: AnalystMessage) -> str:
    return " ".join(block.text for block in message.content if block.type == "text" and block.text)


def _content(answer: Answer) -> list[dict[str, Any]]:
    verified = answer.verified if answer.verified and answer.verified.get("used") else None
    said = f"This is our interpretation of your question: {answer.read_as or answer.question}"
    statement = {"type": "sql", "statement": answer.sql, "confidence": {"verified_query_used": verified}}
    return [{"type": "text", "text": said}, statement]
