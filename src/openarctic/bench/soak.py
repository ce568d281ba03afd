"""Many streams held open at our server for minutes: whether any fails or stalls, and whether memory grows."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic import event_loop
from openarctic.bench.load import Crowd, Seen, summary
from openarctic.bench.machine import describe_machine
from openarctic.bench.protocol import OnProgress, Protocol
from openarctic.bench.serve_traces import ServeRequest, serve_trace
from openarctic.bench.serving import OURS, Running, ServeBench, end_token, server

TRACE = "chat"
SAMPLE_S = 1.0
WARM_SHARE = 0.2  # of the time: caches fill and allocators find their size
END_SHARE = 0.1
MAX_GROWTH = 0.05  # of memory, from warm to the end, and it counts as flat


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """`streams` at a time for `minutes`, each followed by the next; silence of more than `stall_s` is a stall.

    Memory of keys and values is taken as it is first used: a short run is flat only where `cache_gb` is soon full.
    """

    model: Path
    streams: int
    minutes: float
    threads: int
    stall_s: float = 120.0
    cache_gb: float = 1.0


@dataclass(slots=True)
class _Memory:
    """Resident bytes of a process as time went by: (seconds, bytes)."""

    samples: list[tuple[float, int]]

    def told(self, total_s: float) -> dict[str, Any]:
        """In MB: at the start, warm, at the end, at most; and the growth from warm to the end as a share."""

        def between(low: float, high: float) -> float:
            inside = [rss for at, rss in self.samples if low <= at <= high] or [self.samples[-1][1]]
            return statistics.median(inside) / 1e6

        warm = between(WARM_SHARE * total_s, (WARM_SHARE + END_SHARE) * total_s)
        end = between((1 - END_SHARE) * total_s, total_s)
        most = max(rss for _, rss in self.samples) / 1e6
        start = self.samples[0][1] / 1e6
        return {"start_mb": start, "warm_mb": warm, "end_mb": end, "peak_mb": most, "growth": end / warm - 1}


def soak(settings: Soak, on_progress: OnProgress) -> dict[str, Any]:
    """The report: requests, failures, stalls, memory, and what clients saw. `passed` is the verdict."""
    bench = ServeBench(
        model=settings.model,
        traces=(TRACE,),
        concurrency=(settings.streams,),
        rates=(),
        requests=0,
        threads=settings.threads,
        protocol=Protocol(),
        cache_gb=settings.cache_gb,
    )
    with server(OURS, bench) as running:
        crowd = Crowd(running.port, "m", settings.streams, None, end_token(settings.model))
        seconds, seen, memory = event_loop.run(_hold(crowd, running, settings, on_progress))
    stalled = sum(max(one.first_s, *one.between_s, 0.0) > settings.stall_s for one in seen if not one.failure)
    told = {**summary(seconds, seen), "stalled": stalled, "seconds": seconds, **memory.told(seconds)}
    passed = not told["failed"] and not stalled and told["growth"] <= MAX_GROWTH
    about = {
        "machine": describe_machine(),
        "model": settings.model.name,
        "streams": settings.streams,
        "threads": settings.threads,
    }
    return {**about, **told, "passed": passed}


async def _hold(crowd: Crowd, running: Running, settings: Soak, on_progress: OnProgress) -> tuple[float, list[Seen], _Memory]:
    started, seen = time.perf_counter(), list[Seen]()
    end = started + 60 * settings.minutes
    requests = _requests()

    async def one_after_the_other() -> None:
        while time.perf_counter() < end:
            seen.append(await crowd.one(next(requests)))

    memory = _Memory([(0.0, running.resident_bytes())])
    async with _sampled(memory, running, started, lambda: on_progress(f"{len(seen)} requests")):
        await asyncio.gather(*(one_after_the_other() for _ in range(settings.streams)))
    return time.perf_counter() - started, seen, memory


def _requests() -> Iterator[ServeRequest]:
    """Ever other ones."""
    for seed in itertools.count():
        yield from serve_trace(TRACE, 64, seed)


@asynccontextmanager
async def _sampled(memory: _Memory, running: Running, started: float, tell: Callable[[], None]) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            memory.samples.append((time.perf_counter() - started, running.resident_bytes()))
            tell()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


COLUMNS = (
    "streams",
    "seconds",
    "requests",
    "failed",
    "stalled",
    "tokens/s",
    "TTFT p99",
    "ITL p99",
    "MB start",
    "warm",
    "end",
    "growth",
)


def rows(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """One line."""
    p99 = [None if report[name] is None else round(report[name]["p99"], 1) for name in ("ttft_ms", "itl_ms")]
    memory = [round(report[name], 1) for name in ("start_mb", "warm_mb", "end_mb")]
    counts = [report[name] for name in ("requests", "failed", "stalled")]
    rate, growth = round(report["tokens_per_s"], 1), f"{100 * report['growth']:+.1f} %"
    return [(report["streams"], round(report["seconds"], 1), *counts, rate, *p99, *memory, growth)]
