"""What every route needs: the engine, the name it is served under, limits, metrics; and a prompt's way to the engine."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from openarctic.engine.request import Stream
from openarctic.errors import OpenArcticError
from openarctic.generator import Sampling
from openarctic.serve.errors import HTTPError, as_http
from openarctic.serve.grammars import Form, Grammars
from openarctic.serve.keys import Key
from openarctic.serve.metrics import Metrics
from openarctic.serve.protocol import SamplingFields
from openarctic.serve.settings import ServeSettings
from openarctic.serve.work import Work
from openarctic.tokenizer.tokenizer import LONG_TEXT

if TYPE_CHECKING:
    from openarctic.engine import Engine
    from openarctic.tokenizer import Tokenizer

MIN_TIMEOUT_S = 1e-3  # the engine wants more than 0

Result = TypeVar("Result")


@dataclass(slots=True)
class Service:
    """One engine behind many routes."""

    engine: Engine
    settings: ServeSettings
    name: str = ""
    metrics: Metrics = field(init=False)
    grammars: Grammars = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))
    is_draining: bool = False
    is_over: bool = False  # and nothing more may be finished
    _under_way: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.name = self.settings.served_model_name or self.engine.name
        self.metrics = Metrics(self.engine, self.name)
        self.grammars = Grammars(self.engine)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The time of one request, in its task."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            yield
        finally:
            self._under_way.discard(task)

    def end_all(self) -> None:
        """Cancel what is under way: each request says so to its client."""
        self.is_over = True
        for task in self._under_way:
            task.cancel()

    @property
    def tokenizer(self) -> Tokenizer:
        """The engine's. Raises HTTPError where the model has none."""
        if self.engine.tokenizer is None:
            raise HTTPError(400, "this model has no tokenizer: give token ids", param="prompt")
        return self.engine.tokenizer

    async def tokenized(self, size: int, work: Callable[[], Result]) -> Result:
        """What `work` makes of texts of `size` characters in all, beside the event loop where they are long."""
        return work() if size <= LONG_TEXT else await asyncio.to_thread(work)

    def check_model(self, wanted: str | None) -> None:
        """Raises HTTPError unless it is the model that is served, or none is named."""
        if wanted is not None and wanted != self.name:
            message = f"the model {wanted} does not exist, {self.name} is served"
            raise HTTPError(404, message, type="not_found_error", param="model", code="model_not_found")

    def room(self, num_prompt: int, asked: int | None, default: int | None, *, param: str, prompt_param: str) -> int:
        """Tokens that may be written after a prompt: as many as are asked for, or the default, or all that fit. `param` and
        `prompt_param` are the fields that say so.

        Raises HTTPError where prompt and answer do not fit into the context.
        """
        context = self.engine.context
        left = context - num_prompt
        most = self.settings.max_output_tokens
        if asked is not None:
            if asked < 1:
                raise HTTPError(400, f"{param} is {asked}, it must be at least 1", param=param)
            if most is not None and asked > most:
                raise HTTPError(400, f"{param} is {asked}, this server allows {most}", param=param)
        if left < 1 or (asked is not None and asked > left):
            wanted = "" if asked is None else f" and {asked} tokens were asked for"
            raise HTTPError(
                400,
                f"the context is {context} tokens; the prompt has {num_prompt}{wanted}",
                param=prompt_param,
                code="context_length_exceeded",
            )
        tokens = asked if asked is not None else min(left, default) if default is not None else left
        return tokens if most is None else min(tokens, most)

    async def submit(
        self,
        prompts: Sequence[Sequence[int]],
        fields: SamplingFields,
        sampling: Sampling,
        rooms: Sequence[int],
        form: Form | None,
        key: Key,
    ) -> Work:
        """The prompts on the engine. Raises HTTPError, with nothing left running."""
        streams: list[Stream] = []
        work = Work(streams, self.metrics)
        left = self.settings.request_timeout_s
        follower = await self.grammars.compiled(form, left) if form else None
        left = max(left - (time.monotonic() - work.started), MIN_TIMEOUT_S)
        try:
            for ids, room in zip(prompts, rooms, strict=True):
                streams.append(
                    self.engine.submit(
                        ids,
                        sampling=sampling,
                        max_tokens=room,
                        grammar=follower,
                        priority=fields.priority or 0,
                        tenant=key.name,
                        timeout=left,
                    )
                )
        except OpenArcticError as error:
            work.cancel()
            raise as_http(error, (*type(fields).model_fields, "prompt")) from error
        except BaseException:
            work.cancel()
            raise
        return work


def new_id(prefix: str) -> str:
    """`prefix` and 32 random hexadecimal digits."""
    return f"{prefix}{uuid.uuid4().hex}"


_written = json.JSONEncoder(separators=(",", ":"), default=str).encode  # dates and decimals of databases as text


def event(data: Any) -> bytes:
    """One server-sent event. In ASCII: some clients take U+2028 and its like for the end of a line."""
    return f"data: {_written(data)}\n\n".encode()


def named_event(name: str, data: Any) -> bytes:
    """One with a name."""
    return f"event: {name}\ndata: {_written(data)}\n\n".encode()


class TextEvents:
    """Events that differ in one text alone, as nearly all of a stream do: what stands around it is written once.

    `data_of` gives an event's data for a text, which must be the last text in it.
    """

    def __init__(self, data_of: Callable[[str], Any]) -> None:
        self._before, _, self._after = event(data_of("\0")).decode().rpartition(_written("\0"))

    def event(self, text: str) -> bytes:
        """The same as `event(data_of(text))`."""
        return f"{self._before}{_written(text)}{self._after}".encode()


DONE = b"data: [DONE]\n\n"
