"""Everything that a request must pass before a route sees it: host, origin, key, rate, size; and the line that is logged of it.

A plain ASGI middleware: it counts bodies as they come and never holds an answer back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openarctic.serve import cors
from openarctic.serve.errors import HTTPError, for_path, stopping
from openarctic.serve.keys import ANYONE, Key, find_key, given_key
from openarctic.serve.service import Service, event, named_event, new_id
from openarctic.serve.settings import LOOPBACK, ServeSettings

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

log = logging.getLogger("openarctic.serve")

OPEN_ROUTES = frozenset({"/", "/health", "/ready", "/version", "/ping", "/openapi.json"})
# By the beginning of the path, the first that fits; what fits none needs `generate`.
SCOPES = (
    ("/metrics", "admin"),
    ("/v1/query", "query"),
    *((path, "ask") for path in ("/v1/ask", "/v1/schema", "/v1/databases", "/v1/feedback", "/api/v2/cortex", "/mcp")),
)
# Told at once, from what is known: no limit of rate or concurrency counts them, and a server that stops still tells them.
FREE_ROUTES = OPEN_ROUTES | {"/metrics", "/v1/models", "/v1/databases", "/tokenizer_info"}
FREE_FOLDERS = ("/assets/", "/v1/models/")
NAMED_EVENTS = ("/v1/ask", "/api/v2/cortex")  # their streams name events; the others' are those of OpenAI
MINUTE = 60.0
MAX_TOLD_BYTES = 1 << 16  # of an answer, where contents are logged
NO_ANSWER = 499  # the status that is logged when the client has gone before anything was answered


class Gate:
    """Refuses, limits, logs. State: of each key the requests under way, and the times of those of the last minute."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service) -> None:
        self.app, self.service = app, service
        self._under_way: dict[str, int] = defaultdict(int)
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        settings = service.settings
        self._hosts = {*LOOPBACK, settings.host, *settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.service.settings)
        try:
            try:
                self._check_host(exchange)
                self._check_origin(exchange)
                if exchange.is_preflight:
                    await exchange.allow()
                    return
                key = self._admit(exchange)
            except HTTPError as error:
                await exchange.refuse(error)
                return
            scope.setdefault("state", {})["key"] = key
            scope["state"]["request_id"] = exchange.id
            exchange.key = key.name
            if exchange.is_work:
                self._under_way[key.name] += 1
            try:
                with self.service.under_way():
                    await self.app(scope, exchange.receive, exchange.send)
            except asyncio.CancelledError:
                if not self.service.is_over:
                    raise
                await exchange.cut_off(stopping())
            except Exception as error:  # noqa: BLE001 - a bug: told by its place, since its words may hold what was asked
                exchange.error = _place_of(error)
                await exchange.refuse(HTTPError(500, "internal error", type="server_error"))
            finally:
                if exchange.is_work:
                    self._under_way[key.name] -= 1
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.service.metrics.answered(route, exchange.status)
            exchange.log(route, scope.get("state", {}).get("usage"))

    def _admit(self, exchange: _Exchange) -> Key:
        key = self._key(exchange)
        if exchange.is_work:
            if self.service.is_draining:
                raise stopping()
            self._check_rate(key)
        length = exchange.header("content-length")
        if length is not None and (not length.isdigit() or int(length) > exchange.max_bytes):
            raise exchange.too_large()
        return key

    def _check_host(self, exchange: _Exchange) -> None:
        """DNS rebinding: a page's own name that resolves to this server is in its Host header."""
        if "*" in self._hosts:
            return
        host = _host_of(exchange.header("host") or "")
        bound = self.service.settings.host
        if host not in self._hosts and not (bound in ("0.0.0.0", "::") and _is_address(host)):
            raise HTTPError(421, f"this server is not {host or 'without a name'}", code="unknown_host")

    def _check_origin(self, exchange: _Exchange) -> None:
        origin = exchange.header("origin")
        if origin is None or origin in self.service.settings.origins:
            return
        if urlsplit(origin).netloc != exchange.header("host"):
            raise HTTPError(403, "pages of other sites may not call this server", type="permission_error", code="origin")

    def _key(self, exchange: _Exchange) -> Key:
        keys = self.service.settings.keys
        if exchange.path in OPEN_ROUTES or exchange.path.startswith("/assets/"):
            return ANYONE
        if not keys:
            return ANYONE
        given = given_key(exchange.header("authorization") or "") or exchange.header("x-api-key") or ""
        key = find_key(keys, given) if given else None
        if key is None:
            message = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPError(401, message, type="authentication_error", code="invalid_api_key", headers=headers)
        scope = next((scope for start, scope in SCOPES if exchange.path.startswith(start)), "generate")
        if not key.may(scope):
            raise HTTPError(403, f"this key lacks the scope {scope}", type="permission_error", code="insufficient_scope")
        return key

    def _check_rate(self, key: Key) -> None:
        settings = self.service.settings
        total = sum(self._under_way.values())
        if total >= settings.max_concurrent or self._under_way[key.name] >= settings.max_concurrent_per_key:
            raise _too_many(f"{total} requests are under way", 1)
        if settings.requests_per_minute is None:
            return
        now, recent = time.monotonic(), self._recent[key.name]
        while recent and now - recent[0] >= MINUTE:
            recent.popleft()
        if len(recent) >= settings.requests_per_minute:
            wait = MINUTE - (now - recent[0])
            raise _too_many(f"{len(recent)} requests came within a minute, the limit", int(wait) + 1)
        recent.append(now)


