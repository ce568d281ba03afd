"""A server's life, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_gate import LONG, begin_stream, post_bytes
from .world import Server

COMMAND = [sys.executable, "-c", "import sys; from openarctic.cli import main; sys.exit(main(sys.argv[1:]))", "serve"]

ENDLESS = "SELECT count(*) FROM orders a, orders b, orders c, orders d WHERE a.order_id + b.order_id < c.order_id * d.order_id"


def start(*options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    process = start("--port", "0", "--threads", "1")
    yield process
    process.kill()
    process.wait()


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving arctic-nano at http://127.0.0.1:"):
            return int(line.split(":")[-1].split("/")[0])
    raise AssertionError("it did not start")


def test_what_is_under_way_is_finished(process: subprocess.Popen[str]) -> None:
    server = Server(port_of(process), None, None)  # type: ignore[arg-type]
    assert server.get("/ready").status == 200
    body = {**LONG, "max_tokens": 60, "stream": True}
    connection = begin_stream(server, body)
    process.send_signal(signal.SIGTERM)
    rest = b""
    while chunk := connection.recv(65536):
        rest += chunk
    assert b"data: [DONE]" in rest and b'"finish_reason":"length"' in rest
    assert process.wait(timeout=60) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_the_second_signal_ends_at_once(process: subprocess.Popen[str]) -> None:
    server = Server(port_of(process), None, None)  # type: ignore[arg-type]
    connection = begin_stream(server, {**LONG, "max_tokens": 900, "stream": True})
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    connection.close()


def test_what_outlasts_the_drain_is_told() -> None:
    process = start("--port", "0", "--threads", "1", "--drain-timeout", "1")
    try:
        server = Server(port_of(process), None, None)  # type: ignore[arg-type]
        stream = begin_stream(server, {**LONG, "max_tokens": 900, "stream": True})
        whole, statement, question = (
            begin(server, path, body)
            for path, body in (
                ("/v1/completions", {**LONG, "max_tokens": 900}),
                ("/v1/query", {"sql": ENDLESS, "timeout": 60}),
                ("/v1/ask", {"question": "How many customers are there?", "candidates": 16}),
            )
        )
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        assert b'"code":"stopping"' in read_all(stream).rpartition(b"data: ")[2].replace(b" ", b"")
        for connection in (whole, statement):
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert b" 503 " in head and json.loads(body)["error"]["code"] == "stopping"
        told = read_all(question)  # it may have ended before, or not begun to tell
        assert any(end in told for end in (b"event: done", b"event: error", b" 503 "))
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def begin(server: Server, path: str, body: dict[str, Any]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(post_bytes(body, path))
    return connection


def read_all(connection: socket.socket) -> bytes:
    seen = b""
    while chunk := connection.recv(65536):
        seen += chunk
    connection.close()
    return seen


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--port", "70000"], "the port is 70000"),
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--api-key-file", "absent"], "no key file"),
        (["--model", "absent.gguf", "--port", "0"], "absent.gguf"),
        (["--max-concurrent", "0"], "max_concurrent is 0"),
        (["--new-key", "a b"], "has spaces"),
        (["--new-key", "a", "--scopes", "fly"], "fly"),
        (["--host", "256.1.1.1", "--api-key-file", "absent"], "no key file"),
    ],
)
def test_what_cannot_be_served_is_told(options: list[str], told: str) -> None:
    process = start(*options)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in errors and "Traceback" not in errors


def test_a_port_in_use(process: subprocess.Popen[str]) -> None:
    port = port_of(process)
    other = start("--port", str(port))
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 2 and f"port {port} of 127.0.0.1 is in use" in errors


def test_a_new_key_opens_the_door(tmp_path: Path) -> None:
    made = subprocess.run([*COMMAND, "--new-key", "ann"], capture_output=True, text=True, check=True)
    (tmp_path / "keys").write_text(made.stdout)
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    process = start("--port", "0", "--threads", "1", "--api-key-file", str(tmp_path / "keys"))
    try:
        url = f"http://127.0.0.1:{port_of(process)}/v1/models"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url)
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["data"][0]["id"] == "arctic-nano"
    finally:
        process.kill()
        process.wait()


def test_a_server_is_ready_before_what_databases_need_is_loaded() -> None:
    code = "import sys, openarctic.serve.server; print(*({'sqlglot', 'duckdb', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
