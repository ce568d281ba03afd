"""`POST /v1/completions`: texts after texts, with everything that OpenAI's old route offered, echo and log probabilities too."""

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
from openarctic.serve.protocol import MAX_PROMPTS, MAX_TEXTS, CompletionRequest
from openarctic.serve.sampling import form_of, sampling_of
from openarctic.serve.service import DONE, Service, TextEvents, event, new_id
from openarctic.serve.spelling import Places, spelled
from openarctic.serve.work import FINISH, Work, deadline
from openarctic.tokenizer import Tokenizer

DEFAULT_TOKENS = 16  # OpenAI's
MAX_LOGPROBS = 20


@dataclass(slots=True)
class _Answer:
    """What all objects of one answer share."""

    service: Service
    request: CompletionRequest
    prompts: list[list[int]]
    id: str
    created: int
    n: int

    def body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.service.name,
            "choices": choices,
            **more,
        }


async def begin(service: Service, request: CompletionRequest, key: Key) -> tuple[Work, _Answer]:
    """Check everything and put the prompts on the engine. Raises HTTPError."""
    service.check_model(request.model)
    prompts = await _prompts(service, request)
    _check(request, len(prompts))
    try:
        echoes = bool(request.echo) and request.logprobs is not None
        sampling = sampling_of(
            request,
            best_of=request.best_of,
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if echoes else None,
        )
        form = form_of(request.structured_outputs)
    except OpenArcticError as error:
        raise as_http(error, tuple(CompletionRequest.model_fields)) from error
    names = {"param": "max_tokens", "prompt_param": "prompt"}
    rooms = [service.room(len(ids), _asked(request), DEFAULT_TOKENS, **names) for ids in prompts]
    work = await service.submit(prompts, request, sampling, rooms, form, key)
    return work, _Answer(service, request, prompts, new_id("cmpl-"), int(time.time()), sampling.n)


def _asked(request: CompletionRequest) -> int | None:
    # lm_eval asks for 0 new tokens beside an echo; one is computed and left out.
    return 1 if request.max_tokens == 0 and request.echo else request.max_tokens


def _check(request: CompletionRequest, num_prompts: int) -> None:
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise HTTPError(400, f"logprobs is {request.logprobs}, it must be 0 to {MAX_LOGPROBS}", param="logprobs")
    texts = (request.n or 1) if request.best_of is None else request.best_of
    if num_prompts > 1 and num_prompts * texts > MAX_TEXTS:
        param = "n" if request.best_of is None else "best_of"
        message = f"{param} is {texts} for each of {num_prompts} prompts, it must be at most {MAX_TEXTS} in all"
        raise HTTPError(400, message, param=param)
    if request.stream:
        if request.best_of is not None and request.best_of > (request.n or 1):
            raise HTTPError(400, "best_of is more than n, such completions cannot be streamed", param="best_of")
        if request.echo:
            raise HTTPError(400, "echo cannot be streamed", param="echo")
    elif request.stream_options is not None:
        raise HTTPError(400, "stream_options is given without stream", param="stream_options")


async def _prompts(service: Service, request: CompletionRequest) -> list[list[int]]:
    given = request.prompt
    many: Sequence[Any] = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(many) > MAX_PROMPTS:
        raise HTTPError(400, f"{len(many)} prompts were given, it must be at most {MAX_PROMPTS}", param="prompt")
    texts = [one for one in many if isinstance(one, str)]
    tokenizer = service.tokenizer if texts else None

    def encoded() -> list[list[int]]:
        return [list(tokenizer.encode(one, add_special=True) if tokenizer and isinstance(one, str) else one) for one in many]

    prompts = await service.tokenized(sum(map(len, texts)), encoded)
    if not all(prompts):
        raise HTTPError(400, "the prompt is empty", param="prompt")
    return prompts


