"""`/v1/completions` says what the engine says, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openarctic.engine import Engine
from openarctic.generator import Constraint, Sampling

from .world import Server

URL = "/v1/completions"


def ask(server: Server, **fields: Any) -> Any:
    reply = server.post(URL, {"model": "tiny", "prompt": "name of", "max_tokens": 12, "temperature": 0, **fields})
    assert reply.status == 200, reply.body
    return reply.json


def test_the_text_is_the_engines(server: Server, engine: Engine) -> None:
    body = ask(server)
    [wanted] = engine.generate("name of", max_tokens=12)
    [choice] = body["choices"]
    assert choice["text"] == wanted.text
    assert (body["object"], body["model"], choice["index"]) == ("text_completion", "tiny", 0)
    assert body["id"].startswith("cmpl-")
    usage = body["usage"]
    assert usage["prompt_tokens"] == engine.count_tokens("name of")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_sampling_fields_reach_the_engine(server: Server, engine: Engine) -> None:
    fields: dict[str, Any] = {
        "temperature": 1.3,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "seed": 7,
        "stop": ["ab"],
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "stop_token_ids": [3],
        "n": 3,
        "logit_bias": {"5": 2.0},
    }
    sampling = Sampling(**{**fields, "logit_bias": {5: 2.0}, "best_of": 4})
    wanted = engine.generate("name of", sampling=[sampling], max_tokens=12)
    body = ask(server, **fields, best_of=4)
    assert [c["text"] for c in body["choices"]] == [w.text for w in wanted]
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 3, "n": 2}, {"stop": "a", "temperature": 1.2, "seed": 1}])
def test_streamed_is_whole(server: Server, fields: dict[str, Any]) -> None:
    whole = ask(server, **fields, logprobs=2)
    request = {"prompt": "name of", "max_tokens": 12, "temperature": 0, **fields, "logprobs": 2, "stream": True}
    events = server.post(URL, {**request, "stream_options": {"include_usage": True}}).events
    assert events[-1]["choices"] == [] and events[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert all(event["usage"] is None for event in events[:-1])
    for choice in whole["choices"]:
        own = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert [c["finish_reason"] for c in own[:-1]] == [None] * (len(own) - 1)
        told = [p for c in own if c["logprobs"] for p in c["logprobs"]["token_logprobs"]]
        count = len(choice["logprobs"]["token_logprobs"])
        assert told[:count] == choice["logprobs"]["token_logprobs"]


def test_several_prompts_as_text_and_as_ids(server: Server, engine: Engine) -> None:
    assert engine.tokenizer is not None
    texts = ["name of", "true", "ab 123"]
    ids = [engine.tokenizer.encode(text, add_special=True) for text in texts]
    by_text, by_ids = (ask(server, prompt=prompt) for prompt in (texts, ids))
    assert [c["text"] for c in by_text["choices"]] == [c["text"] for c in by_ids["choices"]]
    assert [c["text"] for c in by_text["choices"]] == [engine.generate(text, max_tokens=12)[0].text for text in texts]
    events = server.post(URL, {"prompt": texts, "max_tokens": 12, "temperature": 0, "stream": True}).events
    for choice in by_text["choices"]:
        assert choice["text"] == "".join(c["text"] for e in events for c in e["choices"] if c["index"] == choice["index"])


def test_echo_and_logprobs_are_aligned(server: Server, engine: Engine) -> None:
    """As lm_eval asks for the likelihood of a text: nothing new, and a score for each token but the first."""
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode("name of true ab", add_special=True)
    body = ask(server, prompt=[ids], echo=True, logprobs=1, max_tokens=1, seed=1234)
    scores = body["choices"][0]["logprobs"]
    [wanted] = engine.generate(ids, sampling=[Sampling(logprobs=1, prompt_logprobs=1)], max_tokens=1)
    assert wanted.prompt_logprobs is not None and wanted.logprobs is not None
    assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
    assert scores["token_logprobs"][1 : len(ids)] == [s.logprob for s in wanted.prompt_logprobs[1:] if s]
    assert len(scores["tokens"]) == len(scores["text_offset"]) == len(scores["token_logprobs"]) == len(ids) + len(wanted.ids)
    none = ask(server, prompt=[ids], echo=True, logprobs=1, max_tokens=0)["choices"][0]
    assert none["logprobs"]["token_logprobs"] == scores["token_logprobs"][: len(ids)]
    assert none["text"] == "name of true ab"


def test_tokens_of_an_echo_stand_where_the_text_has_them(server: Server, engine: Engine) -> None:
    """Also those of which several make a character, and special ones, which are none of the text."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    begin = tokenizer.special_tokens["<|im_start|>"]
    ids = [begin, *tokenizer.encode("Grüße \U0001f389 日本"), begin, *tokenizer.encode(" name")]
    choice = ask(server, prompt=[ids], echo=True, logprobs=2, max_tokens=0)["choices"][0]
    text, tokens, offsets = choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert text == "Grüße \U0001f389 日本 name" and len(tokens) == len(offsets) == len(ids)
    assert offsets == sorted(offsets) and offsets[-1] < len(text)
    assert tokens.count("<|im_start|>") == 2
    raw = b""
    for id, token, place in zip(ids, tokens, offsets, strict=True):
        if id == begin:
            continue
        assert place == len(raw.decode(errors="ignore"))
        if token.startswith("bytes:"):
            assert bytes.fromhex(token.removeprefix("bytes:").replace("\\x", "")) == tokenizer.token_bytes(id)
        else:
            assert text[place:].startswith(token)
        raw += tokenizer.token_bytes(id)
    assert tokens[tokens.index("bytes:\\xf0") + 1] == "bytes:\\x9f"


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"stop": "a"}])
def test_offsets_are_those_of_the_text(server: Server, engine: Engine, fields: dict[str, Any]) -> None:
    """Of whatever a random model writes, which is mostly no text at all."""
    assert engine.tokenizer is not None
    drawn = {"temperature": 1.4, "max_tokens": 60, "logprobs": 0, **fields}
    for seed in range(6):
        choice = ask(server, **drawn, seed=seed)["choices"][0]
        text, scores = choice["text"], choice["logprobs"]
        assert scores["text_offset"] == sorted(scores["text_offset"])
        for token, place in zip(scores["tokens"], scores["text_offset"], strict=True):
            is_text = not token.startswith("bytes:") and token not in engine.tokenizer.special_tokens
            assert place <= len(text) and (not is_text or "stop" in fields or text[place:].startswith(token))
        if "echo" not in fields:
            request = {"prompt": "name of", **drawn, "seed": seed, "stream": True}
            told = [c["logprobs"] for e in server.post(URL, request).events for c in e["choices"] if c["logprobs"]]
            streamed = [place for part in told for place in part["text_offset"]]
            assert [min(place, len(text)) for place in streamed[: len(scores["tokens"])]] == scores["text_offset"]


