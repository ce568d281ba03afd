"""Every failure as an HTTP answer: OpenAI's error object, a status, and never a path or a trace.

`{"error": {"message", "type", "param", "code"}}`; the hint of our own errors is part of the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openarctic.errors import (
    AbstainedError,
    CapacityError,
    CorruptError,
    MissingError,
    OpenArcticError,
    RefusedError,
    UserError,
)

CORTEX = "/api/v2/cortex"
# The first class that fits decides.
STATUSES: tuple[tuple[type[OpenArcticError], int, str], ...] = (
    (MissingError, 404, "not_found_error"),
    (UserError, 400, "invalid_request_error"),
    (RefusedError, 403, "permission_error"),
    (AbstainedError, 422, "abstained"),
    (CapacityError, 503, "overloaded_error"),
    (CorruptError, 500, "server_error"),
)
# What the guard says of a statement that is a mistake and no offence: clients take 403 for a matter of keys.
MISTAKES = ("unparsable", "unknown_table", "unknown_column")


MAX_MESSAGE = 2000
MAX_NAME = 100


class HTTPError(Exception):
    """A refusal with its status, and headers such as Retry-After."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message, param = _shortened(message, MAX_MESSAGE), param and _shortened(param, MAX_NAME)
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _shortened(text: str, size: int) -> str:
    """What a caller sent in megabytes is not told back to it."""
    return text if len(text) <= size else f"{text[:size]}..."


def for_path(body: dict[str, Any], path: str, request_id: str) -> dict[str, Any]:
    """The body of an error; under Cortex Analyst's paths also with the fields that its clients read."""
    if not path.startswith(CORTEX):
        return body
    error = body["error"]
    own = {"request_id": request_id, "error_code": error.get("code") or error["type"], "message": error["message"]}
    return {**body, **own}


def stopping() -> HTTPError:
    """The answer of a server that drains."""
    return HTTPError(503, "the server is stopping", type="overloaded_error", code="stopping", headers={"Retry-After": "5"})


def as_http(error: OpenArcticError, fields: Sequence[str] = ()) -> HTTPError:
    """Ours as HTTP. Our messages begin with the name of what is wrong ("n is 0", "the prompt holds"); one of the request's
    `fields` is told as `param`."""
    first = re.match(r"(?:the )?([a-z_]+)", error.message)
    param = first[1] if first and first[1] in fields else None
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    for kind, status, type in STATUSES:
        if isinstance(error, kind):
            code = error.type if isinstance(error, RefusedError) else None
            if code in MISTAKES:
                status, type = 400, "invalid_request_error"
            return HTTPError(status, message, type=type, param=param, code=code)
    return HTTPError(500, "internal error", type="server_error")


def invalid(errors: Sequence[Mapping[str, Any]]) -> HTTPError:
    """pydantic's findings, of which the first is told. Of the kinds of a union the one that came furthest speaks."""
    worst = max(errors, key=lambda error: len(error["loc"]))
    place = [part for part in worst["loc"] if part != "body"]
    param = _path(place)
    kind = worst["type"]
    if kind == "json_invalid":
        return HTTPError(400, "the body is not JSON")
    if kind == "extra_forbidden":
        param = ".".join(filter(None, (_path(place[:-1]), _shortened(str(place[-1]), MAX_NAME))))
        message = f"{param} is not a field of this request"
    elif kind == "none_required":
        message = f"{param} is not supported"
    elif kind == "string_unicode":
        message = f"{param or 'the name of a field'} is not valid Unicode"
    elif kind == "missing":
        message = f"{param} is missing" if param else "the body is missing, it must be a JSON object"
    elif kind in ("model_type", "model_attributes_type"):
        message = f"{param or 'the body'} must be a JSON object"
    elif kind == "too_long":
        message = f"{param} has more than {worst['ctx']['max_length']} entries"
    else:
        message = f"{param}: {worst['msg']}"
    return HTTPError(400, message, param=param or None, code="unknown_parameter" if kind == "extra_forbidden" else None)


def _path(parts: Sequence[Any]) -> str:
    """`messages[0].content` from what pydantic tells; names of a union's kinds are left out."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[a-z][a-z_]*", str(part)) and part not in ("str", "int", "float", "bool", "none"):
            text += f".{part}" if text else str(part)
    return text
