"""`POST /api/v2/cortex/analyst/message`: questions in the form of Snowflake's Cortex Analyst, so that its clients can point here.

Like there the answer is a sentence and a statement, which the client runs itself; the key needs the scope `ask`, and
nothing is executed for the answer beyond what voting needs.
"""

from __future__ import annotations

import re
from typing import Any

from openarctic.copilot.ask import Answer, AskOptions
from openarctic.copilot.intent import check_question
from openarctic.errors import AbstainedError, RefusedError
from openarctic.serve.desk import Desk, in_thread
from openarctic.serve.errors import HTTPError
from openarctic.serve.keys import Key
from openarctic.serve.protocol import AnalystRequest
from openarctic.serve.service import new_id


async def message(desk: Desk, request: AnalystRequest, key: Key) -> dict[str, Any]:
    """The analyst's message. Raises HTTPError or an error of ours; what cannot be answered is said in the message."""
    name = desk.database(_database(desk, request))
    question = check_question(_question(request))
    async with desk.seat(name, key) as seat:
        try:
            answer = await in_thread(seat, lambda: seat.copilot.ask(question, AskOptions()))
            content = _content(answer)
        except (AbstainedError, RefusedError) as error:
            content = [{"type": "text", "text": f"{error.message}. {error.hint or ''}".strip()}]
    return {
        "request_id": new_id("")[:32],
        "message": {"role": "analyst", "content": content},
        "warnings": [],
        "response_metadata": {"model_names": [seat.voice.name]},
    }


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
    return " ".join(block.text for block in last.content if block.type == "text" and block.text)


def _content(answer: Answer) -> list[dict[str, Any]]:
    verified = answer.verified if answer.verified and answer.verified.get("used") else None
    said = f"This is our interpretation of your question: {answer.question}"
    sql = {"type": "sql", "statement": answer.sql, "confidence": {"verified_query_used": verified}}
    return [{"type": "text", "text": said}, sql]
