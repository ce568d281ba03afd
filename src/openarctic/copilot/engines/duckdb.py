"""DuckDB for reading: a read-only file, or views over data files; no other file, no extensions, bounded memory, settings locked.

Target: `path` of a database file (with `schema`, or ""), or `files`: a list of `{"table", "reader", "paths"}`, and of
`{"table", "columns": {name: type}, "values": [column, ...]}` for what DuckDB itself cannot read.
"""

from __future__ import annotations

import threading
from typing import Any

THREADS = 2
# Types whose Python values lose something: infinity, years before 1, months of an interval. Their text is exact.
INEXACT = ("DATE", "TIME", "INTERVAL")
KINDS = {
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "datetime",
    "TIMESTAMP_S": "datetime",
    "TIMESTAMP_MS": "datetime",
    "TIMESTAMP_NS": "datetime_ns",
    "TIMESTAMP WITH TIME ZONE": "aware",
}


def connect(target: dict[str, Any], memory_bytes: int | None = None) -> Any:
    """A connection that reads the target and nothing else. Raises duckdb.Error."""
    import duckdb

    config: dict[str, Any] = {
        "threads": THREADS,
        "max_temp_directory_size": "0KiB",
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "allow_community_extensions": False,
    }
    if memory_bytes is not None:
        config["memory_limit"] = f"{memory_bytes // (1 << 20)}MB"
    files = target.get("files")
    connection = duckdb.connect(":memory:" if files else target["path"], read_only=not files, config=config)
    try:
        if files:
            _add_files(connection, files)
        elif target.get("schema"):
            connection.execute(f"SET schema = {_text(_name(target['schema']))}")
        connection.execute("SET enable_external_access = false")
        if not files:
            connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def _add_files(connection: Any, files: list[dict[str, Any]]) -> None:
    for file in files:
        name = _name(file["table"])
        if "values" in file:
            columns = list(file["columns"].items())
            connection.execute(f"CREATE TABLE {name} ({', '.join(f'{_name(c)} {kind}' for c, kind in columns)})")
            rows = ", ".join(f"unnest(CAST(? AS {kind}[]))" for _, kind in columns)
            connection.execute(f"INSERT INTO {name} SELECT {rows}", file["values"])
        else:
            paths = ", ".join(_text(path) for path in file["paths"])
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {file['reader'].replace('PATHS', f'[{paths}]')}")
    allowed = ", ".join(_text(path) for file in files for path in file.get("paths", ()))
    connection.execute(f"SET allowed_paths = [{allowed}]")


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Engine:
    """One connection; see the package's description."""

    def __init__(self, target: dict[str, Any], memory_bytes: int) -> None:
        self.connection = connect(target, memory_bytes)
        self.timer: threading.Timer | None = None
        self.kinds: dict[int, str] = {}

    def start(self, request: dict[str, Any]) -> list[str]:
        """Bind and begin; rows are made as they are fetched."""
        self.timer = threading.Timer(request["timeout"], self.connection.interrupt)
        self.timer.start()
        sql = request["sql"]
        if request.get("plan"):
            return [column[0] for column in self.connection.execute(f"EXPLAIN (FORMAT JSON) {sql}").description]
        described = self.connection.execute(f"DESCRIBE {sql}").fetchall()
        kinds = [row[1] for row in described]
        self.kinds = {i: KINDS[kind] for i, kind in enumerate(kinds) if kind in KINDS}
        if any(kind.startswith(INEXACT) for kind in kinds):
            places = (f"CAST(#{i} AS VARCHAR)" if k.startswith(INEXACT) else f"#{i}" for i, k in enumerate(kinds, start=1))
            sql = f"SELECT {', '.join(places)} FROM ({sql}) AS result"
        self.connection.execute(sql)
        return [row[0] for row in described]

    def fetch(self, count: int) -> list[tuple[Any, ...]]:
        """The next rows."""
        return self.connection.fetchmany(count)

    def finish(self) -> None:
        """Stop the clock; the next statement lets the result of this one go."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def kind_of(error: Exception) -> str:
    """By the class of the error."""
    import duckdb

    text = str(error)
    if isinstance(error, duckdb.InterruptException):
        return "timeout"
    if isinstance(error, duckdb.OutOfMemoryException) or "memory" in text.lower():
        return "capacity"
    if isinstance(error, duckdb.IOException) and "lock" in text:
        return "locked"
    if isinstance(error, duckdb.CatalogException) and "does not exist" in text:
        return "missing"
    return "missing" if isinstance(error, duckdb.BinderException) and "Referenced column" in text else "failed"
