"""Question to SQL to rows to answer. `check` passes one read; `open_access` is the door for a user under a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["check", "open_access"]

if TYPE_CHECKING:
    from openarctic.copilot.access import open_access
    from openarctic.copilot.guard import check


def __getattr__(name: str) -> Any:
    # Help texts stand in this room too, and must not wait for a parser of SQL.
    if name == "check":
        from openarctic.copilot.guard import check

        return check
    if name == "open_access":
        from openarctic.copilot.access import open_access

        return open_access
    raise AttributeError(f"module 'openarctic.copilot' has no attribute {name!r}")
