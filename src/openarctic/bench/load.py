"""A crowd of clients for any server that streams completions as the OpenAI API has them, and what they saw.

Sockets of asyncio and nothing else, so that the crowd takes as little as possible of the machine it shares with the server.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from openarctic import event_loop
from openarctic.bench.serve_traces import ServeRequest

TIMEOUT_S = 600.0


@dataclass(slots=True)
class Seen:
    """One request as its client saw it: seconds to the first text, between texts, and to the end; why it failed, if it did."""

    first_s: float = 0.0
    between_s: list[float] = field(default_factory=list)
    whole_s: float = 0.0
    tokens: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Crowd:
    """`concurrency` requests at a time; or, with `rate`, requests that arrive by chance, so many a second, whoever waits."""

    port: int
    model: str
    concurrency: int
    rate: float | None = None
    eos_id: int | None = None

    def run(self, requests: Sequence[ServeRequest], seed: int = 0) -> tuple[float, list[Seen]]:
        """Seconds that all took, and what each saw."""
        return event_loop.run(self._run(requests, seed))

    async def _run(self, requests: Sequence[ServeRequest], seed: int) -> tuple[float, list[Seen]]:
        seats, rng = asyncio.Semaphore(self.concurrency), random.Random(seed)
        started, tasks = time.perf_counter(), []
        for request in requests:
            if self.rate is not None:
                tasks.append(asyncio.create_task(self.one(request)))
                await asyncio.sleep(rng.expovariate(self.rate))
            else:
                tasks.append(asyncio.create_task(self._seated(seats, request)))
        seen = await asyncio.gather(*tasks)
        return time.perf_counter() - started, list(seen)

    async def _seated(self, seats: asyncio.Semaphore, request: ServeRequest) -> Seen:
        async with seats:
            return await self.one(request)

    async def one(self, request: ServeRequest) -> Seen:
        """What one client sees; failures too."""
        seen = Seen()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._stream(request, seen)
        except (OSError, TimeoutError, ValueError) as error:
            seen.failure = f"{type(error).__name__}: {error}"
        return seen

    async def _stream(self, request: ServeRequest, seen: Seen) -> None:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": 0.0,
            "stream": True,
        }
        if self.eos_id is not None:
            body["logit_bias"] = {str(self.eos_id): -100}
        data = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        told = await self._told(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        times = told.events()
        seen.first_s, seen.whole_s = times[0] - told.started, times[-1] - told.started
        seen.between_s = [later - earlier for earlier, later in itertools.pairwise(times)]
        seen.tokens = request.max_tokens  # an event may hold several tokens, or none

    async def _told(self, request: bytes) -> _Told:
        loop = asyncio.get_running_loop()
        transport, told = await loop.create_connection(partial(_Told, request, loop.create_future()), "127.0.0.1", self.port)
        try:
            await told.ended
        finally:
            transport.abort()
        return told


@dataclass(slots=True)
class _Told(asyncio.Protocol):
    """What one connection brings. While it comes, only the times are noted: what is read of it is read when it has ended."""

    request: bytes
    ended: asyncio.Future[None]
    started: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[int, float]] = field(default_factory=list)  # bytes received until then

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks."""
        self.started = time.perf_counter()
        cast(asyncio.WriteTransport, transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        """Notes."""
        self.received += data
        self.arrivals.append((len(self.received), time.perf_counter()))

    def connection_lost(self, error: Exception | None) -> None:
        """Tells who waits."""
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)

    def events(self) -> list[float]:
        """When each event was there. Raises ValueError where there were none, or an error among them."""
        status = bytes(self.received).partition(b"\r\n")[0]
        if b" 200 " not in status:
            raise ValueError(f"the server answered {status.decode(errors='replace')}")
        if failed := re.search(rb'^data: (\{"error".*)$', self.received, re.MULTILINE):
            raise ValueError(failed[1].decode(errors="replace").strip())
        ends = [found.end() for found in re.finditer(rb"^data: \{.*$", self.received, re.MULTILINE)]
        if not ends:
            raise ValueError("the stream held nothing")
        return [self.arrivals[bisect.bisect_left(self.arrivals, (end, 0.0))][1] for end in ends]


def summary(seconds: float, seen: Sequence[Seen]) -> dict[str, Any]:
    """Tokens a second over all, and percentiles of what clients saw, in milliseconds."""
    good = [one for one in seen if not one.failure]
    between = [gap for one in good for gap in one.between_s]
    return {
        "requests": len(seen),
        "failed": len(seen) - len(good),
        "failures": sorted({one.failure for one in seen if one.failure})[:3],
        "tokens": (tokens := sum(one.tokens for one in good)),
        "tokens_per_s": tokens / seconds,
        "ttft_ms": _percentiles([one.first_s for one in good]),
        "itl_ms": _percentiles(between),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {"p50": 1000 * statistics.median(ordered), "p99": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]}