async def whole(work: Work, answer: _Answer, http: Request) -> dict[str, Any]:
    """The answer in one object."""
    results = await work.results(http)
    choices = []
    for number, (prompt, completions) in enumerate(zip(answer.prompts, results, strict=True)):
        for index, completion in enumerate(completions):
            choices.append(_choice(answer, number * answer.n + index, prompt, completion))
    return answer.body(choices, usage=work.usage())


def _choice(answer: _Answer, index: int, prompt: Sequence[int], completion: Completion) -> dict[str, Any]:
    request, ids = answer.request, completion.ids
    text, scores = completion.text, completion.logprobs
    if request.max_tokens == 0:
        text, ids, scores = "", [], scores and []
    before = answer.service.tokenizer.decode(prompt) if request.echo else ""
    logprobs = None
    if request.logprobs is not None:
        tokenizer, end = answer.service.tokenizer, len(before) + len(text)
        places = _places(tokenizer, prompt, 0) if request.echo else []
        places += _places(tokenizer, ids, len(before))
        shown = [*(completion.prompt_logprobs or []), *(scores or [])] if request.echo else scores or []
        tokens = [*prompt, *ids] if request.echo else ids
        # Tokens of a stop text are told, though it is none of the text.
        logprobs = _logprobs(shown[: len(tokens)], tokens, [min(place, end) for place in places], tokenizer)
    return {
        "index": index,
        "text": before + text,
        "logprobs": logprobs,
        "finish_reason": FINISH[completion.finish_reason],
        "stop_reason": completion.stop_reason if completion.finish_reason == "stop" else completion.finish_reason,
    }


def _places(tokenizer: Tokenizer, ids: Sequence[int], start: int) -> list[int]:
    places = Places(tokenizer)
    return [start + places.place(id) for id in ids]


def _logprobs(
    scores: Sequence[TokenLogprob | None], ids: Sequence[int], places: Sequence[int], tokenizer: Tokenizer
) -> dict[str, Any]:
    """OpenAI's four lists, an entry a token; nothing predicts a prompt's first."""
    top = [None if s is None else {spelled(tokenizer, i): p for i, p in (s.top or ((s.id, s.logprob),))} for s in scores]
    return {
        "tokens": [spelled(tokenizer, id) for id in ids],
        "token_logprobs": [None if s is None else s.logprob for s in scores],
        "top_logprobs": top,
        "text_offset": list(places),
    }


async def stream(work: Work, answer: _Answer) -> AsyncIterator[bytes]:
    """The answer as server-sent events."""
    options = answer.request.stream_options
    tells_usage = bool(options and options.include_usage)
    more = {"usage": None} if tells_usage else {}
    places: dict[int, Places] = {}  # by choice
    plain: dict[int, TextEvents] = {}  # by choice

    def text_chunk(index: int, text: str) -> dict[str, Any]:
        return answer.body([_delta(answer, index, TokenEvent(index, (), text), places)], **more)

    try:
        async for number, token in work.events():
            index = number * answer.n + token.index
            if token.logprobs is None and token.finish_reason is None:
                if index not in plain:
                    plain[index] = TextEvents(partial(text_chunk, index))
                yield plain[index].event(token.text)
            else:
                yield event(answer.body([_delta(answer, index, token, places)], **more))
            if token.finish_reason == "deadline":
                yield event(deadline().body())
        if tells_usage:
            yield event(answer.body([], usage=work.usage()))
    except OpenArcticError as error:
        yield event(as_http(error).body())
    yield DONE


def _delta(answer: _Answer, index: int, token: TokenEvent, places: dict[int, Places]) -> dict[str, Any]:
    logprobs = None
    if token.logprobs is not None:
        tokenizer = answer.service.tokenizer
        own = places.setdefault(index, Places(tokenizer))
        logprobs = _logprobs(token.logprobs, token.ids, [own.place(id) for id in token.ids], tokenizer)
    reason = token.finish_reason
    return {
        "index": index,
        "text": token.text,
        "logprobs": logprobs,
        "finish_reason": None if reason is None else FINISH.get(reason, "length"),
        "stop_reason": token.stop_reason if reason in (None, "stop") else reason,
    }
