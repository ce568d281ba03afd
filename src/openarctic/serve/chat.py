"""`POST /v1/chat/completions`: messages in, an answer or calls of tools out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from openarctic.engine.request import TokenEvent
from openarctic.errors import OpenArcticError
from openarctic.generator import Completion, TokenLogprob
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.keys import Key
from openarctic.serve.protocol import ChatRequest, FunctionDefinition, Message
from openarctic.serve.sampling import form_of, sampling_of
from openarctic.serve.service import DONE, Service, TextEvents, event, new_id
from openarctic.serve.spelling import spelled
from openarctic.serve.tools import Arguments, CallBegins, CallReader, Piece, Text, calls_form, describe, tools_of, written
from openarctic.serve.work import FINISH, Work, deadline
from openarctic.tokenizer import Tokenizer
from openarctic.tokenizer.chat import reads_tools

MAX_TOP_LOGPROBS = 20


@dataclass(slots=True)
class _Answer:
    """What all objects of one answer share; `tools` are those that may be called."""

    service: Service
    request: ChatRequest
    tools: list[FunctionDefinition]
    id: str
    created: int

    def body(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": None,
            "choices": choices,
            **more,
        }

    def reader(self) -> CallReader:
        return CallReader([tool.name for tool in self.tools])


async def begin(service: Service, request: ChatRequest, key: Key) -> tuple[Work, _Answer]:
    """Check everything and put the prompt on the engine. Raises HTTPError."""
    service.check_model(request.model)
    tools = tools_of(request)
    _check(request)
    try:
        tokenizer = service.tokenizer
        ids = await service.tokenized(size_of(request.messages), lambda: prompt_ids(tokenizer, request.messages, tools))
        sampling = sampling_of(request, logprobs=(request.top_logprobs or 0) if request.logprobs else None)
        form = form_of(request.structured_outputs, request.response_format)
        if tools:
            form = calls_form(request, tools, form)
    except OpenArcticError as error:
        raise as_http(error, tuple(ChatRequest.model_fields)) from error
    param = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    room = service.room(len(ids), getattr(request, param), None, param=param, prompt_param="messages")
    work = await service.submit([ids], request, sampling, [room], form, key)
    return work, _Answer(service, request, tools, new_id("chatcmpl-"), int(time.time()))


def _check(request: ChatRequest) -> None:
    both = request.max_tokens, request.max_completion_tokens
    if None not in both and both[0] != both[1]:
        raise HTTPError(400, f"max_tokens is {both[0]}, max_completion_tokens {both[1]}", param="max_completion_tokens")
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise HTTPError(400, "top_logprobs is given without logprobs", param="top_logprobs")
        if not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
            message = f"top_logprobs is {request.top_logprobs}, it must be 0 to {MAX_TOP_LOGPROBS}"
            raise HTTPError(400, message, param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise HTTPError(400, "stream_options is given without stream", param="stream_options")


def prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[FunctionDefinition],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The conversation in the model's own form. Raises UserError for what its template refuses."""
    turns = [_turn(message, number) for number, message in enumerate(messages)]
    if not tools or reads_tools(tokenizer.chat_template):
        functions = [{"type": "function", "function": tool.model_dump(exclude_none=True)} for tool in tools]
        return tokenizer.encode_chat(turns, add_generation_prompt, functions)
    told = describe(tools)
    if turns[0]["role"] == "system":
        turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{told}"}
    else:
        turns.insert(0, {"role": "system", "content": told})
    return tokenizer.encode_chat(turns, add_generation_prompt)


def size_of(messages: Sequence[Message]) -> int:
    """Characters of all texts."""
    texts = ([m.content] if isinstance(m.content, str) else [part.text for part in m.content or []] for m in messages)
    return sum(len(text) for own in texts for text in own)


