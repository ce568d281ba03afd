"""A server on loopback that speaks enough of the OpenAI API, and answers what a script says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ScriptedServer:
    """`answers` are given one after the other, the last one again and again; `prompts` are what it was asked.

    `gate` holds answers back while it is closed, `arrived` tells that a request has come.
    """

    def __init__(self, answers: Sequence[str], model: str = "scripted-chat") -> None:
        self.answers, self.model = list(answers), model
        self.prompts: list[str] = []
        self.gate, self.arrived = threading.Event(), threading.Event()
        self.gate.set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """For `--model`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, prompt: str) -> str:
        with self._lock:
            self.prompts.append(prompt)
            answer = self.answers[min(len(self.prompts), len(self.answers)) - 1]
        self.arrived.set()
        self.gate.wait(60)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._send({"data": [{"id": server.model}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = server._answer(body["messages"][0]["content"])
                self._send({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

            def _send(self, body: dict[str, Any]) -> None:
                raw = json.dumps(body).encode()
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)

        return Handler


@contextlib.contextmanager
def scripted(*answers: str, model: str = "scripted-chat") -> Iterator[ScriptedServer]:
    """For the time of a `with`."""
    server = ScriptedServer(answers, model)
    try:
        yield server
    finally:
        server.close()
