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
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from openarctic.copilot.guard import Checked
from openarctic.copilot.principal import Principal
from openarctic.copilot.schema import Schema
from openarctic.errors import CorruptError, MissingError, OpenArcticError, RefusedError, UserError

START = "0" * 64  # what the first line holds as the hash before it
MAX_LINE_BYTES = 1 << 20
MAX_SQL_CHARS = 20_000
_WORDS_OR_SIGNS = re.compile(r"[^\W\d][\w$]*(?:\s+[^\W\d]\w*)*|[^\w\s'\"`$]+")
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

    def fail(self, error: BaseException) -> None:
        """It ended with an error: its type is kept, its message may hold values."""
        self.status = "refused" if isinstance(error, RefusedError) else "failed"
        if isinstance(error, OpenArcticError):
            self.error = error.type
        else:
            self.error = "interrupted" if isinstance(error, KeyboardInterrupt) else OpenArcticError.type

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
    """The shape of a statement: words and signs alone; anything else is a value and becomes `?`, and so do quoted names that the
    schema does not have. Comments are dropped. Nothing need be parsed, so this holds for what the guard could not understand.
    """
    if len(sql) > MAX_SQL_CHARS:
        return f"({len(sql)} characters)"
    try:
        tokens = Dialect.get_or_raise(dialect).tokenize(sql)
    except SqlglotError:
        return _UNREADABLE
    known = set() if schema is None else {t.name.lower() for t in schema.tables}.union(*(t.column_names for t in schema.tables))
    parts: list[str] = []
    end = -1
    for token in tokens:
        shape = _shape(token, sql[token.start : token.end + 1], known)
        if token.start > end + 1 and parts:
            parts.append(" ")
        elif parts and parts[-1] == "?" and (shape == "?" or shape[0].isalnum()):
            shape = ""  # the rest of a number: `0xFF` is read as two tokens
        parts.append(shape or "?")
        end = token.end
    return re.sub(r"\?+", "?", "".join(parts))


def _shape(token: Token, written: str, known: set[str]) -> str:
    if token.token_type == TokenType.IDENTIFIER:
        return written if token.text.lower() in known else '"?"'
    is_value = token.token_type == TokenType.NUMBER or token.token_type.name.endswith("STRING")
    return "?" if is_value or not _WORDS_OR_SIGNS.fullmatch(written) else written


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
