"""`POST /v1/responses`: the same as chat, in the form of OpenAI's newer route; stateless, so nothing is stored or looked up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request

from openarctic.engine.detokenizer import Detokenizer
from openarctic.errors import OpenArcticError
from openarctic.generator import TokenLogprob
from openarctic.serve import chat
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.keys import Key
from openarctic.serve.protocol import (
    ChatRequest,
    FunctionCall,
    FunctionCallItem,
    FunctionDefinition,
    FunctionOutputItem,
    InputText,
    JsonSchemaFormat,
    Message,
    MessageItem,
    NamedFunction,
    NamedTool,
    ResponseFormat,
    ResponsesRequest,
    ResponseToolChoice,
    Tool,
    ToolCall,
)
from openarctic.serve.service import Service, event, new_id
from openarctic.serve.tools import Arguments, CallBegins, CallReader, Piece, Text
from openarctic.serve.work import Work, deadline
from openarctic.tokenizer import Tokenizer

# Where a field of this route has another name in chat's: how that begins, and how this one does.
_NAMES = (
    (re.compile(r"max_completion_tokens"), "max_output_tokens"),
    (re.compile(r"messages(\[\d+\])?(\.\w+)*"), "input"),  # other numbers, as instructions are a message of chat's
    (re.compile(r"response_format\.json_schema"), "text.format"),
    (re.compile(r"response_format"), "text.format"),
    (re.compile(r"(tools\[\d+\])\.function"), r"\1"),
)


async def begin(service: Service, request: ResponsesRequest, key: Key) -> tuple[Work, Response]:
    """Check everything and put the prompt on the engine. Raises HTTPError."""
    if request.stream_options is not None and not request.stream:
        raise HTTPError(400, "stream_options is given without stream", param="stream_options")
    try:
        work, answer = await chat.begin(service, as_chat(request), key)
    except HTTPError as error:
        raise _renamed(error) from error
    return work, Response(service, request, [tool.name for tool in answer.tools])


def _renamed(error: HTTPError) -> HTTPError:
    """With this route's name of what is wrong, as param and where the message begins with it."""
    param, message = error.param, error.message
    for name, own in _NAMES:
        if param is not None and name.match(param):
            param, message = name.sub(own, param, 1), name.sub(own, message, 1) if name.match(message) else message
            break
    return HTTPError(error.status, message, type=error.type, param=param, code=error.code, headers=error.headers)


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The same request in chat's form. Raises HTTPError for what has no sense."""
    messages = [Message(role="developer", content=request.instructions)] if request.instructions else []
    items = [MessageItem(role="user", content=request.input)] if isinstance(request.input, str) else request.input
    for item in items:
        if isinstance(item, MessageItem):
            messages.append(Message(role=item.role, content=_text(item.content)))
        elif isinstance(item, FunctionCallItem):
            call = ToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments))
            messages.append(Message(role="assistant", tool_calls=[call]))
        else:
            assert isinstance(item, FunctionOutputItem)
            messages.append(Message(role="tool", content=_text(item.output), tool_call_id=item.call_id))
    if not messages:
        raise HTTPError(400, "input is empty", param="input")
    choice = request.tool_choice
    return ChatRequest(
        model=request.model,
        messages=messages,
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        logprobs=True if request.include or request.top_logprobs is not None else None,
        top_logprobs=request.top_logprobs,
        response_format=_format(request),
        tools=[Tool(type="function", function=FunctionDefinition(**t.model_dump(exclude={"type"}))) for t in request.tools or []],
        tool_choice=NamedTool(type="function", function=NamedFunction(name=choice.name))
        if isinstance(choice, ResponseToolChoice)
        else choice,
        parallel_tool_calls=request.parallel_tool_calls,
    )


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _format(request: ResponsesRequest) -> ResponseFormat | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        if wanted.schema_ is not None:
            raise HTTPError(400, f"text.format.schema is given with the type {wanted.type}", param="text.format.schema")
        return ResponseFormat(type=wanted.type)
    schema = JsonSchemaFormat.model_validate({"name": wanted.name or "answer", "schema": wanted.schema_, "strict": wanted.strict})
    return ResponseFormat(type="json_schema", json_schema=schema)


