"""Who may call, how much, and what is told of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine
from openarctic.errors import MissingError, UserError
from openarctic.serve.desk import Desk
from openarctic.serve.keys import Key, digest_of, find_key, key_line, new_key, read_keys
from openarctic.serve.settings import ServeSettings

from .world import Reply, Server, running

LONG = {"prompt": "name", "max_tokens": 3000, "temperature": 0, "ignore_eos": True}
SHORT = {"prompt": "name", "max_tokens": 2, "temperature": 0}


def test_plain_routes(server: Server, engine: Engine) -> None:
    assert server.get("/health").json == {"status": "ok"}
    assert server.get("/ready").json == {"status": "ready"}
    assert set(server.get("/version").json) == {"version"}
    [model] = server.get("/v1/models").json["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", engine.context)
    assert server.get("/v1/models/tiny").json == model
    assert server.get("/v1/models/other").status == 404
    assert server.get("/nothing").error["type"] == "not_found_error"
    assert server.get("/v1/completions").status == 405


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models"])
def test_who_asks_for_the_head_gets_it(server: Server, path: str) -> None:
    whole, head = server.get(path), server.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


def test_tokens_over_http(server: Server, engine: Engine) -> None:
    assert engine.tokenizer is not None
    answer = server.post("/tokenize", {"prompt": "name of é", "return_token_strs": True}).json
    assert answer["tokens"] == engine.tokenizer.encode("name of é", add_special=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] == engine.context
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json == {"prompt": "name of é"}
    assert server.post("/detokenize", {"tokens": [100_000]}).error["param"] == "tokens"
    assert server.post("/tokenize", {}).status == 400
    assert server.get("/tokenizer_info").json["eos_token"] == "<end>"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/completions", "/v1/chat/completions"])
def test_a_long_text_keeps_nobody_waiting(server: Server, path: str) -> None:
    text = "name of " * 100_000
    body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    replies: list[int] = []
    asking = threading.Thread(target=lambda: replies.append(server.post(path, body).status))
    asking.start()
    longest, started = 0.0, time.monotonic()
    while asking.is_alive():
        began = time.monotonic()
        assert server.get("/health").status == 200
        longest = max(longest, time.monotonic() - began)
    assert replies == [200 if path == "/tokenize" else 400]
    assert longest < 0.5 * (time.monotonic() - started)  # it was answered while the text was read


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("", 421), ("[::1]", 200)],
)
def test_only_our_own_names(server: Server, host: str, status: int) -> None:
    assert server.get("/health", Host=f"{host}:{server.port}").status == status


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert server.get("/health", Origin=own).status == 200
    reply = server.get("/health", Origin="http://evil.example")
    assert reply.status == 403 and "access-control-allow-origin" not in reply.headers
    assert server.get("/health", Origin="null").status == 403


PAGE = "https://shop.example"


def told_to_browsers(reply: Reply) -> dict[str, str]:
    return {name.removeprefix("access-control-"): v for name, v in reply.headers.items() if name.startswith("access-control-")}


def preflight(server: Server, origin: str, headers: str = "authorization,content-type", path: str = "/v1/completions") -> Reply:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return server.call("OPTIONS", path, headers=asked)


def test_pages_of_allowed_sites_may_call(engine: Engine) -> None:
    with running(engine, keys=(Key("ann", digest_of("a")),), origins=(PAGE,), requests_per_minute=1) as server:
        asked = preflight(server, PAGE, "authorization, x-stainless-os, x-made-up")
        assert asked.status == 204 and asked.body == b"" and asked.headers["vary"] == "Origin"
        told = told_to_browsers(asked)
        assert (told["allow-origin"], told["allow-methods"]) == (PAGE, "GET, HEAD, POST")
        assert told["allow-headers"] == "Authorization, Content-Type, X-API-Key, X-Request-Id, x-stainless-os"
        assert int(told["max-age"]) > 0 and "allow-credentials" not in told
        own = {"Origin": PAGE, "Authorization": "Bearer a"}
        replies = [
            server.post("/v1/completions", SHORT, Origin=PAGE),
            server.post("/v1/completions", SHORT, **own),
            server.post("/v1/completions", SHORT, **own),
            server.post("/v1/completions", {"made_up": 1}, **own),
            server.get("/v1/models/nothing", **own),
        ]
        assert [reply.status for reply in replies] == [401, 200, 429, 429, 404]
        for reply in replies:
            assert (reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (PAGE, "Origin")
            assert {"X-Request-Id", "Retry-After"} <= set(reply.headers["access-control-expose-headers"].split(", "))


def test_nobody_else_is_told_anything(engine: Engine, server: Server) -> None:
    with running(engine, origins=(PAGE,)) as open_server:
        for other in ("https://evil.example", f"{PAGE}.evil.example", f"{PAGE}:444", "http://shop.example", "null"):
            reply = preflight(open_server, other)
            assert reply.status == 403 and told_to_browsers(reply) == {}
        assert told_to_browsers(open_server.get("/health", Origin=f"http://127.0.0.1:{open_server.port}")) == {}
        assert told_to_browsers(open_server.get("/health")) == {}
        plain = open_server.call("OPTIONS", "/v1/completions", headers={"Origin": PAGE})
        assert plain.status == 405  # not what a browser asks
    reply = preflight(server, PAGE)
    assert reply.status == 403 and told_to_browsers(reply) == {} and "vary" not in reply.headers


def test_bodies_have_a_limit(engine: Engine) -> None:
    with running(engine, max_body_bytes=1000) as server:
        assert server.post("/v1/completions", {"prompt": "a" * 2000}).status == 413
        connection = server.connection()
        chunks = iter([b'{"prompt": "' + b"a" * 600, b"a" * 600 + b'"}'])
        connection.request("POST", "/v1/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "body_too_large"
        connection.close()
        assert server.post("/v1/completions", SHORT).status == 200


def test_keys_and_scopes(engine: Engine) -> None:
    ann, bob = new_key(), new_key()
    keys = (Key("ann", digest_of(ann)), Key("bob", digest_of(bob), frozenset({"ask"})))
    with running(engine, keys=keys) as server:
        reply = server.post("/v1/completions", SHORT)
        assert (reply.status, reply.error["code"], reply.headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
        for wrong in (f"Bearer {ann}x", "Bearer ", f"Basic {ann}", ann):
            assert server.post("/v1/completions", SHORT, Authorization=wrong).status == 401
        assert server.post("/v1/completions", SHORT, Authorization=f"Bearer {ann}").status == 200
        assert server.post("/v1/completions", SHORT, **{"X-API-Key": ann}).status == 200
        reply = server.post("/v1/completions", SHORT, Authorization=f"Bearer {bob}")
        assert (reply.status, reply.error["code"]) == (403, "insufficient_scope")
        assert server.get("/metrics", Authorization=f"Bearer {bob}").status == 403
        assert server.get("/metrics", Authorization=f"Bearer {ann}").status == 200
        assert server.get("/health").status == server.get("/ready").status == 200
        assert server.get("/v1/models").status == 401


def test_other_machines_only_with_a_key() -> None:
    with pytest.raises(UserError, match="no API key is set"):
        ServeSettings(host="0.0.0.0")
    ServeSettings(host="0.0.0.0", keys=(Key("ann", digest_of("x")),))


def test_key_files(tmp_path: Path) -> None:
    path, key = tmp_path / "keys", new_key()
    path.write_text(f"# who\n{key_line('ann', key, ('ask', 'query'), ('analyst',))}\n\n{key_line('bob', 'x')}  # all\n")
    keys = read_keys(path)
    assert key not in path.read_text()
    found = find_key(keys, key)
    assert found is not None and (found.name, found.roles) == ("ann", ("analyst",))
    assert found.may("query") and not found.may("generate") and find_key(keys, key + "x") is None
    digest = digest_of("x")
    for text, told in (
        ("ann", "1 words"),
        (f"ann {digest[:-1]} ask", "no SHA-256"),
        (f"ann {digest} fly", "fly is no scope"),
        (f"ann {digest} ask\nann {digest} ask", "two keys"),
        ("# none", "has no key"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read_keys(path)
    with pytest.raises(MissingError):
        read_keys(tmp_path / "absent")


def test_rates_and_concurrency(engine: Engine) -> None:
    with running(engine, requests_per_minute=2) as server:
        assert [server.post("/v1/completions", SHORT).status for _ in range(3)] == [200, 200, 429]
        reply = server.post("/v1/completions", SHORT)
        assert reply.error["code"] == "rate_limit_exceeded" and 1 <= int(reply.headers["retry-after"]) <= 61
        assert server.get("/v1/models").status == 200
    with running(engine, max_concurrent_per_key=1) as server:
        held = begin_stream(server)
        assert server.post("/v1/completions", SHORT).status == 429
        held.close()
        wait_until(lambda: server.post("/v1/completions", SHORT).status == 200)


def test_rates_count_every_route_that_works(engine: Engine) -> None:
    desk = Desk(engine, {"sample": database_or_sample(None)})
    asked = [
        ("/v1/query", {"sql": "SELECT 1"}),
        ("/tokenize", {"prompt": "a"}),
        ("/v1/feedback", {"question": "q", "verdict": "up"}),
    ]
    with running(engine, desk, requests_per_minute=2) as server:
        for path, body in asked:
            reply = server.post(path, body)
        assert reply.status == 429 and reply.error["code"] == "rate_limit_exceeded"
        assert server.post("/v1/ask", {"question": "How many customers?"}).status == 429
        assert server.get("/v1/schema").status == 429
        assert [server.get(path).status for path in ("/health", "/v1/models", "/v1/databases", "/metrics", "/")] == [200] * 5
        server.service.is_draining = True
        assert [server.post(path, body).status for path, body in asked] == [503] * 3
        assert server.get("/health").status == 200
    desk.close()


def post_bytes(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    data = json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(data)}")
    return "\r\n".join([*head, "", ""]).encode() + data


def begin_stream(server: Server, fields: Any = None) -> socket.socket:
    """A long text of which the first event has come."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(post_bytes(fields or {**LONG, "stream": True}))
    seen = b""
    while b"data: " not in seen:
        seen += connection.recv(4096)
    return connection


