"""DuckDB files: opening for reading, reading the tables of one schema."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openarctic.copilot.databases.database import Database, Query, State
from openarctic.copilot.databases.values import SCANNED_ROWS, VALUE_CHARS, VALUES_PER_COLUMN, linkable, quoted
from openarctic.copilot.engines import duckdb as engine
from openarctic.copilot.schema import Column, ForeignKey, Table
from openarctic.errors import CapacityError, CorruptError, UserError

COUNTED_AT_ONCE = 100
READ_WHOLE_ROWS = 5000
# Connections of one process to a file share an instance, and its configuration is locked: the next one waits until it has closed.
_ALONE = threading.RLock()


def target(database: Database) -> tuple[dict[str, Any], State]:
    """See `Kind`: DuckDB locks the file itself."""
    return {"kind": "duckdb", "path": str(database.file), "schema": database.schema}, None


def state(_database: Database) -> State:
    """See `Kind`."""
    return None


def fingerprint(database: Database) -> tuple[Any, ...]:
    """See `Kind`: the file and, where there is one, its log."""
    log = Path(f"{database.file}.wal")
    parts = [database.file.stat(), *([log.stat()] if log.exists() else [])]
    return tuple(number for s in parts for number in (s.st_ino, s.st_mtime_ns, s.st_size))


def namespace(database: Database, _query: Query) -> str:
    """See `Kind`."""
    return database.schema


def is_lock_error(message: str) -> bool:
    """Whether DuckDB says that another process holds the file ("block" is another matter)."""
    return re.search(r"\block(ed)?\b", message, re.IGNORECASE) is not None


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Query]:
    """See `Kind`. Threads take turns."""
    with _ALONE:
        yield from _reading(database)


def _reading(database: Database) -> Iterator[Query]:
    import duckdb

    try:
        connection = engine.connect(target(database)[0])
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        if is_lock_error(text):
            raise CapacityError(f"{database.place} is locked by another process", "close it there and try again") from error
        if isinstance(error, duckdb.CatalogException) and database.schema:
            raise UserError(f"{database.place} has no schema {database.schema}", "check ?schema=") from error
        raise CorruptError(f"DuckDB cannot read {database.place}: {text}", "check or restore the file") from error
    try:
        yield lambda sql: connection.execute(sql).fetchall()
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        raise CorruptError(f"DuckDB cannot read {database.place}: {text}", "check or restore the file") from error
    finally:
        connection.close()


def tables(_database: Database, query: Query, values: bool, views_are_tables: bool = False) -> Iterator[Table]:
    """See `Kind`. The tables of the schema that the connection is in; `views_are_tables` has views counted and sampled."""
    here = "schema_name = current_schema() AND database_name = current_database() AND NOT internal"
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for table, column, type_, comment in query(
        f"SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE {here} ORDER BY table_name, column_index"
    ):
        columns.setdefault(table, []).append((column, type_, comment or ""))
    primary, foreign = _keys(query)
    listing = [
        (table, comment or "", is_view and not views_are_tables, definition)
        for table, comment, is_view, definition in query(
            f"SELECT table_name, comment, false, '' FROM duckdb_tables() WHERE {here} "
            f"UNION ALL SELECT view_name, comment, true, sql FROM duckdb_views() WHERE {here} ORDER BY 1"
        )
    ]
    counts = _counts(query, [table for table, _, is_view, _ in listing if not is_view])
    for table, comment, is_view, definition in listing:
        own = columns.get(table, [])
        texts = [column for column, type_, _ in own if type_ == "VARCHAR"]
        samples = _samples(query, table, texts, counts[table]) if values and texts and not is_view else {}
        yield Table(
            name=table,
            columns=tuple(Column(name=c, type=type_, values=samples.get(c, ()), comment=note) for c, type_, note in own),
            primary_key=primary.get(table, ()),
            foreign_keys=tuple(foreign.get(table, ())),
            row_count=counts.get(table),
            is_view=is_view,
            definition=definition if is_view else "",
            comment=comment,
        )


def _counts(query: Query, tables: Sequence[str]) -> dict[str, int]:
    """Rows of every table, many tables a statement."""
    counts: dict[str, int] = {}
    for start in range(0, len(tables), COUNTED_AT_ONCE):
        some = tables[start : start + COUNTED_AT_ONCE]
        parts = (f"SELECT {number}, count(*) FROM {quoted(table)}" for number, table in enumerate(some))
        counts |= {some[number]: count for number, count in query(" UNION ALL ".join(parts))}
    return counts


def _keys(query: Query) -> tuple[dict[str, tuple[str, ...]], dict[str, list[ForeignKey]]]:
    primary: dict[str, tuple[str, ...]] = {}
    foreign: dict[str, list[ForeignKey]] = {}
    for table, kind, names, other, other_names in query(
        "SELECT table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        "FROM duckdb_constraints() WHERE schema_name = current_schema() AND database_name = current_database()"
    ):
        if kind == "PRIMARY KEY":
            primary[table] = tuple(names)
        elif kind == "FOREIGN KEY":
            foreign.setdefault(table, []).extend(
                ForeignKey(column=mine, table=other, to_column=its) for mine, its in zip(names, other_names, strict=True)
            )
    return primary, foreign


def _samples(query: Query, table: str, columns: Sequence[str], count: int) -> dict[str, tuple[str, ...]]:
    """Distinct short values of every column; long values are left where they are. Small tables are read in one statement."""
    short = [f"CASE WHEN length({quoted(c)}) <= {VALUE_CHARS} THEN {quoted(c)} END AS value" for c in columns]
    if count <= READ_WHOLE_ROWS:
        rows = query(f"SELECT {', '.join(short)} FROM {quoted(table)}")
        found = zip(*rows, strict=True) if rows else iter([()] * len(columns))
        return {
            column: linkable(dict.fromkeys(values))[:VALUES_PER_COLUMN] for column, values in zip(columns, found, strict=True)
        }
    samples = {}
    for column, value in zip(columns, short, strict=True):
        scan = f"SELECT {value} FROM {quoted(table)} LIMIT {SCANNED_ROWS}"
        rows = query(f"SELECT DISTINCT value FROM ({scan}) AS scan LIMIT {VALUES_PER_COLUMN}")
        samples[column] = linkable(value for (value,) in rows)
    return samples
