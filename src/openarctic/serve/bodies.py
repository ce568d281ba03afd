"""Bodies are JSON, whatever their Content-Type says: curl calls every body a form unless it is told otherwise.

That a page of another site could send such a body without asking first (a "simple request") changes nothing: browsers name the
page's origin in every POST, and the gate refuses foreign ones.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from openarctic.serve.errors import HTTPError


class JSONRoute(APIRoute):
    """Drops the header, which the application, not being strict about it, then takes for JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, with the header dropped."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            scope = {**request.scope}
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            try:
                return await handler(Request(scope, request.receive))
            except HTTPException as error:  # FastAPI's, for bytes that its parser cannot read at all
                if error.status_code != 400:
                    raise
                raise HTTPError(400, "the body is not JSON") from error

        return handle