class Response:
    """A response as it grows: its items, and the events that tell of them."""

    def __init__(self, service: Service, request: ResponsesRequest, tools: list[str]) -> None:
        self.service, self.request, self.tools = service, request, tools
        self.id, self.created = new_id("resp_"), int(time.time())
        self.items: list[dict[str, Any]] = []
        self._number = 0
        self._scores: list[TokenLogprob] = []  # of tokens whose text is not known yet

    def reader(self) -> CallReader:
        """Of calls in the text."""
        return CallReader(self.tools)

    def body(self, status: str, usage: dict[str, Any] | None = None, reason: str | None = None) -> dict[str, Any]:
        """The response object."""
        request = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self.service.name,
            "output": self.items,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "top_logprobs": request.top_logprobs or 0,
            "text": {"format": {"type": "text"}} if request.text is None else request.text.model_dump(by_alias=True),
            "tool_choice": _plain(request.tool_choice) or "auto",
            "tools": [tool.model_dump() for tool in request.tools or []],
            "truncation": "disabled",
            "store": False,
            "metadata": request.metadata or {},
            "usage": usage,
        }

    def score(self, scores: Sequence[TokenLogprob]) -> None:
        """Log probabilities of tokens, before the text that they release is added. Those of calls are not told."""
        self._scores += scores

    def _told_scores(self) -> list[dict[str, Any]]:
        scores, self._scores = self._scores, []
        # In this route bytes are a list in any case.
        return [{**one, "bytes": one["bytes"] or []} for one in chat.scored(self.service.tokenizer, scores)] if scores else []

    # Growing: each method gives the events of what it does

    def add(self, piece: Piece) -> list[dict[str, Any]]:
        """More of the text or of a call."""
        if isinstance(piece, Text):
            return self._add_text(piece.text)
        self._scores.clear()
        if isinstance(piece, CallBegins):
            return [*self.close(), *self._open(_call_item(piece.name))]
        assert isinstance(piece, Arguments)
        item = self.items[-1]
        item["arguments"] += piece.text
        return [self.event("response.function_call_arguments.delta", **self._place(), delta=piece.text)]

    def _add_text(self, text: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if not self.items or self.items[-1]["type"] != "message" or self.items[-1]["status"] != "in_progress":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events += self.close()
            events += self._open({**_item("message", "msg_"), "role": "assistant", "content": []})
            self.items[-1]["content"].append(part)
            events.append(
                self.event("response.content_part.added", **self._place(), content_index=0, part={**part, "logprobs": []})
            )
        part, scores = self.items[-1]["content"][0], self._told_scores()
        part["text"] += text
        part["logprobs"] += scores
        delta = self.event("response.output_text.delta", **self._place(), content_index=0, delta=text, logprobs=scores)
        return [*events, delta]

    def _open(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        self.items.append(item)
        return [self.event("response.output_item.added", output_index=len(self.items) - 1, item=json.loads(json.dumps(item)))]

    def close(self, status: str = "completed") -> list[dict[str, Any]]:
        """The item that is growing, if there is one, is whole."""
        if not self.items or self.items[-1]["status"] != "in_progress":
            return []
        item, place = self.items[-1], self._place()
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            if not self.tools:  # else they may be those of a call that was cut off
                part["logprobs"] += self._told_scores()
            text, scores = part["text"], part["logprobs"]
            told = self.event("response.output_text.done", **place, content_index=0, text=text, logprobs=scores)
            done = [told, self.event("response.content_part.done", **place, content_index=0, part=part)]
        else:
            done = [self.event("response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])]
        return [*done, self.event("response.output_item.done", output_index=len(self.items) - 1, item=item)]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def event(self, kind: str, **told: Any) -> dict[str, Any]:
        """The next event."""
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **told}


def _item(kind: str, prefix: str) -> dict[str, Any]:
    return {"type": kind, "id": new_id(prefix), "status": "in_progress"}


def _call_item(name: str) -> dict[str, Any]:
    return {**_item("function_call", "fc_"), "call_id": new_id("call_"), "name": name, "arguments": ""}


def _plain(choice: Any) -> Any:
    return choice.model_dump() if isinstance(choice, ResponseToolChoice) else choice


def _usage(work: Work) -> dict[str, Any]:
    usage = work.usage()
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


async def whole(work: Work, response: Response, http: Request) -> dict[str, Any]:
    """The answer in one object."""
    [[completion]] = await work.results(http)
    reader = response.reader()
    pieces = [*reader.feed(completion.text), *reader.finish(completion.finish_reason != "stop")]
    if completion.logprobs is not None:
        scores = completion.logprobs[: len(completion.ids)]  # the token that ended the text is no part of it
        response.score(_before_calls(scores, pieces, response.service.tokenizer) if response.tools else scores)
    for piece in pieces:
        response.add(piece)
    if completion.finish_reason == "stop":
        response.close()
        return response.body("completed", _usage(work))
    response.close("incomplete")
    return response.body("incomplete", _usage(work), "max_output_tokens")


def _before_calls(scores: Sequence[TokenLogprob], pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[TokenLogprob]:
    """Those of the tokens that the text beside calls is made of: it comes first."""
    left = sum(len(piece.text) for piece in pieces if isinstance(piece, Text))
    detokenizer, own = Detokenizer(tokenizer), []
    for score in scores:
        if left <= 0:
            break
        own.append(score)
        left -= len(detokenizer.add(score.id))
    return own


async def stream(work: Work, response: Response) -> AsyncIterator[bytes]:
    """The answer as server-sent events, each with its name."""
    yield _sse(response.event("response.created", response=response.body("in_progress")))
    yield _sse(response.event("response.in_progress", response=response.body("in_progress")))
    reader, reason = response.reader(), "abort"
    try:
        async for _, token in work.events():
            response.score((token.logprobs or ())[: len(token.ids)])
            pieces = reader.feed(token.text)
            if token.finish_reason is not None:
                reason = token.finish_reason
                pieces += reader.finish(reason != "stop")
            for piece in pieces:
                for told in response.add(piece):
                    yield _sse(told)
    except OpenArcticError as error:
        yield _sse(_failed(response, as_http(error)))
        return
    if reason == "deadline":
        yield _sse(_failed(response, deadline()))
        return
    status = "completed" if reason == "stop" else "incomplete"
    for told in response.close(status):
        yield _sse(told)
    body = response.body(status, _usage(work), None if reason == "stop" else "max_output_tokens")
    yield _sse(response.event(f"response.{status}", response=body))


def _failed(response: Response, error: HTTPError) -> dict[str, Any]:
    body = {**response.body("failed"), "error": {"code": error.code or "server_error", "message": error.message}}
    return response.event("response.failed", response=body)


def _sse(told: dict[str, Any]) -> bytes:
    return f"event: {told['type']}\n".encode() + event(told)
