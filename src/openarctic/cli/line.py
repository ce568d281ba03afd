"""Editing of lines at a terminal: history in a file of the user's own, and completion. Without readline, plain lines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from openarctic.config import cache_folder

MAX_LINES = 1000
DELIMITERS = " \t\n,()=<>?"


def history_file() -> Path:
    """Where lines are kept."""
    return cache_folder() / "chat_history"


@contextlib.contextmanager
def editing(words: Callable[[str], Sequence[str]], keeps_history: bool) -> Iterator[None]:
    """`words` gives the completions of a line's last word, from the whole line up to it. Where the history cannot be read or
    written there is none."""
    try:
        import readline
    except ImportError:
        yield
        return
    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer_delims(DELIMITERS)
    readline.set_completer(completer(words, readline.get_line_buffer, readline.get_begidx))
    is_editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
    path = history_file()
    if keeps_history:
        with contextlib.suppress(OSError):
            readline.read_history_file(path)
    try:
        yield
    finally:
        if keeps_history:
            with contextlib.suppress(OSError):
                _keep(path, readline.write_history_file, readline.set_history_length)
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])


def _keep(path: Path, write: Callable[[str], None], set_length: Callable[[int], None]) -> None:
    """For the user's eyes alone: questions may hold what the data holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    set_length(MAX_LINES)
    write(str(path))
    os.chmod(path, 0o600)


def completer(
    words: Callable[[str], Sequence[str]], line: Callable[[], str], begin: Callable[[], int]
) -> Callable[[str, int], str | None]:
    """What readline calls with the beginning of a word and a number, until it gives None."""
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        nonlocal found
        if state == 0:
            found = [word for word in words(line()[: begin()]) if word.lower().startswith(text.lower())]
        return found[state] if state < len(found) else None

    return complete
