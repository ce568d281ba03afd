"""The audit log: who read what, when, and what was refused. One JSON object a line, each holding the hash of the one before.

Whoever changes, drops or inserts a line breaks the chain from there on. Lines cut off at the end leave a chain that is whole:
keep the last hash somewhere else (`openarctic audit verify` prints it) and give it as the anchor later. No values are in it:
literals become `?`, quoted names that the database does not have become `"?"`, and of a question only its hash is kept.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.guard import Checked
from openarctic.copilot.principal import Principal
from openarctic.copilot.schema import Schema
from openarctic.errors import CorruptError, MissingError, OpenArcticError, RefusedError, UserError

START = "0" * 64  # what the first line holds as the hash before it
MAX_LINE_BYTES = 1 << 20
MAX_SQL_CHARS = 20_000
_UNREADABLE = "(not SQL that can be read)"


@dataclass(slots=True)
class Event:
    """One thing that somebody did at one of the doors; `checked`, `rows` and `truncated` are filled in as they become known."""

    door: str
    principal: Principal
    dialect: str
    schema: Schema | None = None
    question: str | None = None
    sql: str | None = None
    checked: Checked | None = None
    rows: int | None = None
    truncated: bool = False
    status: str = "ok"
    error: str | None = None
    started: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def fail(self, error: OpenArcticError) -> None:
        """It ended with an error: its type is kept, its message may hold values."""
        self.status = "refused" if isinstance(error, RefusedError) else "failed"
        self.error = error.type

    def to_dict(self) -> dict[str, Any]:
        """What the log keeps."""
        sql = self.checked.shown if self.checked is not None else self.sql
        return {
            "time": self.started.isoformat(timespec="milliseconds"),
            "door": self.door,
            "user": self.principal.name,
            "roles": list(self.principal.roles),
            "question_sha256": None if self.question is None else hashlib.sha256(self.question.encode()).hexdigest(),
            "sql": None if sql is None else redacted(sql, self.dialect, self.schema),
            "tables": [] if self.checked is None else list(self.checked.tables),
            "filtered": [] if self.checked is None else list(self.checked.filtered),
            "status": self.status,
            "error": self.error,
            "rows": self.rows,
            "truncated": self.truncated,
        }


def redacted(sql: str, dialect: str, schema: Schema | None = None) -> str:
    """The shape of a statement: literals are `?`, and so are quoted names that are none of the schema's. Comments are dropped."""
    if len(sql) > MAX_SQL_CHARS:
        return f"({len(sql)} characters)"
    try:
        statements = [s for s in sqlglot.parse(sql, read=dialect) if s is not None]
        if not statements or any(isinstance(s, exp.Command) for s in statements):
            return _UNREADABLE if not statements else str(statements[0].this).upper()
        return "; ".join(_shape(statement, schema).sql(dialect=dialect, comments=False) for statement in statements)
    except (SqlglotError, RecursionError):
        return _UNREADABLE


def _shape(tree: exp.Expr, schema: Schema | None) -> exp.Expr:
    known = set() if schema is None else {t.name.lower() for t in schema.tables}.union(*(t.column_names for t in schema.tables))
    for node in list(tree.find_all(exp.Literal, exp.Identifier, exp.RawString, exp.National, exp.HexString, exp.BitString)):
        if not isinstance(node, exp.Identifier):
            question_mark = exp.Placeholder()
            tree = question_mark if node is tree else tree
            node.replace(question_mark)
        elif node.args.get("quoted") and node.name.lower() not in known:
            node.set("this", "?")
    return tree


class AuditLog:
    """A file that lines are only ever added to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Event) -> str:
        """Add a line, and return its hash once it is on the disk.

        Processes take turns. Raises UserError when the file cannot be written, CorruptError when its last line is not one of
        ours: what cannot be recorded must not be answered.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise UserError(
                f"the audit log {self.path} cannot be written: {error.strerror}", "nothing is answered unrecorded"
            ) from error
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            _lock(descriptor)
            line, digest = _sealed(event.to_dict(), self._last_hash(descriptor))
            try:
                file.write(line)
                os.fsync(descriptor)
            except OSError as error:
                raise UserError(f"the audit log {self.path} cannot be written: {error.strerror}") from error
        return digest

    def _last_hash(self, descriptor: int) -> str:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return START
        start = max(0, size - MAX_LINE_BYTES)
        tail = os.pread(descriptor, size - start, start)
        lines = tail.splitlines()
        try:
            if not tail.endswith(b"\n"):
                raise ValueError("cut off")
            return str(json.loads(lines[-1])["hash"])
        except (ValueError, KeyError, TypeError) as error:
            hint = "look at it with `openarctic audit verify`, then move it away"
            raise CorruptError(f"the last line of the audit log {self.path} is damaged", hint) from error


def _sealed(record: dict[str, Any], before: str) -> tuple[bytes, str]:
    """A line and its hash, which is over everything else in it."""
    record = {**record, "before": before}
    digest = _digest(record)
    return (json.dumps({**record, "hash": digest}, ensure_ascii=False) + "\n").encode("utf-8", "replace"), digest


def _digest(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # no POSIX locks here: one process at a time is up to whoever runs it
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)


@dataclass(frozen=True, slots=True)
class Chain:
    """A log whose chain holds: how many lines, from when to when, and the last hash."""

    lines: int
    last_hash: str
    first_time: str | None
    last_time: str | None


def verify(path: Path, anchor: str | None = None) -> Chain:
    """Follow the chain. `anchor` is a hash that was noted earlier: it must still be in the log.

    Raises MissingError without a file, CorruptError that names the first line that does not fit.
    """
    before, number, times = START, 0, []
    is_anchored = anchor is None or anchor == START
    for number, record in enumerate(_records(path), 1):
        digest = record.pop("hash", None)
        if record.get("before") != before:
            raise CorruptError(
                f"{path}, line {number} does not follow from the line before it", "lines were dropped, added or moved"
            )
        if not isinstance(digest, str) or digest != _digest(record):
            raise CorruptError(f"{path}, line {number} was changed after it was written")
        before = digest
        is_anchored = is_anchored or digest == anchor
        times.append(str(record.get("time")))
        del times[1:-1]
    if not is_anchored:
        raise CorruptError(f"{path} does not hold the hash {anchor}", "its end was cut off, or it was written anew")
    return Chain(number, before, times[0] if times else None, times[-1] if times else None)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise MissingError(f"no audit log at {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            try:
                record = json.loads(line)
                if not line.endswith(b"\n") or not isinstance(record, dict):
                    raise ValueError
            except ValueError as error:
                raise CorruptError(f"{path}, line {number} is damaged or cut off") from error
            yield record
