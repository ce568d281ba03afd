"""`/v1/responses` is chat in another form."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from openarctic.engine.detokenizer import Detokenizer
from openarctic.engine.request import TokenEvent
from openarctic.generator import Completion, TokenLogprob
from openarctic.serve.protocol import ResponsesRequest
from openarctic.serve.responses import Response, stream, whole
from openarctic.serve.work import Work

from .test_chat import NOW, WEATHER
from .world import Server

URL = "/v1/responses"
CHAT = {"messages": [{"role": "system", "content": "ab"}, {"role": "user", "content": "name of"}]}
ITEMS = [
    {"role": "developer", "content": "ab"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "name of"}]},
]
FLAT = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]


def ask(server: Server, **fields: Any) -> Any:
    reply = server.post(URL, {"input": "name of", "instructions": "ab", "max_output_tokens": 12, "temperature": 0, **fields})
    assert reply.status == 200, reply.body
    return reply.json


def test_the_answer_is_chats(server: Server) -> None:
    chat = server.post("/v1/chat/completions", {**CHAT, "max_tokens": 12, "temperature": 0}).json
    for body in (ask(server), ask(server, input=ITEMS, instructions=None)):
        [item] = body["output"]
        assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"]
        assert body["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
        assert body["status"] == ("incomplete" if chat["choices"][0]["finish_reason"] == "length" else "completed")


@pytest.mark.parametrize(
    "fields", [{}, {"tools": [FLAT], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 200}]
)
def test_streamed_is_whole(server: Server, fields: dict[str, Any]) -> None:
    whole = ask(server, **fields)
    request = {"input": "name of", "instructions": "ab", "max_output_tokens": 12, "temperature": 0, **fields, "stream": True}
    text = server.post(URL, request).body.decode()
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]
    assert last["type"] == f"response.{whole['status']}"
    assert [_plain(item) for item in last["response"]["output"]] == [_plain(item) for item in whole["output"]]
    deltas = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
    item = whole["output"][0]
    assert deltas == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])


@pytest.mark.parametrize("fields", [{}, {"tools": [FLAT]}, {"temperature": 1.4, "max_output_tokens": 40}])
def test_log_probabilities_are_chats(server: Server, fields: dict[str, Any]) -> None:
    fields = {"temperature": 0, "max_output_tokens": 12, **fields}
    wanted = {**fields, "input": "name of", "instructions": "ab", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    body = server.post(URL, wanted).json
    assert body["top_logprobs"] == 2
    [part] = body["output"][0]["content"]
    assert b"".join(bytes(one["bytes"]) for one in part["logprobs"]).decode("utf-8", "replace") == part["text"]
    if fields["temperature"] == 0:
        tools = {"tools": [WEATHER]} if "tools" in fields else {}
        asked = {**CHAT, **tools, "max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 2}
        chat = server.post("/v1/chat/completions", asked).json["choices"][0]["logprobs"]["content"]
        assert part["logprobs"] == [{**one, "bytes": one["bytes"] or []} for one in chat]
    events = server.post(URL, {**wanted, "stream": True}).body.decode()
    told = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    [done] = [event for event in told if event["type"] == "response.output_text.done"]
    [whole] = told[-1]["response"]["output"][0]["content"]
    assert done["logprobs"] == whole["logprobs"] and len(whole["logprobs"]) >= 12
    deltas = [one for event in told if event["type"] == "response.output_text.delta" for one in event["logprobs"]]
    assert deltas == whole["logprobs"][: len(deltas)] and deltas
    if fields["temperature"] == 0:
        assert whole["logprobs"] == part["logprobs"]


def test_log_probabilities_are_those_of_the_text_before_a_call(server: Server) -> None:
    """Whole and streamed, where the text ends in a call, whole or cut off."""
    tokenizer = server.engine.tokenizer
    assert tokenizer is not None
    for text in ('é < name\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "é < name\n<tool_call>\n{"):
        ids = tokenizer.encode(text)
        scores = [TokenLogprob(id, -1.0, 1) for id in ids]
        reason = "stop" if text.endswith(">") else "length"
        request = ResponsesRequest(input="x", tools=[{"type": "function", "name": "now"}], top_logprobs=0)  # type: ignore[list-item]
        whole_ = asyncio.run(_whole_of(server, request, Completion(text, ids, -1.0, reason, logprobs=scores)))
        streamed = asyncio.run(_streamed_of(server, request, ids, reason))
        parts = [body["output"][0]["content"][0] for body in (whole_, streamed)]
        assert parts[0]["text"] == parts[1]["text"] == "é < name"
        assert [one["token"] for one in parts[0]["logprobs"]] == [tokenizer.token_text(id) for id in tokenizer.encode("é < name")]
        assert parts[0]["logprobs"] == parts[1]["logprobs"]
        kinds = [item["type"] for item in whole_["output"]]
        assert kinds == (["message", "function_call"] if reason == "stop" else ["message"])


class _Written:
    """In the place of work on the engine: what it would have written."""

    def __init__(self, completion: Completion | None = None, events: Sequence[TokenEvent] = ()) -> None:
        self._completion, self._events = completion, events

    async def results(self, http: Any) -> list[list[Completion | None]]:
        return [[self._completion]]

    async def events(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        for event in self._events:
            yield 0, event

    def usage(self) -> dict[str, Any]:
        return Work([], None).usage()  # type: ignore[arg-type]


async def _whole_of(server: Server, request: ResponsesRequest, completion: Completion) -> dict[str, Any]:
    written: Any = _Written(completion)
    return await whole(written, Response(server.service, request, ["now"]), None)  # type: ignore[arg-type]


async def _streamed_of(server: Server, request: ResponsesRequest, ids: list[int], reason: str) -> Any:
    assert server.engine.tokenizer is not None
    detokenizer = Detokenizer(server.engine.tokenizer)
    events = [TokenEvent(0, (id,), detokenizer.add(id), (TokenLogprob(id, -1.0, 1),)) for id in ids]
    written: Any = _Written(events=[*events, TokenEvent(0, (), detokenizer.finish(), (), reason)])
    told = [event async for event in stream(written, Response(server.service, request, ["now"]))]
    return json.loads(told[-1].decode().split("data: ")[1])["response"]


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("id", "call_id")}


def test_calls_and_their_outputs_go_back_in(server: Server) -> None:
    body = ask(
        server,
        tools=[{"type": "function", **NOW["function"]}],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
    )  # type: ignore[dict-item]
    [call] = body["output"]
    assert (call["type"], call["name"], call["arguments"], call["status"]) == ("function_call", "now", "{}", "completed")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "12:00"}
    again = ask(server, input=[{"role": "user", "content": "time?"}, call, output])
    assert again["output"][0]["type"] == "message"
    ask(server, input=[{"role": "user", "content": "time?"}, *again["output"], {"role": "user", "content": "and now?"}])


def test_a_schema_is_followed(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    body = ask(server, text={"format": {"type": "json_schema", "name": "x", "schema": schema}}, max_output_tokens=60)
    assert json.loads(body["output"][0]["content"][0]["text"])["a"] in (True, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 100_000}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        (
            {"instructions": "ab", "input": [{"type": "message", "role": "assistant", "content": []}], "top_logprobs": 30},
            "top_logprobs",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format.schema"),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
        ({"tools": [{**FLAT, "parameters": {"type": "integer"}}]}, "tools[0].parameters"),
        ({"tools": [FLAT, {**FLAT, "name": "x", "parameters": {"not": {}}}]}, "tools[1].parameters"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, None),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"stream_options": {}}, "stream_options"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a"),
    ],
)
def test_what_is_wrong_is_named(server: Server, fields: dict[str, Any], param: str | None) -> None:
    reply = server.post(URL, {"input": "x", **fields})
    assert reply.status == 400, reply.body
    if param is not None:
        assert reply.error["param"] == param, reply.error
        assert not re.search("max_completion|messages|response_format|function|Lark", reply.error["message"])