@pytest.mark.parametrize(
    ("outputs", "constraint"),
    [
        ({"regex": "[0-9]{4}"}, Constraint(regex="[0-9]{4}")),
        ({"choice": ["true", "ab"]}, Constraint(choice=["true", "ab"])),
        ({"json": {"type": "integer"}}, Constraint(json={"type": "integer"})),
        ({"grammar": 'start: "name" | "true"'}, Constraint(grammar='start: "name" | "true"')),
    ],
)
def test_structured_outputs(server: Server, engine: Engine, outputs: dict[str, Any], constraint: Constraint) -> None:
    [wanted] = engine.generate("name of", max_tokens=12, grammar=constraint)
    assert ask(server, structured_outputs=outputs)["choices"][0]["text"] == wanted.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 99}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "prompt"),
        ({"prompt": "ab" * 9000}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[1, 2], []]}, "prompt"),
        ({"prompt": [1, 100_000]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt"),
        ({"n": 65, "temperature": 1}, "n"),
        ({"best_of": 65, "temperature": 1}, "best_of"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [100_000]}, "stop_token_ids"),
        ({"prompt": ["ab"] * 65}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 1, "n": 2, "temperature": 1}, "best_of"),
        ({"best_of": 3, "stream": True, "temperature": 1}, "best_of"),
        ({"echo": True, "stream": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": ["\ud800"]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {"json": {"const": "\ud800"}}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": '{"const": "\\ud800"}'}}, "structured_outputs.json"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"model": "\ud800"}, "model"),
        ({"guided_json": {}}, "guided_json"),
        ({"unknown": 1}, "unknown"),
        ({"Unknown-1": 1}, "Unknown-1"),
        ({"stream_options": {"other": 1}}, "stream_options.other"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"top_k": -2}, "top_k"),
        ({"prompt": ["ab"] * 64, "n": 5, "temperature": 1}, "n"),
        ({"prompt": ["ab"] * 64, "best_of": 5, "temperature": 1}, "best_of"),
    ],
)
def test_what_is_wrong_is_named(server: Server, fields: dict[str, Any], param: str | None) -> None:
    reply = server.post(URL, {"prompt": "name", "temperature": 0, **fields})
    assert reply.status == 400, reply.body
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["param"] == param, reply.error
    assert not server.engine.num_running and not server.engine.num_waiting