def wait_until(holds: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_work_ends_when_the_client_leaves(server: Server, stream: bool) -> None:
    if stream:
        connection = begin_stream(server)
    else:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(post_bytes(LONG))
    wait_until(lambda: server.engine.num_running == 1)
    connection.close()
    wait_until(lambda: server.engine.num_running == 0)


def test_time_runs_out(engine: Engine) -> None:
    with running(engine, request_timeout_s=0.05) as server:
        reply = server.post("/v1/completions", LONG)
        assert (reply.status, reply.error["code"]) == (504, "deadline")
        events = server.post("/v1/completions", {**LONG, "stream": True}).events
        assert events[-1]["error"]["code"] == "deadline"


def test_ids_logs_and_metrics(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with running(engine) as server, caplog.at_level(logging.INFO, "openarctic.serve"):
        reply = server.post("/v1/completions", {**SHORT, "prompt": "secret words"}, **{"X-Request-Id": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
        assert server.get("/health", **{"X-Request-Id": "bad id!"}).headers["x-request-id"].startswith("req-")
        server.get("/made/up/path")
        wait_until(lambda: len(caplog.records) >= 3)
        lines = [json.loads(record.message) for record in caplog.records]
        assert (lines[0]["id"], lines[0]["status"], lines[0]["route"]) == ("mine-1", 200, "/v1/completions")
        assert "secret" not in caplog.text and "made/up" not in caplog.text
        server.post("/v1/completions", {**SHORT, "stream": True})
        text = server.get("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    label = '{model_name="tiny"}'
    assert float(values[f"openarctic_generation_tokens_total{label}"]) == 4
    assert float(values[f"openarctic_time_to_first_token_seconds_count{label}"]) == 1
    assert float(values[f"openarctic_num_requests_running{label}"]) == 0
    assert float(values['openarctic_http_requests_total{route="/v1/completions",status="200"}']) == 2
