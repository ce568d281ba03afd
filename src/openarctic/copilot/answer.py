"""One honest sentence about the rows: every number in it stands in them, or counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_LISTED = 5


def answer_sentence(columns: Sequence[str], rows: Sequence[Sequence[Any]], truncated: bool) -> str:
    """Say what the result says, and nothing more."""
    if not rows:
        return "No rows match."
    if len(rows) == 1 and len(columns) == 1:
        value = rows[0][0]
        return "The result is empty (NULL)." if value is None else f"The answer is {plain(value)}."
    if len(rows) == 1:
        pairs = ", ".join(f"{name} {plain(value)}" for name, value in zip(columns, rows[0], strict=True))
        return f"One row: {pairs}."
    count = f"More than {len(rows)} rows; the first" if truncated else f"{len(rows)} rows; the first"
    if len(columns) == 1 and len(rows) <= MAX_LISTED and not truncated:
        return f"{len(rows)} values: {', '.join(plain(row[0]) for row in rows)}."
    return f"{count} is {', '.join(plain(value) for value in rows[0])}."


def plain(value: Any) -> str:
    """A cell as text."""
    return "NULL" if value is None else str(value)
