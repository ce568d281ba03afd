"""A request on the engine: the events of its prompts as one stream, the times that metrics want, and an end in every case."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request

from openarctic.engine.request import Stream, TokenEvent, Usage
from openarctic.generator import Completion
from openarctic.serve.errors import HTTPError

if TYPE_CHECKING:
    from openarctic.serve.metrics import Metrics

# What OpenAI's clients know; the rest of our reasons are told beside it, in `stop_reason`.
FINISH = {"stop": "stop", "length": "length", "grammar": "length", "abort": "length"}

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(slots=True)
class Work:
    """One stream of the engine for each prompt."""

    streams: Sequence[Stream]
    metrics: Metrics
    started: float = field(default_factory=time.monotonic)
    _is_counted: bool = False

    async def events(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        """(number of the prompt, event) as they come. Leaving the loop cancels what is left."""
        last: dict[tuple[int, int], float] = {}
        try:
            async for number, event in self._merged():
                now, place = time.monotonic(), (number, event.index)
                if not last:
                    self.metrics.first_token(now - self.started)
                elif place in last:
                    self.metrics.between_tokens(now - last[place])
                last[place] = now
                yield number, event
        finally:
            self.cancel()
            self.count()

    async def _merged(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        if len(self.streams) == 1:
            async for event in self.streams[0]:
                yield 0, event
            return
        queue: asyncio.Queue[tuple[int, TokenEvent] | BaseException | None] = asyncio.Queue()

        async def forward(number: int, stream: Stream) -> None:
            try:
                async for event in stream:
                    queue.put_nowait((number, event))
                queue.put_nowait(None)
            except Exception as error:  # noqa: BLE001 - told to who reads
                queue.put_nowait(error)

        tasks = [asyncio.create_task(forward(i, stream)) for i, stream in enumerate(self.streams)]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()

    async def results(self, request: Request) -> list[list[Completion]]:
        """All completions of every prompt. Raises ClientGone when the client leaves, HTTPError where time ran out."""
        for stream in self.streams:
            stream.is_heard = False  # no events, only the end
        try:
            await while_connected(request, self._ended())
        finally:
            self.cancel()
            self.count()
        completions = [stream.completions for stream in self.streams]
        if any(c.finish_reason == "deadline" for own in completions for c in own):
            raise deadline()
        return completions

    async def _ended(self) -> None:
        await asyncio.gather(*(_end_of(stream) for stream in self.streams))

    def cancel(self) -> None:
        """End what has not ended; harmless otherwise."""
        for stream in self.streams:
            stream.cancel()

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        usages: list[Usage] = [stream.usage for stream in self.streams]
        prompt = sum(u.prompt_tokens for u in usages)
        written = sum(u.completion_tokens for u in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in usages)},
        }

    def count(self) -> None:
        """Tell the metrics of its end, once."""
        if self._is_counted or not self.streams:
            return
        self._is_counted = True
        usage = self.usage()
        reasons = [c.finish_reason for stream in self.streams for c in stream.completions] or ["abort"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.metrics.ended(reasons, usage["prompt_tokens"], usage["completion_tokens"], cached, time.monotonic() - self.started)


def deadline() -> HTTPError:
    """The answer where time ran out."""
    return HTTPError(504, "the request took longer than the server allows", type="timeout_error", code="deadline")


async def _end_of(stream: Stream) -> None:
    async for _ in stream:
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` gives. Raises ClientGone, once the work has ended too, when the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {task, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in either:
            one.cancel()
        await asyncio.wait(either)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
