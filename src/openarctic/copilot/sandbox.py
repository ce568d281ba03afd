"""The child process that runs statements: engine locks inside, killed from outside. Run as a file, never imported.

It imports as little as possible so that it is ready in a moment. Requests and replies are JSON, one a line; when standard
input ends (the parent is gone) the process ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

MAX_VALUE_BYTES = 10_000_000  # characters or bytes of one value in SQLite
FORBIDDEN_SQLITE_FUNCTIONS = {
    "load_extension", "readfile", "writefile", "edit", "zeroblob", "randomblob", "fts3_tokenizer", "printf", "format",
    "hex", "replicate", "sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_source_id", "eval",
}  # fmt: skip
SQLITE_SELECT, SQLITE_READ, SQLITE_FUNCTION, SQLITE_RECURSIVE = 21, 20, 31, 33


def main() -> None:
    """Arguments: dialect, path (a URI for SQLite), memory bytes."""
    dialect, path, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    _limit_memory(memory)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)  # nothing but replies reaches the parent
    try:
        engine = _Sqlite(path) if dialect == "sqlite" else _DuckDB(path, memory)
    except Exception as error:
        out.write(json.dumps({"ready": False, "error": str(error)}) + "\n")
        out.flush()
        return
    out.write('{"ready": true}\n')
    out.flush()
    while True:
        request = json.loads(requests.get())
        out.write(_reply(engine, request) + "\n")
        out.flush()


def _read_requests(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _limit_memory(memory: int) -> None:
    try:
        import resource

        # Threads and mapped libraries need address space of their own.
        resource.setrlimit(resource.RLIMIT_AS, (memory + (2 << 30), memory + (2 << 30)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # the engines' own limits and the parent's kill remain


def _reply(engine: _Sqlite | _DuckDB, request: dict) -> str:
    started = time.perf_counter()
    try:
        columns, rows = engine.run(request)
        truncated = len(rows) > request["limit"]
        encoded = json.dumps(
            {
                "columns": columns,
                "rows": [[_cell(v) for v in row] for row in rows[: request["limit"]]],
                "truncated": truncated,
                "seconds": time.perf_counter() - started,
            }
        )
        if len(encoded) > request["max_bytes"]:
            return json.dumps({"error": "capacity", "message": f"the result has more than {request['max_bytes']} bytes"})
        return encoded
    except MemoryError:
        return json.dumps({"error": "capacity", "message": "the query needs more memory than it may use"})
    except Exception as error:
        text = (str(error).splitlines() or ["failed"])[0][:500]
        kind = "failed"
        if "interrupt" in text.lower():
            kind, text = "timeout", f"the query took longer than {request['timeout']:g} s"
        elif "memory" in text.lower() or "too big" in text.lower():
            kind = "capacity"
        return json.dumps({"error": kind, "message": text})


def _cell(value: object) -> object:
    """What JSON can carry: numbers, text, null; bytes as hex, dates as ISO text, decimals as exact numbers."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if hasattr(value, "isoformat"):
        return value.isoformat(" ") if hasattr(value, "hour") and hasattr(value, "year") else value.isoformat()
    if isinstance(value, list | tuple):
        return [_cell(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _cell(v) for k, v in value.items()}
    if type(value).__name__ == "Decimal":
        number: Any = value
        return int(number) if number == number.to_integral_value() else float(number)
    return str(value)


class _Sqlite:
    """SQLite's own locks: read-only file, query_only, an authorizer for tables and functions, a progress handler."""

    def __init__(self, uri: str) -> None:
        import sqlite3

        self.connection = sqlite3.connect(uri, uri=True, timeout=2)
        self.connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.connection.execute("PRAGMA query_only = ON")
        self.connection.execute("PRAGMA trusted_schema = OFF")
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self.real = {
            name.lower() for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        }
        self.ok, self.deny = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY
        self.tables: set[str] = set()
        self.connection.set_authorizer(self._authorize)

    def _authorize(self, action: int, first: str | None, second: str | None, _db: str | None, source: str | None) -> int:
        if action in (SQLITE_SELECT, SQLITE_RECURSIVE):
            return self.ok
        if action == SQLITE_FUNCTION:
            return self.deny if (second or "").lower() in FORBIDDEN_SQLITE_FUNCTIONS else self.ok
        if action == SQLITE_READ:
            name = (first or "").lower()
            is_real = name in self.real or name.startswith("sqlite_")
            allowed = not is_real or name in self.tables or (source or "").lower() in self.tables
            return self.ok if allowed else self.deny
        return self.deny

    def run(self, request: dict) -> tuple[list[str], list[tuple]]:
        self.tables = set(request["tables"])
        deadline = time.monotonic() + request["timeout"]
        self.connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10_000)
        cursor = self.connection.execute(request["sql"])
        rows = cursor.fetchmany(request["limit"] + 1)
        columns = [c[0] for c in cursor.description or ()]
        cursor.close()
        return columns, rows


class _DuckDB:
    """DuckDB's own locks: read-only file, no files, no extensions, bounded memory, settings locked."""

    def __init__(self, path: str, memory: int) -> None:
        import duckdb

        self.connection = duckdb.connect(
            path,
            read_only=True,
            config={
                "threads": 2,
                "memory_limit": f"{memory // (1 << 20)}MB",
                "max_temp_directory_size": "0KiB",
                "autoload_known_extensions": False,
                "autoinstall_known_extensions": False,
                "allow_community_extensions": False,
            },
        )
        for setting in (
            "enable_external_access = false",
            "disabled_filesystems = 'LocalFileSystem'",
            "lock_configuration = true",
        ):
            self.connection.execute(f"SET {setting}")

    def run(self, request: dict) -> tuple[list[str], list[tuple]]:
        timer = threading.Timer(request["timeout"], self.connection.interrupt)
        timer.start()
        try:
            self.connection.execute(request["sql"])
            rows = self.connection.fetchmany(request["limit"] + 1)
            return [c[0] for c in self.connection.description or ()], rows
        finally:
            timer.cancel()


if __name__ == "__main__":
    main()
