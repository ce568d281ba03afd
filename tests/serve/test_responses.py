"""`/v1/responses` is chat in another form."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, None),
        ({"metadata": {"a": "\ud800"}}, "metadata.a"),
    ],
)
def test_what_is_wrong_is_named(server: Server, fields: dict[str, Any], param: str | None) -> None:
    reply = server.post(URL, {"input": "x", **fields})
    assert reply.status == 400, reply.body
    if param is not None:
        assert reply.error["param"] == param, reply.error
