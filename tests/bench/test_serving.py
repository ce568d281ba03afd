"""Traces are the same for everybody, and the crowd counts what a server sends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openarctic.bench.load import Crowd, Seen, summary
from openarctic.bench.protocol import Protocol
from openarctic.bench.serve_traces import TRACES, ServeRequest, serve_trace
from openarctic.bench.serving import BARE, LLAMA_CPP_PYTHON, OURS, ServeBench, command, measure_serving, rows
from openarctic.bench.soak import Soak, soak
from openarctic.bench.soak import rows as soak_rows
from openarctic.errors import CapacityError, MissingError
from openarctic.formats.bundled import bundled_models
from tests.serve.world import chat_engine, running


@pytest.mark.parametrize("name", TRACES)
def test_a_seed_gives_the_same_requests(name: str) -> None:
    once, again, other = serve_trace(name, 6), serve_trace(name, 6), serve_trace(name, 6, seed=1)
    assert once == again != other
    assert len({request.prompt for request in once}) == 6


def test_the_crowd_sees_every_request_to_its_end(tmp_path: Path) -> None:
    engine = chat_engine(tmp_path)
    requests = [request for request in serve_trace("chat", 12)]
    with running(engine) as server:
        for crowd in (Crowd(server.port, "tiny", 4), Crowd(server.port, "tiny", 1, rate=200.0)):
            seconds, seen = crowd.run(requests)
            assert [one.failure for one in seen] == [""] * 12
            assert [one.tokens for one in seen] == [request.max_tokens for request in requests]
            told = summary(seconds, seen)
            assert told["failed"] == 0 and told["tokens_per_s"] > 0 and told["ttft_ms"]["p50"] <= told["ttft_ms"]["p99"]
        wrong = Crowd(server.port, "other", 2).run(requests[:2])[1]
        assert all("404" in one.failure for one in wrong)


def test_what_failed_is_told() -> None:
    told = summary(2.0, [Seen(0.1, [0.2], 0.3, 10), Seen(failure="no")])
    assert (told["failed"], told["failures"], told["tokens_per_s"]) == (1, ["no"], 5.0)


def test_a_real_server_is_measured() -> None:
    bench = ServeBench(
        model=bundled_models()["arctic-nano"],
        traces=("sql",),
        concurrency=(2,),
        rates=(),
        requests=2,
        threads=1,
        protocol=Protocol(1, 1, 1.0, warmups=0),
    )
    report = measure_serving(bench, lambda text: None)
    [row] = rows(report)
    assert row[:3] == ("sql", "2 streams", OURS) and row[3] > 0 and row[9] == 0
    json.dumps(report)


def test_no_load_repeats_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the later one would find its prompts computed."""
    asked: list[ServeRequest] = []

    def traced(*args: Any, **others: Any) -> list[ServeRequest]:
        made = serve_trace(*args, **others)
        asked.extend(made)
        return made

    monkeypatch.setattr("openarctic.bench.serving.serve_trace", traced)
    bench = ServeBench(
        model=bundled_models()["arctic-nano"],
        traces=("chat",),
        concurrency=(1, 2),
        rates=(50.0,),
        requests=1,
        threads=1,
        protocol=Protocol(1, 1, 1.0, warmups=1),
    )
    measure_serving(bench, lambda text: None)
    assert len({request.prompt for request in asked}) == len(asked) == 3 * 2


def test_the_server_beside_its_engine() -> None:
    bench = ServeBench(
        model=bundled_models()["arctic-nano"],
        traces=("chat",),
        concurrency=(1,),
        rates=(),
        requests=1,
        threads=1,
        protocol=Protocol(1, 1, 1.0, warmups=0),
        against=BARE,
    )
    report = measure_serving(bench, lambda text: None)
    [cell] = report["cells"]
    served, bare = (cell["seen"][name][0] for name in (OURS, BARE))
    assert (served["failed"], bare["failed"]) == (0, 0) and served["requests"] == bare["requests"] == 1
    assert served["tokens"] == bare["tokens"] == sum(request.max_tokens for request in serve_trace("chat", 1, seed=1))
    assert served["cpu_s"] > 0 and bare["cpu_s"] > 0
    assert [row[2] for row in rows(report)] == [OURS, BARE]


def test_streams_are_held_open() -> None:
    settings = Soak(model=bundled_models()["arctic-nano"], streams=3, minutes=0.02, threads=1)
    report = soak(settings, lambda text: None)
    assert report["requests"] >= 3 and (report["failed"], report["stalled"]) == (0, 0)
    assert 0 < report["start_mb"] <= report["peak_mb"]
    [row] = soak_rows(report)
    assert row[:5] == (3, round(report["seconds"], 1), report["requests"], 0, 0)
    json.dumps(report)


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    bench = ServeBench(
        model=tmp_path / "absent.gguf",
        traces=(),
        concurrency=(),
        rates=(),
        requests=1,
        threads=1,
        protocol=Protocol(1),
        against=str(tmp_path / "llama-server"),
    )
    assert "--n_threads" in command(LLAMA_CPP_PYTHON, bench, 1)
    from openarctic.bench.serving import server

    with pytest.raises(MissingError, match="llama-server"), server(str(tmp_path / "llama-server"), bench):
        pass


CRASHING = """#!{python}
import http.server, os, sys
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        os._exit(132)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Server).serve_forever()
"""


def test_a_peer_that_crashes_at_the_first_request_is_told(tmp_path: Path) -> None:
    peer = tmp_path / "llama-server"
    peer.write_text(CRASHING.format(python=sys.executable))
    peer.chmod(0o755)
    bench = ServeBench(
        model=bundled_models()["arctic-nano"],
        traces=("sql",),
        concurrency=(1,),
        rates=(),
        requests=1,
        threads=1,
        protocol=Protocol(1, 1, 1.0, warmups=0),
        against=str(peer),
    )
    with pytest.raises(CapacityError, match="llama-server answered none of 1 requests: "):
        measure_serving(bench, lambda text: None)


HOLDING = """
import sys, time
from pathlib import Path
from openarctic.bench.protocol import Protocol
from openarctic.bench.serving import ServeBench, server
bench = ServeBench(
    model=Path("m"), traces=(), concurrency=(), rates=(), requests=1, threads=1, protocol=Protocol(1), against=sys.argv[1]
)
with server(sys.argv[1], bench) as running:
    print(running.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_bench_that_is_told_to_end_leaves_no_server_behind(tmp_path: Path) -> None:
    peer = tmp_path / "llama-server"
    peer.write_text(CRASHING.format(python=sys.executable))
    peer.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(peer)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)  # it runs
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
