"""Servers side by side on the same traces: each a process of its own, in turns, on an otherwise idle machine.

Our server can also be measured against the engine that it holds, called without HTTP: the difference is what the server costs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.bench.client import Client, EngineSpec, started
from openarctic.bench.load import Crowd, Seen, summary
from openarctic.bench.machine import ForeignClock, describe_machine
from openarctic.bench.protocol import Protocol, compare
from openarctic.bench.serve_traces import ServeRequest, serve_trace
from openarctic.bench.summary import Timing, summarize
from openarctic.errors import CapacityError, MissingError

START_S = 300.0
OURS, LLAMA_CPP_PYTHON, BARE = "openarctic", "llama_cpp.server", "engine"

OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeBench:
    """What is measured. `against` is None, llama_cpp.server (of `peer_python`), the path of llama.cpp's own llama-server, or
    engine: ours without a server, for one stream."""

    model: Path
    traces: tuple[str, ...]
    concurrency: tuple[int, ...]
    rates: tuple[float, ...]
    requests: int
    threads: int
    protocol: Protocol
    context: int = 2048
    cache_gb: float = 1.0  # of our server, its default
    against: str | None = None
    peer_python: str = sys.executable


def command(name: str, bench: ServeBench, port: int) -> list[str]:
    """How a server is started."""
    most = max(bench.concurrency, default=1)
    if name == OURS:
        code = "import sys; from openarctic.cli import main; sys.exit(main(sys.argv[1:]))"
        options = ["--no-db", "--model", str(bench.model), "--port", str(port), "--threads", str(bench.threads)]
        options += ["--served-model-name", "m", "--cache-gb", f"{bench.cache_gb:g}", "--max-num-seqs", str(_max_num_seqs(bench))]
        options += ["--max-concurrent", str(max(256, most)), "--max-concurrent-per-key", str(max(256, most))]
        return [sys.executable, "-c", code, "serve", *options]
    if name == LLAMA_CPP_PYTHON:
        options = ["--model", str(bench.model), "--port", str(port), "--n_threads", str(bench.threads)]
        options += ["--n_threads_batch", str(bench.threads), "--n_ctx", str(bench.context), "--model_alias", "m"]
        return [bench.peer_python, "-m", "llama_cpp.server", *options]
    options = ["-m", str(bench.model), "--port", str(port), "-t", str(bench.threads), "-np", str(most)]
    return [name, *options, "-c", str(bench.context * most), "--alias", "m"]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    port: int
    process: subprocess.Popen[bytes]

    def run(self, requests: Sequence[ServeRequest], load: Load, seed: int) -> tuple[float, list[Seen]]:
        """Seconds that all took, and what each client saw."""
        return Crowd(self.port, "m", load.concurrency, load.rate, load.eos_id).run(requests, seed)

    def cpu_seconds(self) -> float:
        """Processor time that it has used; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory that it holds; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class BareEngine:
    """The engine that our server holds, in a process of its own, and one caller who asks in turn."""

    client: Client
    _cpu_s: float = 0.0

    def run(self, requests: Sequence[ServeRequest], load: Load, seed: int) -> tuple[float, list[Seen]]:
        """As `Running.run`."""
        asked = [[request.prompt, request.max_tokens] for request in requests]
        reply = self.client.ask("stream", requests=asked, forbidden=load.eos_id)
        self._cpu_s += reply["cpu_s"]
        return reply["seconds"], [Seen(first, between, whole, tokens) for first, between, whole, tokens in reply["seen"]]

    def cpu_seconds(self) -> float:
        """Processor time of all that it was asked for."""
        return self._cpu_s


@dataclass(frozen=True, slots=True)
class Load:
    """How requests come: so many at a time, or so many a second. The token `eos_id` is forbidden, so that lengths are fixed."""

    concurrency: int
    rate: float | None = None
    eos_id: int | None = None


@contextlib.contextmanager
def contender(name: str, bench: ServeBench) -> Iterator[Running | BareEngine]:
    """What is measured under that name, ready."""
    if name != BARE:
        with server(name, bench) as running:
            yield running
        return
    with started(EngineSpec(OURS, bench.threads), bench.model) as client:
        client.ask("start", max_sequences=_max_num_seqs(bench), cache_bytes=int(bench.cache_gb * (1 << 30)))
        yield BareEngine(client)


def _max_num_seqs(bench: ServeBench) -> int:
    return max(64, *bench.concurrency, 1)


