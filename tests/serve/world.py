"""A server on a tiny random model, in a thread on a free port, and a client of nothing but sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from openarctic.engine import Engine
from openarctic.serve.app import build_app
from openarctic.serve.desk import Desk
from openarctic.serve.server import bind
from openarctic.serve.service import Service
from openarctic.serve.settings import ServeSettings
from openarctic.tokenizer import Tokenizer
from openarctic.tokenizer.chat import CHATML
from tests.engine.words import VOCAB, word_tokenizer
from tests.tiny import tiny_config, write_model


def chat_tokenizer() -> Tokenizer:
    """The bytes and words of the engine's tests, with ChatML."""
    keys = word_tokenizer().to_gguf_metadata()
    tokens = list(keys["tokenizer.ggml.tokens"])
    first = tokens.index("<end>") + 1
    tokens[first : first + 2] = ["<|im_start|>", "<|im_end|>"]
    return Tokenizer.from_gguf_metadata({**keys, "tokenizer.ggml.tokens": tokens, "tokenizer.chat_template": CHATML})


def chat_engine(folder: Path, **options: Any) -> Engine:
    """A random model that knows ChatML, with room for long prompts of single bytes."""
    path = folder / "chat.gguf"
    if not path.exists():
        write_model(path, tiny_config(vocab_size=VOCAB, max_position_embeddings=4096), "F32")
    return Engine.load(path, **{"threads": 1, "tokenizer": chat_tokenizer(), "name": "tiny", **options})


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)

    @property
    def events(self) -> list[Any]:
        """Objects of the server-sent events; the last one is [DONE] and left out."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@dataclass
class Server:
    port: int
    engine: Engine
    service: Service
    desk: Desk | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = self.connection()
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body)
            own = {"Content-Type": "application/json", **self.headers, **(headers or {})}
            connection.request(method, path, data, own)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.call("POST", path, body, headers)


@contextlib.contextmanager
def running(engine: Engine, desk: Desk | None = None, **settings: Any) -> Iterator[Server]:
    """A server with those settings and databases."""
    wanted = ServeSettings(port=0, **settings)
    listening = bind(wanted)
    service = Service(engine, wanted)
    server = uvicorn.Server(uvicorn.Config(build_app(service, desk), log_level="warning", lifespan="off", access_log=False))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Server(listening.getsockname()[1], engine, service, desk)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=20)
        listening.close()
        assert not thread.is_alive()
