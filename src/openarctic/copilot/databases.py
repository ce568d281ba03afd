"""Opening a database for reading, and reading its schema: DuckDB and SQLite files.

A `Database` is only a checked description (dialect and path); connections are made where they are used, read-only
every time, so that nothing holds a file open longer than needed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError

VALUES_PER_COLUMN = 4000
VALUE_CHARS = 60
BUSY_TIMEOUT_S = 2.0
SQLITE_MAGIC = b"SQLite format 3\x00"
DUCKDB_MAGIC = b"DUCK"

Rows = list[tuple[Any, ...]]
FileState = tuple[int, int, bool]
Query = Callable[[str], Rows]


@dataclass(frozen=True, slots=True)
class Database:
    """A database file that was looked at: `dialect` is 'duckdb' or 'sqlite'."""

    dialect: str
    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def open_database(url_or_path: str | Path) -> Database:
    """Check a path or URL (`duckdb:///f.db`, `sqlite:///f.db`) and tell which engine it belongs to.

    Raises MissingError (no such file), UserError (directory, empty, another kind of file), CorruptError.
    """
    path = _path_of(str(url_or_path))
    if not path.exists():
        raise MissingError(f"no database at {path}", "give the path of a DuckDB or SQLite file")
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a database", "give a DuckDB or SQLite file in it")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file", "give the path of a DuckDB or SQLite file")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if not head:
        raise UserError(f"{path} is empty", "an empty file has no tables to ask about")
    if head.startswith(SQLITE_MAGIC):
        return Database("sqlite", path)
    if head[8:12] == DUCKDB_MAGIC:
        return Database("duckdb", path)
    raise UserError(
        f"{path} is neither a DuckDB nor a SQLite database",
        "its first bytes are those of another kind of file",
    )


def _path_of(text: str) -> Path:
    if "://" not in text:
        return Path(text).expanduser()
    parts = urlsplit(text)
    if parts.scheme not in ("duckdb", "sqlite", "file"):
        raise UserError(f"unknown database URL scheme {parts.scheme!r}", "use duckdb:///FILE or sqlite:///FILE")
    path = unquote(parts.netloc + parts.path)
    # SQLAlchemy's rule: three slashes are a relative path, four an absolute one; an absolute path that exists wins.
    absolute = Path("/" + path.lstrip("/"))
    relative = Path(path.lstrip("/"))
    return absolute if absolute.exists() or path.startswith("//") or not relative.exists() else relative


def read_schema(database: Database, *, values: bool = True) -> Schema:
    """Tables, columns, keys, row counts and, unless `values` is False, samples of text values.

    Raises UserError when there is no table, CorruptError when the engine cannot read the file, CapacityError when
    another process holds it locked.
    """
    with _reading(database) as query:
        tables = tuple(_READERS[database.dialect](query, values))
    if not tables:
        raise UserError(f"{database.path} has no tables", "there is nothing to ask about")
    return Schema(dialect=database.dialect, tables=tables)


@contextlib.contextmanager
def _reading(database: Database) -> Iterator[Query]:
    opener = _sqlite_reader if database.dialect == "sqlite" else _duckdb_reader
    with opener(database.path) as query:
        yield query


def sqlite_uri(path: Path) -> tuple[str, FileState | None]:
    """How to open a SQLite file so that reading leaves no trace, and the state it must keep meanwhile, if any.

    A reader of a write-ahead-log database (header byte 18 is 2) creates files beside it. Where there is no log, nobody
    writes, and `immutable` does without them, as long as `file_state` stays the same. Raises OSError for a file that has gone.
    """
    state = file_state(path)
    with path.open("rb") as file:
        is_logged = file.read(20)[18:19] == b"\x02"
    if is_logged and not state[2]:
        return f"{path.absolute().as_uri()}?immutable=1", state
    return f"{path.absolute().as_uri()}?mode=ro", None


def file_state(path: Path) -> FileState:
    """What changes when somebody writes: time, size, and whether there is a write-ahead log."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, Path(f"{path}-wal").exists()


@contextlib.contextmanager
def _sqlite_reader(path: Path) -> Iterator[Query]:
    try:
        connection = sqlite3.connect(sqlite_uri(path)[0], uri=True, timeout=BUSY_TIMEOUT_S)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"cannot open {path}: {error}", "check its permissions") from error
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        yield lambda sql: connection.execute(sql).fetchall()
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise CapacityError(f"{path} is locked by another process", "try again in a moment") from error
        raise CorruptError(f"SQLite cannot read {path}: {error}", "check or restore the file") from error
    except sqlite3.DatabaseError as error:
        raise CorruptError(f"SQLite cannot read {path}: {error}", "check or restore the file") from error
    finally:
        connection.close()


