"""DuckDB files: opening for reading, reading the tables of one schema."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openarctic.copilot.databases.database import Database, Query, State
from openarctic.copilot.databases.values import SCANNED_ROWS, VALUE_CHARS, VALUES_PER_COLUMN, linkable, quoted
from openarctic.copilot.engines import duckdb as engine
from openarctic.copilot.schema import Column, ForeignKey, Table
from openarctic.errors import CapacityError, CorruptError, UserError


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
    """See `Kind`."""
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
    for table, comment, is_view, definition in query(
        f"SELECT table_name, comment, false, '' FROM duckdb_tables() WHERE {here} "
        f"UNION ALL SELECT view_name, comment, true, sql FROM duckdb_views() WHERE {here} ORDER BY 1"
    ):
        is_view = is_view and not views_are_tables
        yield Table(
            name=table,
            columns=tuple(
                Column(
                    name=column,
                    type=type_,
                    values=_sample(query, table, column) if values and type_ == "VARCHAR" and not is_view else (),
                    comment=note,
                )
                for column, type_, note in columns.get(table, ())
            ),
            primary_key=primary.get(table, ()),
            foreign_keys=tuple(foreign.get(table, ())),
            row_count=None if is_view else query(f"SELECT count(*) FROM {quoted(table)}")[0][0],
            is_view=is_view,
            definition=definition if is_view else "",
            comment=comment or "",
        )


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


def _sample(query: Query, table: str, column: str) -> tuple[str, ...]:
    # Long values are left where they are.
    short = f"CASE WHEN length({quoted(column)}) <= {VALUE_CHARS} THEN {quoted(column)} END"
    scan = f"SELECT {short} AS value FROM {quoted(table)} LIMIT {SCANNED_ROWS}"
    rows = query(f"SELECT DISTINCT value FROM ({scan}) AS scan LIMIT {VALUES_PER_COLUMN}")
    return linkable(value for (value,) in rows)
