"""A server's life: bind, say where, serve, drain, end with 0."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from openarctic import event_loop
from openarctic.errors import UserError
from openarctic.serve.app import build_app
from openarctic.serve.desk import Desk
from openarctic.serve.service import Service
from openarctic.serve.settings import ServeSettings

BACKLOG = 1024
TOLD_S = 5  # to tell those whose requests are cut off at the end of the drain


def bind(settings: ServeSettings) -> socket.socket:
    """The listening socket. Raises UserError where the address cannot be had; done before a model is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((settings.host, settings.port))
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {settings.port} of {settings.host} is in use", "give another --port") from error
        raise UserError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    except OverflowError as error:
        raise UserError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
    return server


def address(settings: ServeSettings, listening: socket.socket) -> str:
    """Of the bound socket, as clients write it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listening.getsockname()[1]}"


class _Server(uvicorn.Server):
    """uvicorn's, with our own manners at the end: the first signal drains, the second ends at once, and both end with 0."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.on_ready = service, on_ready
        self.should_exit = self.force_exit = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Instead of uvicorn's, which raises them again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.service.is_draining = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then tells."""
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finishes what is under way. At the deadline we end what is left ourselves, so that its clients are told."""
        asyncio.get_running_loop().call_later(self.service.settings.drain_timeout_s, self.service.end_all)
        await super().shutdown(sockets)


def serve(desk: Desk, settings: ServeSettings, listening: socket.socket, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve a desk's engine and databases until SIGTERM or Ctrl-C; then finish what is under way, within `drain_timeout_s`."""
    log = logging.getLogger("openarctic.serve")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    service = Service(desk.engine, settings)

    def ready() -> None:
        on_ready()
        threading.Thread(target=desk.warm, name="openarctic-warm", daemon=True).start()

    with contextlib.closing(desk):
        run_app(build_app(service, desk), service, listening, ready)


def run_app(
    app: Any, service: Service, listening: socket.socket, on_ready: Callable[[], None], has_lifespan: bool = False
) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C; with `has_lifespan` it is told of its start and end."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="on" if has_lifespan else "off",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(service.settings.drain_timeout_s) + TOLD_S,
        timeout_keep_alive=30,
        backlog=BACKLOG,
    )
    with listening:
        event_loop.run(_Server(config, service, on_ready).serve(sockets=[listening]))
