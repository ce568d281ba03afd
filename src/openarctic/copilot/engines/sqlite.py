"""SQLite for reading: `mode=ro` or `immutable`, query_only, an authorizer for tables and functions, a progress handler.

Target: `uri` (see `databases.sqlite.sqlite_uri`).
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from typing import Any

BUSY_TIMEOUT_S = 2.0
MAX_VALUE_BYTES = 10_000_000  # characters or bytes of one value
CHECK_EVERY_OPCODES = 10_000
FORBIDDEN_FUNCTIONS = {
    "load_extension", "readfile", "writefile", "edit", "zeroblob", "randomblob", "fts3_tokenizer", "printf", "format",
    "hex", "replicate", "sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_source_id", "eval",
}  # fmt: skip
SELECT, READ, FUNCTION, RECURSIVE = 21, 20, 31, 33


def connect(target: dict[str, Any]) -> sqlite3.Connection:
    """A connection that cannot write; text that is not UTF-8 is shown with replacement characters."""
    connection = sqlite3.connect(target["uri"], uri=True, timeout=BUSY_TIMEOUT_S)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _sha256(value: object) -> str | None:
    """SHA-256 of a text in hex, as DuckDB has it; NULL stays NULL."""
    return None if value is None else hashlib.sha256(str(value).encode("utf-8", "replace")).hexdigest()


class Engine:
    """One connection; see the package's description."""

    def __init__(self, target: dict[str, Any], _memory_bytes: int) -> None:
        self.connection = connect(target)
        self.connection.create_function("sha256", 1, _sha256, deterministic=True)  # for the masks of a policy
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        listing = self.connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        self.real = {name.lower() for (name,) in listing}
        self.tables: set[str] = set()
        self.cursor: sqlite3.Cursor | None = None
        self.connection.set_authorizer(self._authorize)

    def _authorize(self, action: int, first: str | None, second: str | None, _db: str | None, source: str | None) -> int:
        if action in (SELECT, RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == FUNCTION:
            return sqlite3.SQLITE_DENY if (second or "").lower() in FORBIDDEN_FUNCTIONS else sqlite3.SQLITE_OK
        if action == READ:
            name = (first or "").lower()
            is_real = name in self.real or name.startswith("sqlite_")
            allowed = not is_real or name in self.tables or (source or "").lower() in self.tables
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_DENY

    def start(self, request: dict[str, Any]) -> list[str]:
        """Compile and begin."""
        self.tables = set(request["tables"])
        deadline = time.monotonic() + request["timeout"]
        self.connection.set_progress_handler(lambda: int(time.monotonic() > deadline), CHECK_EVERY_OPCODES)
        self.cursor = self.connection.execute(("EXPLAIN QUERY PLAN " if request.get("plan") else "") + request["sql"])
        return [column[0] for column in self.cursor.description or ()]

    def fetch(self, count: int) -> list[tuple[Any, ...]]:
        """The next rows."""
        assert self.cursor is not None
        return self.cursor.fetchmany(count)

    def finish(self) -> None:
        """Let the statement go, and with it the lock that it holds."""
        if self.cursor is not None:
            self.cursor.close()
            self.cursor = None


def kind_of(error: Exception) -> str:
    """By SQLite's own words: it has no codes for these."""
    text = str(error).lower()
    if "interrupted" in text:
        return "timeout"
    if "too big" in text or "memory" in text:
        return "capacity"
    if "locked" in text or "busy" in text:
        return "locked"
    return "missing" if text.startswith(("no such table", "no such column")) else "failed"