def _turn(message: Message, number: int) -> dict[str, str]:
    """Role and text: parts are put together, earlier calls are written as the model wrote them."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or [])
    if message.tool_calls:
        if message.role != "assistant":
            raise HTTPError(400, f"a {message.role} makes no tool calls", param=f"messages[{number}].tool_calls")
        text = "\n".join(filter(None, [text, written(message.tool_calls)]))
    elif content is None and message.refusal is None:
        raise HTTPError(400, "a message has no content", param=f"messages[{number}].content")
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": text or message.refusal or ""}


async def whole(work: Work, answer: _Answer, http: Request) -> dict[str, Any]:
    """The answer in one object."""
    [completions] = await work.results(http)
    choices = [_choice(answer, index, completion) for index, completion in enumerate(completions)]
    return answer.body("chat.completion", choices, usage=work.usage())


def _choice(answer: _Answer, index: int, completion: Completion) -> dict[str, Any]:
    reason = completion.finish_reason
    text, calls = completion.text, list[dict[str, Any]]()
    if answer.tools:
        text, calls = read_calls(answer.reader(), text, reason != "stop")
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        # The token that ended the text is no part of it.
        "logprobs": _logprobs(answer, completion.logprobs and completion.logprobs[: len(completion.ids)]),
        "finish_reason": "tool_calls" if calls and reason == "stop" else FINISH[reason],
        "stop_reason": completion.stop_reason if reason == "stop" else reason,
    }


def read_calls(reader: CallReader, text: str, is_cut: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """The text beside the calls, and the calls in OpenAI's form."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for piece in [*reader.feed(text), *reader.finish(is_cut)]:
        if isinstance(piece, Text):
            texts.append(piece.text)
        elif isinstance(piece, CallBegins):
            calls.append({"id": new_id("call_"), "type": "function", "function": {"name": piece.name, "arguments": ""}})
        else:
            calls[piece.index]["function"]["arguments"] += piece.text
    return "".join(texts), calls


def _logprobs(answer: _Answer, scores: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {"content": scored(answer.service.tokenizer, scores), "refusal": None}


def scored(tokenizer: Tokenizer, scores: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log probabilities as OpenAI writes them, an entry a token."""
    content = []
    for score in scores:
        top = [_scored(tokenizer, id, logprob) for id, logprob in score.top]
        content.append({**_scored(tokenizer, score.id, score.logprob), "top_logprobs": top})
    return content


def _scored(tokenizer: Tokenizer, id: int, logprob: float) -> dict[str, Any]:
    # A special token is no part of the text, so it has no bytes in it.
    raw = None if tokenizer.token(id) in tokenizer.special_tokens else list(tokenizer.token_bytes(id))
    return {"token": spelled(tokenizer, id), "logprob": logprob, "bytes": raw}


async def stream(work: Work, answer: _Answer) -> AsyncIterator[bytes]:
    """The answer as server-sent events: a role first for each choice, then what is written, a reason, and usage if wanted."""
    options = answer.request.stream_options
    tells_usage = bool(options and options.include_usage)
    more = {"usage": None} if tells_usage else {}

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None, **extra: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **extra}
        return answer.body("chat.completion.chunk", [choice], **more)

    def text_chunk(index: int, text: str) -> dict[str, Any]:
        return chunk(index, {"content": text})

    plain: dict[int, TextEvents] = {}  # by choice
    readers = [answer.reader() for _ in range(answer.request.n or 1)] if answer.tools else []
    has_begun: set[int] = set()
    untold: dict[int, list[TokenLogprob]] = {}  # of tokens whose text is not known yet
    try:
        async for _, token in work.events():
            index = token.index
            if index not in has_begun:
                has_begun.add(index)
                plain[index] = TextEvents(partial(text_chunk, index))
                yield event(chunk(index, {"role": "assistant", "content": ""}))
            if token.logprobs is not None:
                untold[index] = untold.get(index, []) + list(token.logprobs[: len(token.ids)])
            if token.text and not readers and index not in untold:
                yield plain[index].event(token.text)
            else:
                for delta in _deltas(token, readers[index] if readers else None):
                    yield event(chunk(index, delta, _logprobs(answer, untold.pop(index, None))))
            if token.finish_reason == "deadline":
                yield event(deadline().body())
            elif token.finish_reason is not None:
                has_called = bool(readers and readers[index].count) and token.finish_reason == "stop"
                reason = "tool_calls" if has_called else FINISH[token.finish_reason]
                stop = token.stop_reason if token.finish_reason == "stop" else token.finish_reason
                yield event(chunk(index, {}, _logprobs(answer, untold.pop(index, None)), reason, stop_reason=stop))
        if tells_usage:
            yield event(answer.body("chat.completion.chunk", [], usage=work.usage()))
    except OpenArcticError as error:
        yield event(as_http(error).body())
    yield DONE


def _deltas(token: TokenEvent, reader: CallReader | None) -> list[dict[str, Any]]:
    if reader is None:
        return [{"content": token.text}] if token.text else []
    pieces = reader.feed(token.text)
    if token.finish_reason is not None:
        pieces += reader.finish(token.finish_reason != "stop")
    return [_delta(piece) for piece in pieces]


def _delta(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Text):
        return {"content": piece.text}
    if isinstance(piece, CallBegins):
        function = {"name": piece.name, "arguments": ""}
        return {"tool_calls": [{"index": piece.index, "id": new_id("call_"), "type": "function", "function": function}]}
    assert isinstance(piece, Arguments)
    return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