@contextlib.contextmanager
def server(name: str, bench: ServeBench) -> Iterator[Running]:
    """A server that answers. Raises MissingError or CapacityError where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _ended_by_sigterm():
        try:
            process = subprocess.Popen(command(name, bench, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise MissingError(f"cannot start {name}: {error.strerror}") from error
        try:
            _wait(name, process, port)
            yield Running(port, process)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends this program by an exception, as Ctrl-C does: a server that it started is not left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise MissingError(f"{name} ended with {process.returncode} before it served", "try its command by hand")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.1)
    raise CapacityError(f"{name} did not serve within {START_S:.0f} s")


def measure_serving(bench: ServeBench, on_progress: OnProgress) -> dict[str, Any]:
    """The report: for each trace and load the sides' throughput, their ratio, and what clients saw."""
    eos_id = end_token(bench.model)
    sides = [OURS, *([bench.against] if bench.against else [])]
    cells: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        contenders = {name: stack.enter_context(contender(name, bench)) for name in sides}
        for trace in bench.traces:
            for concurrency, rate in [*((n, None) for n in bench.concurrency), *((1, r) for r in bench.rates)]:
                # Each cell draws its own texts, or it finds the prompts of the last one computed (`sql` has a few hundred).
                first_seed = 1000 * len(cells)
                cells.append(_cell(bench, trace, Load(concurrency, rate, eos_id), contenders, first_seed, on_progress))
    return {"machine": describe_machine(), "model": bench.model.name, "threads": bench.threads, "cells": cells}


def end_token(model: Path) -> int | None:
    """The token with which a text of this model ends."""
    from openarctic.formats import read_gguf
    from openarctic.tokenizer import Tokenizer

    return Tokenizer.from_gguf_metadata(read_gguf(model).metadata).eos_id


def _cell(
    bench: ServeBench,
    trace: str,
    load: Load,
    contenders: dict[str, Running | BareEngine],
    first_seed: int,
    on_progress: OnProgress,
) -> dict[str, Any]:
    told_load = f"{load.concurrency} at a time" if load.rate is None else f"{load.rate:g} a second"
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    turn = dict.fromkeys(contenders, first_seed)

    def side(name: str) -> Callable[[], Timing]:
        def once() -> Timing:
            turn[name] += 1  # other texts every time, the same ones for every side
            requests = serve_trace(trace, bench.requests, seed=turn[name])
            clock, before = ForeignClock(), contenders[name].cpu_seconds()
            clock.start()
            seconds, answers = contenders[name].run(requests, load, seed=turn[name])
            used = contenders[name].cpu_seconds() - before
            told = summary(seconds, answers) | {"cpu_s": used}
            if not told["tokens"]:
                raise CapacityError(
                    f"{name} answered none of {len(answers)} requests: {answers[0].failure}",
                    "try its command and one request by hand; it may have crashed",
                )
            seen[name].append(told)
            foreign = clock.stop(used)
            return Timing(seconds, told["tokens_per_s"] * seconds, foreign)

        return once

    sides = {name: side(name) for name in contenders}
    run = compare(sides, bench.protocol, lambda text: on_progress(f"{trace}, {told_load}: {text}"))
    return {
        "trace": trace,
        "concurrency": load.concurrency if load.rate is None else None,
        "rate": load.rate,
        **summarize(list(contenders), [run]),
        "seen": seen,
    }


def rows(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A line for every trace, load and side."""
    out: list[tuple[Any, ...]] = []
    for cell in report["cells"]:
        load = f"{cell['concurrency']} streams" if cell["rate"] is None else f"{cell['rate']:g}/s"
        for index, (name, side) in enumerate(cell["sides"].items()):
            ratio = cell.get("ratio") if index == 0 else None
            told = cell["seen"][name]
            out.append(
                (
                    cell["trace"],
                    load,
                    name,
                    None if side is None else round(side["median"], 1),
                    _median(told, "ttft_ms", "p50"),
                    _median(told, "ttft_ms", "p99"),
                    _median(told, "itl_ms", "p50"),
                    _median(told, "itl_ms", "p99"),
                    _cpu_per_token(told),
                    sum(one["failed"] for one in told),
                    None if ratio is None else round(ratio["median"], 3),
                )
            )
    return out


COLUMNS = ("trace", "load", "server", "tokens/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "CPU ms/token", "failed", "ratio")


def _cpu_per_token(told: Sequence[dict[str, Any]]) -> float | None:
    """Of the process that serves, clients left out, over all repetitions: a busy machine disturbs it less than the clock."""
    tokens = sum(one["tokens"] for one in told)
    return round(1000 * sum(one["cpu_s"] for one in told) / tokens, 2) if tokens else None


def _median(told: Sequence[dict[str, Any]], what: str, percentile: str) -> float | None:
    values = sorted(one[what][percentile] for one in told if one[what])
    return round(values[len(values) // 2], 1) if values else None


def as_text(report: dict[str, Any]) -> str:
    """For a file."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
