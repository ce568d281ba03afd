"""A line of progress on a terminal's standard error; nothing where that is a file or a pipe."""

from __future__ import annotations

import sys


def renew(text: str) -> None:
    """Write `text` over the line."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def end() -> None:
    """Leave the line as it stands."""
    if sys.stderr.isatty():
        print(file=sys.stderr)
