"""SQLite files: opening without a trace, reading tables."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openarctic.copilot.databases.database import Database, Query, State
from openarctic.copilot.databases.values import SCANNED_ROWS, VALUE_CHARS, VALUES_PER_COLUMN, linkable, quoted
from openarctic.copilot.engines import sqlite as engine
from openarctic.copilot.schema import Column, ForeignKey, Table
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError


def sqlite_uri(path: Path) -> tuple[str, State]:
    """How to open a SQLite file so that reading leaves no trace, and the state it must keep meanwhile, if any.

    A reader of a write-ahead-log database (header byte 18 is 2) creates files beside it. Where there is no log, nobody
    writes, and `immutable` does without them, as long as `file_state` stays the same. Raises OSError for a file that has gone.
    """
    before = file_state(path)
    with path.open("rb") as file:
        is_logged = file.read(20)[18:19] == b"\x02"
    if is_logged and not before[2]:
        return f"{path.absolute().as_uri()}?immutable=1", before
    return f"{path.absolute().as_uri()}?mode=ro", None


def file_state(path: Path) -> tuple[int, int, bool]:
    """What changes when somebody writes: time, size, and whether there is a write-ahead log."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, Path(f"{path}-wal").exists()


def state(database: Database) -> State:
    """See `Kind`."""
    return file_state(database.file)


def target(database: Database) -> tuple[dict[str, Any], State]:
    """See `Kind`. Raises MissingError for a file that has gone."""
    try:
        uri, before = sqlite_uri(database.file)
    except OSError as error:
        raise MissingError(f"cannot read {database.place} any more: {error.strerror}", "was it moved?") from error
    return {"kind": "sqlite", "uri": uri}, before


def fingerprint(database: Database) -> tuple[Any, ...]:
    """See `Kind`: the file and, where there is one, its log."""
    log = Path(f"{database.file}-wal")
    parts = [database.file.stat(), *([log.stat()] if log.exists() else [])]
    return tuple(number for s in parts for number in (s.st_ino, s.st_mtime_ns, s.st_size))


def namespace(_database: Database, _query: Query) -> str:
    """See `Kind`: there are no schemas."""
    return ""


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Query]:
    """See `Kind`."""
    path = database.file
    try:
        connection = engine.connect({"uri": sqlite_uri(path)[0]})
    except OSError as error:
        raise UserError(f"cannot open {path}: {error}", "check its permissions") from error
    except sqlite3.Error as error:
        raise _read_error(path, error) from error
    try:
        yield lambda sql: connection.execute(sql).fetchall()
    except sqlite3.DatabaseError as error:
        raise _read_error(path, error) from error
    finally:
        connection.close()


def _read_error(path: Path, error: sqlite3.Error) -> CapacityError | CorruptError | UserError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return CapacityError(f"{path} is locked by another process", "try again in a moment")
    if "unable to open" in text:
        return UserError(f"cannot open {path}: {text}", "check its permissions")
    return CorruptError(f"SQLite cannot read {path}: {text}", "check or restore the file")


def tables(_database: Database, query: Query, values: bool) -> Iterator[Table]:
    """See `Kind`. Comments are those in the text of CREATE TABLE: SQLite keeps it as it was written."""
    listing = query(
        "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    names = {name.lower(): name for name, *_ in listing}
    primary = {name.lower(): _primary_key(query, name) for name, *_ in listing}
    for name, kind, sql in listing:
        try:
            columns = query(f"PRAGMA table_info({quoted(name)})")
        except sqlite3.OperationalError:
            continue  # a view over something that is gone: it cannot be asked either
        is_sampled = values and kind == "table"
        comments = _comments(sql) if kind == "table" else {}
        yield Table(
            name=name,
            columns=tuple(
                Column(
                    name=column,
                    type=type_ or "",
                    values=_sample(query, name, column) if is_sampled else (),
                    comment=comments.get(column.lower(), ""),
                )
                for _, column, type_, *_ in columns
            ),
            primary_key=primary[name.lower()],
            foreign_keys=tuple(_foreign_keys(query, name, names, primary)),
            row_count=query(f"SELECT count(*) FROM {quoted(name)}")[0][0] if kind == "table" else None,
            is_view=kind == "view",
            comment=comments.get("", ""),
            definition=sql if kind == "view" else "",
        )


def _comments(sql: str | None) -> dict[str, str]:
    """The comment behind (or before) each column by its lower-case name, and under "" that of the table."""
    if not sql or not ("--" in sql or "/*" in sql):
        return {}
    import sqlglot
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(sql, read="sqlite")
    except (sqlglot.errors.SqlglotError, RecursionError):
        return {}
    found = {definition.name.lower(): _text_of(definition) for definition in tree.find_all(exp.ColumnDef)}
    head = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    return {**found, "": _text_of(head)} if head is not None else found


def _text_of(node: Any) -> str:
    parts = [comment.strip() for part in (node, node.this) for comment in getattr(part, "comments", None) or []]
    return " ".join(parts)


def _primary_key(query: Query, table: str) -> tuple[str, ...]:
    try:
        rows = query(f"PRAGMA table_info({quoted(table)})")
    except sqlite3.OperationalError:
        return ()
    return tuple(row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5])


def _foreign_keys(query: Query, table: str, names: dict[str, str], primary: dict[str, tuple[str, ...]]) -> Iterator[ForeignKey]:
    for _, _, other, column, to_column, *_ in query(f"PRAGMA foreign_key_list({quoted(table)})"):
        if other.lower() not in names:
            continue
        to = to_column or next(iter(primary[other.lower()]), None)
        if to:
            yield ForeignKey(column=column, table=names[other.lower()], to_column=to)


def _sample(query: Query, table: str, column: str) -> tuple[str, ...]:
    # Long values are left where they are.
    short = f"CASE WHEN typeof({quoted(column)}) = 'text' AND length({quoted(column)}) <= {VALUE_CHARS} THEN {quoted(column)} END"
    scan = f"SELECT {short} AS value FROM {quoted(table)} LIMIT {SCANNED_ROWS}"
    rows = query(f"SELECT DISTINCT value FROM ({scan}) AS scan LIMIT {VALUES_PER_COLUMN}")
    return linkable(value for (value,) in rows)
