"""Data files as tables: CSV, Parquet and JSON are read by DuckDB where they lie, sheets of Excel books are loaded.

A file is a table named after it. Files whose names differ in numbers alone are parts of one table: `orders_2023.csv` and
`orders_2024.csv` are `orders`; CSV parts must have the same first line. The connection may open these files and no others.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openarctic.copilot.databases import duckdb as duckdb_files
from openarctic.copilot.databases import excel
from openarctic.copilot.databases.database import Database, DataTable, Query, State
from openarctic.copilot.engines import duckdb as engine
from openarctic.copilot.schema import Table
from openarctic.errors import CapacityError, CorruptError, MissingError, UserError

FORMS = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".xlsx": "excel", ".xlsm": "excel",
}  # fmt: skip
ENDINGS = tuple(FORMS)
MAX_FILES = 10_000
# Types are told from all lines up to this size; beyond, from DuckDB's sample of the first lines.
WHOLE_SAMPLE_BYTES = 64 << 20
READERS = {
    "csv": "read_csv(PATHS, union_by_name = true, sample_size = {sample})",
    "json": "read_json(PATHS, union_by_name = true, sample_size = {sample})",
    "parquet": "read_parquet(PATHS, union_by_name = true)",
}
DEFAULT_SAMPLE = 20_480
PART_NAMES = ("", "part", "data", "chunk", "file")


def is_pattern(path: Path) -> bool:
    """Whether the path is a glob and not the name of a file."""
    return glob.has_magic(str(path)) and not path.exists()


def form_of(path: Path) -> str | None:
    """csv, parquet, json or excel by the file's ending (`.gz` behind it is allowed for text), or None."""
    name = path.name.lower()
    form = FORMS.get(Path(name.removesuffix(".gz")).suffix)
    return None if name.endswith(".gz") and form not in ("csv", "json") else form


def open_pattern(pattern: Path) -> Database:
    """The data files that match. Raises MissingError where none does."""
    found = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    wanted = [path for path in found if path.is_file() and form_of(path)]
    if not wanted:
        raise MissingError(f"no data file matches {pattern}", f"data files end in {', '.join(ENDINGS)}")
    return open_files(wanted, pattern)


def open_folder(folder: Path) -> Database:
    """The data files in a folder, without its sub-folders. Raises UserError where there are none."""
    try:
        wanted = sorted(path for path in folder.iterdir() if path.is_file() and form_of(path) and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error
    if not wanted:
        hint = f"give a DuckDB or SQLite file in it, or a folder of files that end in {', '.join(ENDINGS)}"
        raise UserError(f"{folder} is a directory, not a database, and has no data files", hint)
    return open_files(wanted, folder)


def open_files(paths: Sequence[Path], place: Path) -> Database:
    """Tables of these files. `place` is what the user named."""
    if len(paths) > MAX_FILES:
        raise UserError(f"{place} has {len(paths)} data files, the limit is {MAX_FILES}", "name fewer, or a part of them")
    taken: dict[str, str] = {}
    tables = []
    for table in _tables_of([path.absolute() for path in paths]):
        name = _free_name(table.name, taken)
        tables.append(DataTable(name, table.form, table.paths, table.sheet))
    return Database("duckdb", place, kind="files", name=place.stem or place.name, url=f"file:///{place}", files=tuple(tables))


def _free_name(wanted: str, taken: dict[str, str]) -> str:
    name, number = wanted, 2
    while name.lower() in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken[name.lower()] = name
    return name


def _tables_of(paths: Iterable[Path]) -> Iterator[DataTable]:
    """The files in groups: parts of one table together."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        form = form_of(path) or ""
        stem = _stem(path)
        alike = re.sub(r"\d+", "#", stem.lower())
        is_part = "#" in alike and form != "excel"
        first_line = _first_line(path) if form == "csv" and is_part else ""
        key = (form, str(path.parent), alike if is_part else stem, path.name.lower().removeprefix(stem.lower()), first_line)
        groups.setdefault(key, []).append(path)
    for (form, *_), group in groups.items():
        if form == "excel":
            yield from (DataTable(name, form, (path,), sheet) for path in group for name, sheet in _sheets(path))
        else:
            yield DataTable(_group_name(group), form, tuple(group))


def _stem(path: Path) -> str:
    return Path(re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)).stem


def _group_name(group: Sequence[Path]) -> str:
    if len(group) == 1:
        return table_name(_stem(group[0]))
    common = re.sub(r"[\W_]*\d[\d\W_]*", "_", _stem(group[0])).strip("_")
    return table_name(group[0].parent.name if common.lower() in PART_NAMES else common)


def table_name(text: str) -> str:
    """A name that needs no quotes: what is no letter or digit becomes a line below."""
    name = re.sub(r"\W+", "_", text).strip("_")
    return f"t_{name}" if not name or name[0].isdigit() else name


def _sheets(path: Path) -> list[tuple[str, str]]:
    sheets = excel.sheet_names(path)
    stem = _stem(path)
    return [(table_name(stem if len(sheets) == 1 else f"{stem}_{sheet}"), sheet) for sheet in sheets]


def _first_line(path: Path) -> str:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8", "replace").strip()
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}", "check the file and its permissions") from error


def target(database: Database) -> tuple[dict[str, Any], State]:
    """See `Kind`. Raises MissingError for a file that has gone, CorruptError or CapacityError for a book that cannot be read."""
    try:
        before = state(database)
    except OSError as error:
        raise MissingError(f"cannot read {error.filename} any more: {error.strerror}", "was it moved?") from error
    return {"kind": "duckdb", "files": [_file_target(table) for table in database.files]}, before


def _file_target(table: DataTable) -> dict[str, Any]:
    if table.form == "excel":
        columns, values = excel.read_sheet(table.paths[0], table.sheet)
        return {"table": table.name, "columns": columns, "values": values}
    size = sum(path.stat().st_size for path in table.paths)
    reader = READERS[table.form].format(sample=-1 if size <= WHOLE_SAMPLE_BYTES else DEFAULT_SAMPLE)
    return {"table": table.name, "reader": reader, "paths": [str(path) for path in table.paths]}


def state(database: Database) -> State:
    """See `Kind`: time and size of every file."""
    parts = [path.stat() for table in database.files for path in table.paths]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in parts)


def fingerprint(database: Database) -> tuple[Any, ...]:
    """See `Kind`: the files and how they make up tables."""
    names = [[table.name, table.form, table.sheet, *map(str, table.paths)] for table in database.files]
    return (names, [list(s) for s in state(database) or ()])


def namespace(_database: Database, _query: Query) -> str:
    """See `Kind`."""
    return ""


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Query]:
    """See `Kind`."""
    import duckdb

    told, _ = target(database)
    try:
        connection = engine.connect(told)
    except duckdb.Error as error:
        raise _read_error(database, error) from error
    try:
        yield lambda sql: connection.execute(sql).fetchall()
    except duckdb.Error as error:
        raise _read_error(database, error) from error
    finally:
        connection.close()


def _read_error(database: Database, error: Exception) -> CorruptError | CapacityError:
    text = " ".join(str(error).splitlines()[:2])
    if "memory" in text.lower():
        return CapacityError(f"{database.place} needs more memory than there is: {text}", "name fewer files")
    return CorruptError(f"DuckDB cannot read {database.place}: {text}", "check the file; text must be UTF-8")


def tables(database: Database, query: Query, values: bool) -> Iterator[Table]:
    """See `Kind`. They are views over the files, but tables to whoever asks."""
    yield from duckdb_files.tables(database, query, values, views_are_tables=True)