@contextlib.contextmanager
def _duckdb_reader(path: Path) -> Iterator[Query]:
    import duckdb

    try:
        connection = duckdb.connect(str(path), read_only=True, config={"threads": 2})
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        if is_lock_error(text):
            raise CapacityError(f"{path} is locked by another process", "close it there and try again") from error
        raise CorruptError(f"DuckDB cannot read {path}: {text}", "check or restore the file") from error
    try:
        connection.execute("SET enable_external_access = false")
        yield lambda sql: connection.execute(sql).fetchall()
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        raise CorruptError(f"DuckDB cannot read {path}: {text}", "check or restore the file") from error
    finally:
        connection.close()


def is_lock_error(message: str) -> bool:
    """Whether an engine says that another process holds the file ("block" is another matter)."""
    return re.search(r"\block(ed)?\b", message, re.IGNORECASE) is not None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sqlite_tables(query: Query, values: bool) -> Iterator[Table]:
    listing = query(
        "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    names = {name.lower(): name for name, *_ in listing}
    primary = {name.lower(): _sqlite_primary_key(query, name) for name, *_ in listing}
    for name, kind, sql in listing:
        try:
            columns = query(f"PRAGMA table_info({_quoted(name)})")
        except sqlite3.OperationalError:
            continue  # a view over something that is gone: it cannot be asked either
        keys = []
        for _, _, other, column, to_column, *_ in query(f"PRAGMA foreign_key_list({_quoted(name)})"):
            if other.lower() not in names:
                continue
            target = to_column or next(iter(primary[other.lower()]), None)
            if target:
                keys.append(ForeignKey(column=column, table=names[other.lower()], to_column=target))
        yield Table(
            name=name,
            columns=tuple(
                Column(
                    name=column,
                    type=type_ or "",
                    values=_sample(query, name, column) if values and kind == "table" else (),
                )
                for _, column, type_, *_ in columns
            ),
            primary_key=primary[name.lower()],
            foreign_keys=tuple(keys),
            row_count=query(f"SELECT count(*) FROM {_quoted(name)}")[0][0] if kind == "table" else None,
            is_view=kind == "view",
            definition=sql if kind == "view" else "",
        )


def _sqlite_primary_key(query: Query, table: str) -> tuple[str, ...]:
    try:
        rows = query(f"PRAGMA table_info({_quoted(table)})")
    except sqlite3.OperationalError:
        return ()
    return tuple(row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5])


def _sample(query: Query, table: str, column: str) -> tuple[str, ...]:
    # A bounded scan: the first rows of a huge table stand for it.
    rows = query(
        f"SELECT DISTINCT {_quoted(column)} FROM (SELECT {_quoted(column)} FROM {_quoted(table)} LIMIT 50000) "
        f"LIMIT {VALUES_PER_COLUMN}"
    )
    return tuple(v for (v,) in rows if isinstance(v, str) and is_linkable(v))


def is_linkable(value: str) -> bool:
    """Worth finding in a question: a short text that is not just a number, date or code of digits."""
    return 1 <= len(value) <= VALUE_CHARS and not re.fullmatch(r"[\d.\-:/ ]+", value)


def _duckdb_tables(query: Query, values: bool) -> Iterator[Table]:
    listing = query(
        "SELECT table_name, table_type FROM information_schema.tables "
        "WHERE table_schema = 'main' AND table_catalog = current_database() ORDER BY table_name"
    )
    columns: dict[str, list[tuple[str, str]]] = {}
    for table, column, type_ in query(
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'main' AND table_catalog = current_database() ORDER BY table_name, ordinal_position"
    ):
        columns.setdefault(table, []).append((column, type_))
    primary: dict[str, tuple[str, ...]] = {}
    foreign: dict[str, list[ForeignKey]] = {}
    for table, kind, names, other, other_names in query(
        "SELECT table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        "FROM duckdb_constraints() WHERE schema_name = 'main' AND database_name = current_database()"
    ):
        if kind == "PRIMARY KEY":
            primary[table] = tuple(names)
        elif kind == "FOREIGN KEY":
            foreign.setdefault(table, []).extend(
                ForeignKey(column=mine, table=other, to_column=its) for mine, its in zip(names, other_names, strict=True)
            )
    definitions = dict(
        query("SELECT view_name, sql FROM duckdb_views() WHERE schema_name = 'main' AND database_name = current_database()")
    )
    for table, kind in listing:
        is_view = kind == "VIEW"
        yield Table(
            name=table,
            columns=tuple(
                Column(
                    name=column,
                    type=type_,
                    values=_sample(query, table, column) if values and type_ == "VARCHAR" and not is_view else (),
                )
                for column, type_ in columns.get(table, ())
            ),
            primary_key=primary.get(table, ()),
            foreign_keys=tuple(foreign.get(table, ())),
            row_count=None if is_view else query(f"SELECT count(*) FROM {_quoted(table)}")[0][0],
            is_view=is_view,
            definition=definitions.get(table, "") if is_view else "",
        )


_READERS: dict[str, Callable[[Query, bool], Iterator[Table]]] = {
    "sqlite": _sqlite_tables,
    "duckdb": _duckdb_tables,
}
