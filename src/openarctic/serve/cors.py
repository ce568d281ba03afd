"""What a browser is told so that pages of the allowed other sites may call (CORS); nobody else is told anything.

No cookies are involved, so credentials are not allowed: keys come in headers.
"""

from __future__ import annotations

METHODS = "GET, HEAD, POST"
HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-Id")
OF_CLIENTS = "x-stainless-"  # OpenAI's client for JavaScript sends a dozen of these
EXPOSED = "X-Request-Id, Retry-After, X-Truncated"
MAX_AGE_S = 600

Pairs = list[tuple[bytes, bytes]]


def preflight(asked_headers: str) -> Pairs:
    """Headers of the answer to a browser that asks whether it may call with `asked_headers`."""
    asked = (name.strip() for name in asked_headers.split(","))
    allowed = ", ".join([*HEADERS, *(name for name in asked if name.lower().startswith(OF_CLIENTS))])
    return [
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", allowed.encode("latin-1")),
        (b"access-control-max-age", str(MAX_AGE_S).encode()),
    ]


def allowance(origin: str) -> Pairs:
    """Headers of every answer to a page of `origin`, errors too."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED.encode()),
    ]