def test_too_long_has_its_code(server: Server) -> None:
    assert server.post(URL, {"prompt": "ab" * 9000}).error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields", [{"x" * 3_000_000: 1}, {"model": "x" * 3_000_000}, {"structured_outputs": {"choice": ["x" * 3_000_000, ""]}}]
)
def test_what_is_long_is_not_told_back(server: Server, fields: dict[str, Any]) -> None:
    reply = server.post(URL, {"prompt": "name", **fields})
    assert reply.status in (400, 404) and len(reply.body) < 3000


@pytest.mark.parametrize("all_", [0, -1])
def test_all_tokens_may_be_drawn(server: Server, all_: int) -> None:
    drawn = {"temperature": 1.3, "seed": 7}
    assert ask(server, **drawn, top_k=all_)["choices"] == ask(server, **drawn)["choices"]


def test_another_model_is_not_found(server: Server) -> None:
    reply = server.post(URL, {"model": "gpt", "prompt": "x"})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"prompt": "\xff"}', b'"x"', b"[" * 100_000])
def test_bodies_that_are_none(server: Server, body: bytes) -> None:
    reply = server.post(URL, body)
    assert reply.status == 400, reply.body
    assert reply.error["type"] == "invalid_request_error"
    is_json = body in (b"", b"[1]", b"null", b'"x"')
    assert ("must be a JSON object" if is_json else "is not JSON") in reply.error["message"]


@pytest.mark.parametrize("kind", [None, "", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "image/png"])
def test_bodies_are_json_whatever_they_are_called(server: Server, kind: str | None) -> None:
    """And a page of another site, which might send them so without asking first, is told by its origin."""
    data = json.dumps({"prompt": "name of", "max_tokens": 12, "temperature": 0}).encode()
    connection = server.connection()
    headers = {} if kind is None else {"Content-Type": kind}
    connection.request("POST", URL, data, headers)
    answer = connection.getresponse()
    assert json.loads(answer.read())["choices"] == ask(server)["choices"]
    for origin in ("http://evil.example", "null"):
        connection.request("POST", URL, data, {**headers, "Origin": origin})
        answer = connection.getresponse()
        assert answer.status == 403, answer.read()
        answer.read()
    connection.close()


def test_bookkeeping_changes_nothing(server: Server) -> None:
    kept = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"}
    assert ask(server, **kept)["choices"] == ask(server)["choices"]
