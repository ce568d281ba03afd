"""A line of progress on a terminal's standard error; nothing where that is a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def renew(text: str) -> None:
    """Write `text` over the line."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def end() -> None:
    """Leave the line as it stands."""
    if sys.stderr.isatty():
        print(file=sys.stderr)


def loading(name: str, patience_s: float = 1.0) -> Callable[[int, int], None]:
    """A callback (done, total) for a model that is loaded; the line shows after `patience_s` and goes in the end."""
    start = time.monotonic()
    is_shown = False

    def show(done: int, total: int) -> None:
        nonlocal is_shown
        if done < total and time.monotonic() - start >= patience_s:
            renew(f"loading {name}: {100 * done // total} %")
            is_shown = True
        elif done >= total and is_shown:
            renew("")

    return show
