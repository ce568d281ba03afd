"""`/v1/ask`, `/v1/query`, `/v1/schema`: databases beside the model, each behind the same guard and policy as the command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from openarctic.copilot.ask import Answer, AskOptions, OnLinked
from openarctic.copilot.charts.choose import chart_for
from openarctic.copilot.charts.svg import svg
from openarctic.copilot.conversation import Clarification, Conversation, Turn
from openarctic.copilot.execute import Result
from openarctic.copilot.feedback import Feedback
from openarctic.copilot.intent import check_text
from openarctic.copilot.query import run_query
from openarctic.errors import OpenArcticError
from openarctic.serve.desk import Desk, Linked, OnWork, Seat, answered, in_thread
from openarctic.serve.errors import HTTPError
from openarctic.serve.files import as_json
from openarctic.serve.keys import ANYONE, Key
from openarctic.serve.protocol import AskRequest, FeedbackRequest, QueryRequest
from openarctic.serve.service import named_event

# Events between `linked` and `done`, and the fields that each has of the whole object.
STAGES = (
    ("sql", ("sql", "dialect", "confidence", "verified", "read_as")),
    ("rows", ("columns", "rows", "truncated", "chart", "chart_svg", "hidden_by_policy")),
    ("answer", ("answer", "model", "timings_ms")),
)
ASKED_BACK = (("clarification", ("clarification", "answer")),)


def failed(error: OpenArcticError) -> dict[str, Any]:
    """The object of a question or statement that failed, as the command line prints it."""
    return {"status": error.status, "error": error.to_dict()}


async def ask(desk: Desk, request: AskRequest, key: Key, on_work: OnWork) -> dict[str, Any]:
    """The whole answer. Raises HTTPError or an error of ours."""
    name = desk.database(request.database)
    check_text(request.question)
    async with desk.seat(name, key, on_work) as seat:
        answer = await in_thread(seat, lambda: _conversation(seat, request).ask(request.question, _options(request)))
    return _with_picture(answer.to_dict())


def _conversation(seat: Seat, request: AskRequest) -> Conversation:
    """What the request says was asked before; its SQL is checked as any other."""
    turns = [
        Turn(question=t.question, sql=t.sql, read_as=t.read_as or "", confidence=t.confidence, calibrated=t.calibrated)
        for t in request.history
    ]
    asked_back = request.clarification
    return seat.conversation.resume(turns, None if asked_back is None else Clarification.from_dict(asked_back.model_dump()))


def _with_picture(body: dict[str, Any]) -> dict[str, Any]:
    """With the chart drawn, where there is one."""
    return body if body.get("chart") is None else {**body, "chart_svg": svg(body["chart"])}


def _options(request: AskRequest) -> AskOptions:
    return AskOptions(
        candidates=request.candidates,
        limit=request.limit,
        timeout_s=request.timeout,
        execute=request.execute,
        seed=request.seed,
        chart=request.chart,
        clarify=request.clarify,
    )


def _answered(seat: Seat, request: AskRequest) -> AsyncGenerator[Linked | Answer]:
    def ask(on_linked: OnLinked) -> Answer:
        return _conversation(seat, request).ask(request.question, _options(request), on_linked=on_linked)

    return answered(seat, ask)


async def stages(desk: Desk, request: AskRequest, key: Key, on_work: OnWork) -> AsyncIterator[bytes]:
    """The answer as events: linked, sql, rows, answer, done; linked, clarification, done; or error. Each has the fields of the
    whole object known by then."""
    try:
        name = desk.database(request.database)
        question = check_text(request.question)
        async with desk.seat(name, key, on_work) as seat, aclosing(_answered(seat, request)) as steps:
            async for step in steps:
                if isinstance(step, Linked):
                    values = [{"value": v.value, "places": [".".join(place) for place in v.places]} for v in step.values]
                    yield named_event("linked", {"question": question, "tables": step.tables, "values": values})
                else:
                    body = _with_picture(step.to_dict())
    except OpenArcticError as error:
        yield named_event("error", {"question": request.question, **failed(error)})
        return
    except HTTPError as error:
        yield named_event("error", {"question": request.question, "status": "error", **error.body()})
        return
    known = {"question": question}
    for stage, fields in ASKED_BACK if body["clarification"] else STAGES:
        yield await asyncio.to_thread(_with_rows, stage, {**known, **{field: body[field] for field in fields if field in body}})
    yield await asyncio.to_thread(_with_rows, "done", body)


def _with_rows(name: str, data: dict[str, Any]) -> bytes:
    """As `named_event`; many rows keep nobody waiting."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), as_json(data))


async def query(desk: Desk, request: QueryRequest, key: Key) -> tuple[dict[str, Any], Result]:
    """What a statement gave, as an object and as rows. Raises HTTPError or an error of ours."""
    name = desk.database(request.database)
    async with desk.seat(name, key) as seat:
        started = time.perf_counter()
        copilot = seat.copilot
        queried = await in_thread(
            seat,
            lambda: run_query(
                copilot.access, copilot.worker, request.sql, request.limit, request.timeout, is_exact=request.format != "json"
            ),
        )
    result, chart = queried.result, None
    if request.chart:
        chart = chart_for(result.columns, (), result.rows, "", queried.checked.shown, queried.dialect, result.truncated)
    body = {
        **queried.to_dict(),
        "chart": chart,
        "timings_ms": {"execute": round((time.perf_counter() - started) * 1000, 1)},
        "error": None,
    }
    return _with_picture(body), result


async def schema(desk: Desk, name: str | None, key: Key) -> dict[str, Any]:
    """What a key may see of a database: tables, columns, types, keys, comments. No values."""
    async with desk.seat(desk.database(name), key) as seat:
        seen = seat.copilot.access.schema
    tables = [asdict(table) for table in seen.tables]
    for table in tables:
        for column in table["columns"]:
            del column["values"]
    return {"dialect": seen.dialect, "tables": tables}


def keep_feedback(desk: Desk, request: FeedbackRequest, key: Key, comment: str = "") -> dict[str, Any]:
    """Add a line to the file of feedback, from which people draw verified queries. Raises HTTPError where none is kept."""
    if desk.feedback is None:
        raise HTTPError(404, "this server keeps no feedback", type="not_found_error", code="no_feedback")
    by = "" if key is ANYONE else key.name
    desk.feedback.append(Feedback(**request.model_dump(), by=by, comment=comment))
    return {"status": "ok"}
