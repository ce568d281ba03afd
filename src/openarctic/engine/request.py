"""What is asked of the engine and what comes back: a request, its events as they happen, its completions at the end.

The stream is where two threads meet: the engine's loop puts events in, the caller takes them out, in a `for`, an `async for`, or
all at once with `result`.
"""

from __future__ import annotations

import asyncio
import operator
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from openarctic.errors import CapacityError, UserError
from openarctic.generator import Completion, Sampling, TokenLogprob
from openarctic.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openarctic.engine.constraint import Follower

MAX_CANDIDATES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and what to make of it; `follower` stands at the start of the grammar.

    `priority`: smaller comes first. `tenant` names who asks: tenants get equal shares, and nothing that one of them computed
    (prefixes, drafts) is used for another. `deadline` is in seconds of the loop's clock. `prompt_logprobs` are those of the
    tokens after position `prompt_logprobs_start`.
    """

    ids: list[int]
    settings: list[Sampling]
    max_tokens: int
    follower: Follower | None = None
    forces_tokens: bool = True
    priority: int = 0
    tenant: str = ""
    deadline: float | None = None
    prompt_logprobs_start: int = 0

    @property
    def is_streamed(self) -> bool:
        """Whether texts can be shown before the end: only then it is known which ones `best_of` keeps."""
        return all(s.num_candidates == s.n for s in self.settings)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can do at most."""

    vocab_size: int
    context: int
    tokenizer: Tokenizer | None


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int. Raises UserError unless it is a whole number within the limits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}, it must be a whole number") from None
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise UserError(f"{name} is {value!r}, it must be {f'at least {low}' if high is None else f'{low} to {high}'}")
    return number


def token_ids(prompt: Any, vocab_size: int) -> list[int]:
    """Token ids of a prompt that is no text. Raises UserError for anything else."""
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise UserError(f"the prompt is of type {type(prompt).__name__}, it must be a text or token ids")
    ids = []
    for id in prompt:
        try:
            ids.append(operator.index(id))
        except TypeError:
            raise UserError(f"the prompt holds {id!r}, it must hold token ids") from None
        if not 0 <= ids[-1] < vocab_size:
            raise UserError(f"the prompt holds token {id}, the vocabulary has 0 to {vocab_size - 1}")
    return ids


def check_request(limits: Limits, ids: Sequence[int], settings: Sequence[Sampling], max_tokens: int) -> None:
    """Every reason to refuse, before anything is computed. Raises UserError, or CapacityError for a prompt that is too long."""
    count = sum(s.num_candidates for s in settings)
    if not 1 <= count <= MAX_CANDIDATES:
        what = f"{count} candidates were asked for"
        if len(settings) == 1:
            what = f"{'n' if settings[0].best_of is None else 'best_of'} is {count}"
        raise UserError(f"{what}, it must be 1 to {MAX_CANDIDATES}")
    whole("max_tokens", max_tokens, 1)
    if not ids:
        raise UserError("the prompt is empty")
    if len(ids) >= limits.context:
        raise CapacityError(f"the prompt has {len(ids)} tokens, the context {limits.context}", "shorten the prompt")
    for sampling in settings:
        for name in ("logit_bias", "stop_token_ids"):
            for id in getattr(sampling, name):
                if id >= limits.vocab_size:
                    raise UserError(f"{name} names token {id}, the vocabulary has 0 to {limits.vocab_size - 1}")
        if sampling.stop and limits.tokenizer is None:
            raise UserError("stop strings need a tokenizer, this model has none", "use stop_token_ids")


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one completion and the text they release, which may be none yet. The last one has a `finish_reason`."""

    index: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of a request. `cached_tokens` of the prompt were not computed again; `draft_tokens` were guessed, and of them
    `accepted_tokens` right."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(slots=True, eq=False)
class Stream:
    """Events of one request. `cancel` ends it within a step; what was written until then stays.

    Every completion ends once, with a `finish_reason`: stop, length, grammar, abort or deadline. After the last event
    `completions` and `usage` are whole. Failures inside the engine are raised where the caller waits.
    """

    request: Request
    _cancel: Callable[[Stream], None]
    is_heard: bool = True  # somebody reads the events
    completions: list[Completion] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    is_done: bool = False
    _events: deque[TokenEvent] = field(default_factory=deque)
    _error: BaseException | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _waiters: list[Callable[[], object]] = field(default_factory=list)  # wake who waits in asyncio

    def cancel(self) -> None:
        """Ask for the end; harmless when it has ended."""
        self._cancel(self)

    def result(self) -> list[Completion]:
        """Wait for the end; the completions. An interrupt (Ctrl-C) cancels the request first."""
        try:
            with self._changed:
                while not self.is_done:
                    self._changed.wait()
        except BaseException:
            self.cancel()
            raise
        if self._error:
            raise self._error
        return self.completions

    def __iter__(self) -> Iterator[TokenEvent]:
        try:
            while (event := self._next()) is not None:
                yield event
        finally:  # also when the caller stops listening
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        loop = asyncio.get_running_loop()
        try:
            while True:
                with self._changed:
                    event = self._events.popleft() if self._events else None
                    is_done = self.is_done
                    if event is None and not is_done:
                        woken = loop.create_future()
                        self._waiters.append(partial(loop.call_soon_threadsafe, _set, woken))
                if event is not None:
                    yield event
                elif is_done:
                    break
                else:
                    await woken
        finally:
            self.cancel()
        if self._error:
            raise self._error

    def _next(self) -> TokenEvent | None:
        with self._changed:
            while not self._events and not self.is_done:
                self._changed.wait()
            if self._events:
                return self._events.popleft()
        if self._error:
            raise self._error
        return None

    def put(self, events: list[TokenEvent]) -> None:
        """The loop's side: something happened."""
        with self._changed:
            self._events += events
            self._wake()

    def end(self, completions: list[Completion], error: BaseException | None = None) -> None:
        """The loop's side: nothing more will come."""
        with self._changed:
            if self.is_done:
                return
            self.completions, self._error, self.is_done = completions, error, True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        waiters, self._waiters = self._waiters, []
        for wake in waiters:
            with suppress(RuntimeError):  # its event loop is closed
                wake()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():  # who waited may have been cancelled
        future.set_result(None)
