"""`log.jsonl`, one object a step, and `events.jsonl`, one object for whatever else happened to a run. No torch.

A run that goes on from an earlier step takes back what it had logged after that step, so each step stands in the log once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from openarctic.config import write_text
from openarctic.errors import CorruptError, MissingError

LOG = "log.jsonl"
EVENTS = "events.jsonl"


class RunLog:
    """The open log of a run."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._file: TextIO | None = None

    def __enter__(self) -> RunLog:
        self._file = (self._out / LOG).open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def step(self, record: dict[str, Any]) -> None:
        """Add a step's object."""
        assert self._file is not None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def add_to_last(self, told: dict[str, Any]) -> None:
        """Add to the object of the last step."""
        *before, (_, last) = _lines(self._out / LOG)
        assert last is not None
        self._rewrite("".join(line for line, _ in before) + json.dumps({**last, **told}) + "\n")

    def event(self, kind: str, **told: Any) -> None:
        """Add an event, with the time of day."""
        with (self._out / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), **told}) + "\n")

    def take_back(self, step: int) -> None:
        """Remove what was logged after `step`, and a line that a kill cut short."""
        path = self._out / LOG
        lines = list(_lines(path)) if path.exists() else []
        kept = [line for line, record in lines if record and line.endswith("\n") and record.get("step", 0) <= step]
        self._rewrite("".join(kept))

    def _rewrite(self, text: str) -> None:
        path = self._out / LOG
        if self._file:
            self._file.close()
        write_text(path, text)
        if self._file:
            self._file = path.open("a", encoding="utf-8")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Lines with their objects, None for what is no object."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield line, record if isinstance(record, dict) else None


def read_log(out: Path) -> list[dict[str, Any]]:
    """The objects of a run's steps. Raises MissingError for a folder without a log, CorruptError for damage before the end."""
    path = out / LOG
    if not path.is_file():
        raise MissingError(f"{out} holds no run: there is no {LOG}", "give the folder that `openarctic train --out` wrote to")
    lines = [record for _, record in _lines(path)]
    if lines and lines[-1] is None:  # a kill cut it short
        lines.pop()
    for number, record in enumerate(lines, 1):
        if record is None or not isinstance(record.get("step"), int):
            raise CorruptError(f"{path}: line {number} is not an object with a step")
    return [record for record in lines if record]


def read_events(out: Path) -> list[dict[str, Any]]:
    """The objects of a run's events, as far as they can be read."""
    path = out / EVENTS
    return [record for _, record in _lines(path) if record] if path.is_file() else []
