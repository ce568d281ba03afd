"""Servers side by side on the same traces: each a process of its own, in turns, on an otherwise idle machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.bench.load import Crowd, summary
from openarctic.bench.machine import ForeignClock, describe_machine
from openarctic.bench.protocol import Protocol, compare
from openarctic.bench.serve_traces import serve_trace
from openarctic.bench.summary import Timing, summarize
from openarctic.errors import CapacityError, MissingError

START_S = 300.0
OURS, LLAMA_CPP_PYTHON, LLAMA_SERVER = "openarctic", "llama_cpp.server", "llama-server"

OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeBench:
    """What is measured. `against` is None, llama_cpp.server (of `peer_python`) or the path of llama.cpp's own llama-server."""

    model: Path
    traces: tuple[str, ...]
    concurrency: tuple[int, ...]
    rates: tuple[float, ...]
    requests: int
    threads: int
    protocol: Protocol
    context: int = 2048
    against: str | None = None
    peer_python: str = sys.executable


def command(name: str, bench: ServeBench, port: int) -> list[str]:
    """How a server is started."""
    most = max(bench.concurrency, default=1)
    if name == OURS:
        code = "import sys; from openarctic.cli import main; sys.exit(main(sys.argv[1:]))"
        options = ["--no-db", "--model", str(bench.model), "--port", str(port), "--threads", str(bench.threads)]
        return [sys.executable, "-c", code, "serve", *options, "--max-num-seqs", str(max(64, most)), "--served-model-name", "m"]
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

    def cpu_seconds(self) -> float:
        """Processor time that it has used; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(name: str, bench: ServeBench) -> Iterator[Running]:
    """A server that answers. Raises MissingError or CapacityError where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
    from openarctic.formats import read_gguf
    from openarctic.tokenizer import Tokenizer

    eos_id = Tokenizer.from_gguf_metadata(read_gguf(bench.model).metadata).eos_id
    sides = [OURS, *([bench.against] if bench.against else [])]
    cells: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(server(name, bench)) for name in sides}
        for trace in bench.traces:
            for concurrency, rate in [*((n, None) for n in bench.concurrency), *((1, r) for r in bench.rates)]:
                crowds = {name: Crowd(one.port, "m", concurrency, rate, eos_id) for name, one in servers.items()}
                cells.append(_cell(bench, trace, crowds, servers, on_progress))
    return {"machine": describe_machine(), "model": bench.model.name, "threads": bench.threads, "cells": cells}


def _cell(
    bench: ServeBench, trace: str, crowds: dict[str, Crowd], servers: dict[str, Running], on_progress: OnProgress
) -> dict[str, Any]:
    first = next(iter(crowds.values()))
    load = f"{first.concurrency} at a time" if first.rate is None else f"{first.rate:g} a second"
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in crowds}
    turn = {name: 0 for name in crowds}

    def side(name: str) -> Callable[[], Timing]:
        def once() -> Timing:
            turn[name] += 1  # other texts every time, the same ones for every side
            requests = serve_trace(trace, bench.requests, seed=turn[name])
            clock, before = ForeignClock(), servers[name].cpu_seconds()
            clock.start()
            seconds, answers = crowds[name].run(requests, seed=turn[name])
            told = summary(seconds, answers)
            seen[name].append(told)
            foreign = clock.stop(servers[name].cpu_seconds() - before)
            return Timing(seconds, told["tokens_per_s"] * seconds, foreign)

        return once

    run = compare({name: side(name) for name in crowds}, bench.protocol, lambda text: on_progress(f"{trace}, {load}: {text}"))
    return {
        "trace": trace,
        "concurrency": first.concurrency if first.rate is None else None,
        "rate": first.rate,
        **summarize(list(crowds), [run]),
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
                    sum(one["failed"] for one in told),
                    None if ratio is None else round(ratio["median"], 2),
                )
            )
    return out


COLUMNS = ("trace", "load", "server", "tokens/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "failed", "ratio")


def _median(told: Sequence[dict[str, Any]], what: str, percentile: str) -> float | None:
    values = sorted(one[what][percentile] for one in told if one[what])
    return round(values[len(values) // 2], 1) if values else None


def as_text(report: dict[str, Any]) -> str:
    """For a file."""
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"
