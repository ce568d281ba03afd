"""The one tree of errors: each class is a kind of failure a user can act on, with its exit code.

Anything outside this tree is a bug. Only `cli` (and later `serve`) turns errors into text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The hint for a name that does not exist: the one of `known` that is written most like it, else `otherwise`."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else otherwise


class OpenArcticError(Exception):
    """A failure with a message (what, value, limit) and a hint (what to do next)."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "error"  # of the JSON object that tells of it
    type: str = "internal_error"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, Any]:
        """The `error` object of every JSON answer."""
        return {"type": self.type, "message": self.message, "hint": self.hint}


class UserError(OpenArcticError):
    """The input is wrong: an option, a value, a file that is not what it should be."""

    exit_code = 2
    type = "bad_input"


class MissingError(UserError):
    """Something named does not exist: a file, a model, a table, an optional package."""

    type = "not_found"


class RefusedError(OpenArcticError):
    """The guard or a policy refuses; `type` says why (see `REFUSALS`)."""

    exit_code = 3
    status = "refused"
    REFUSALS: ClassVar[tuple[str, ...]] = (
        "not_a_read",
        "unknown_table",
        "not_permitted",
        "unknown_column",
        "forbidden_function",
        "unparsable",
        "too_expensive",
    )

    def __init__(self, type: str, message: str, hint: str | None = None) -> None:
        assert type in self.REFUSALS, type
        super().__init__(message, hint)
        self.type = type


class AbstainedError(OpenArcticError):
    """No answer can be trusted, and we say so instead of guessing."""

    exit_code = 4
    status = "abstained"
    type = "abstained"


class CapacityError(OpenArcticError):
    """A limit of time, memory, rows or tokens was reached."""

    exit_code = 5
    type = "out_of_capacity"


class CorruptError(OpenArcticError):
    """A file is damaged or is not what its name says."""

    exit_code = 6
    type = "corrupt_file"