def _too_many(what: str, wait: int) -> HTTPError:
    return HTTPError(
        429,
        f"{what}; try again in {wait} s",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(wait)},
    )


def _host_of(header: str) -> str:
    """`[::1]:8000` is `::1`, `localhost:8000` is `localhost`."""
    match = re.fullmatch(r"\[([^\]]+)\](?::\d+)?|([^:]*)(?::\d+)?", header.lower())
    return (match[1] or match[2] or "") if match else header


def _is_address(host: str) -> bool:
    """A number, not a name: rebinding needs a name."""
    return re.fullmatch(r"[\d.]+|[0-9a-f:]+", host) is not None


def _plain(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without parameters, `text/event-stream; charset=utf-8`."""
    return [(name.lower(), value.partition(b";")[0].strip()) for name, value in headers]


def _place_of(error: BaseException) -> str:
    """`KeyError at openarctic/serve/chat.py:93`, and never the message."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {'/'.join(Path(last.filename).parts[-3:])}:{last.lineno}"


class _Exchange:
    """One request and its answer: counts the body, names the request, remembers status and times for the log."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: ServeSettings) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.is_work = self.path not in FREE_ROUTES and not self.path.startswith(FREE_FOLDERS)
        self.max_bytes = settings.max_body_bytes
        self.status = NO_ANSWER
        self.key = ""
        self.error = ""
        self._asked: bytearray | None = bytearray() if settings.log_contents else None
        self._told: bytearray | None = bytearray() if settings.log_contents else None
        self._headers = {name: value for name, value in scope["headers"]}
        self._receive, self._send = receive, send
        self._started = time.monotonic()
        self._first: float | None = None
        self._size = 0
        self._is_too_large = False
        self._is_stream = False
        origin = self.header("origin")
        self._cors = [(b"vary", b"Origin")] if settings.origins else []
        is_of_other_site = origin is not None and origin in settings.origins
        if origin is not None and is_of_other_site:
            self._cors += cors.allowance(origin)
        # Sent by the browser itself, without the key.
        self.is_preflight = (
            is_of_other_site and self.method == "OPTIONS" and self.header("access-control-request-method") is not None
        )
        given = self.header("x-request-id") or ""
        self.id = given if re.fullmatch(r"[\w.\-]{1,128}", given) else new_id("req-")

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def too_large(self) -> HTTPError:
        return HTTPError(413, f"the body is larger than {self.max_bytes} bytes", code="body_too_large")

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self.max_bytes:
                self._is_too_large = True
                raise self.too_large()
            if self._asked is not None:
                self._asked += message.get("body", b"")
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """On its way out. What a route says of a body that was cut off is replaced by the reason."""
        if self._is_too_large:
            if message["type"] == "http.response.start":
                self._is_too_large = False
                await self.refuse(self.too_large())
                self._is_too_large = True
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = (b"content-type", b"text/event-stream") in _plain(message.get("headers", []))
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self.id.encode()), *self._cors]}
        else:
            if self._first is None:
                self._first = time.monotonic()
            if self._told is not None and len(self._told) < MAX_TOLD_BYTES:
                self._told += message.get("body", b"")
        await self._send(message)

    async def allow(self) -> None:
        """Answer the question of an allowed site's page whether it may call."""
        headers = cors.preflight(self.header("access-control-request-headers") or "")
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: HTTPError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status != NO_ANSWER:
            return
        body = json.dumps(for_path(error.body(), self.path, self.id)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    async def cut_off(self, error: HTTPError) -> None:
        """End an answer that will not be finished: as an error where none has begun, as the last event where events were sent."""
        await self.refuse(error)
        if self._is_stream:
            is_named = self.path.startswith(NAMED_EVENTS)
            body = named_event("error", error.body()) if is_named else event(error.body())
            await self.send({"type": "http.response.body", "body": body})

    def log(self, route: str, usage: Callable[[], dict[str, Any]] | None) -> None:
        """One line. Contents are in it only where the settings ask for them."""
        now = time.monotonic()
        line: dict[str, Any] = {
            "id": self.id,
            "key": self.key,
            "method": self.method,
            "route": route,
            "status": self.status,
            "seconds": round(now - self._started, 4),
            "first_byte_s": None if self._first is None else round(self._first - self._started, 4),
            "request_bytes": self._size,
        }
        if usage is not None:
            line.update({name: count for name, count in usage().items() if name in ("prompt_tokens", "completion_tokens")})
        if self.error:
            line["error"] = self.error
        if self._asked is not None and self._told is not None:
            line["request"] = self._asked.decode(errors="replace")
            line["answer"] = self._told[:MAX_TOLD_BYTES].decode(errors="replace")
        log.info(json.dumps(line))
