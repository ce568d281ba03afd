"""Sheets of Excel books: the first row that holds anything names the columns, every column gets one type.

openpyxl reads them, because DuckDB's own reader is an extension that has to be fetched. Formulas give the value that was saved.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openarctic.errors import CapacityError, CorruptError, MissingError

MAX_UNPACKED_BYTES = 512 << 20
MAX_CELLS = 5_000_000

Sheet = tuple[dict[str, str], list[list[Any]]]


@contextlib.contextmanager
def _book(path: Path) -> Iterator[Any]:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingError("reading Excel files needs openpyxl", "pip install 'openarctic[excel]'") from error
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            limit = MAX_UNPACKED_BYTES >> 20
            raise CapacityError(f"{path} unpacks to {unpacked >> 20} MiB, the limit is {limit}", "save its sheets as CSV")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, SyntaxError) as error:
        raise CorruptError(f"{path} is not an Excel book that can be read: {error}", "save it again as .xlsx") from error
    try:
        yield book
    finally:
        book.close()


def sheet_names(path: Path) -> list[str]:
    """The sheets that hold cells (charts are none). Raises MissingError without openpyxl, CorruptError, CapacityError."""
    with _book(path) as book:
        return [sheet.title for sheet in book.worksheets]


def read_sheet(path: Path, name: str) -> Sheet:
    """Columns with their types, and their values column by column (what JSON can carry).

    Raises CapacityError for more than `MAX_CELLS` cells.
    """
    return _read_sheet(path, name, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _read_sheet(path: Path, name: str, _changed_ns: int) -> Sheet:
    rows: list[tuple[Any, ...]] = []
    cells = 0
    with _book(path) as book:
        if name not in book.sheetnames:
            raise MissingError(f"{path} has no sheet {name!r} any more", "ask again")
        for row in book[name].iter_rows(values_only=True):
            cells += len(row)
            if cells > MAX_CELLS:
                raise CapacityError(f"sheet {name!r} of {path} has more than {MAX_CELLS} cells", "save it as CSV or Parquet")
            if any(value is not None for value in row):
                rows.append(row)
    if not rows:
        return {"column1": "VARCHAR"}, [[]]
    head, body = rows[0], rows[1:]
    width = max(len(row) for row in rows)
    columns: dict[str, str] = {}
    values = []
    for i in range(width):
        cells_of_column = [row[i] if i < len(row) else None for row in body]
        title = head[i] if i < len(head) else None
        if title is None and all(value is None for value in cells_of_column):
            continue
        kind = _type_of(cells_of_column)
        columns[_free_title(str(title) if title is not None else f"column{i + 1}", columns)] = kind
        values.append([_plain(value, kind) for value in cells_of_column])
    return columns, values


def _free_title(title: str, taken: dict[str, str]) -> str:
    used = {name.lower() for name in taken}
    name, number = title, 1
    while name.lower() in used:
        name, number = f"{title}_{number}", number + 1
    return name


def _type_of(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return "VARCHAR"
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int} and all(abs(value) < 1 << 63 for value in values if value is not None):
        return "BIGINT"
    if kinds <= {int, float}:
        return "DOUBLE"
    if kinds <= {datetime.datetime, datetime.date}:
        times = (value for value in values if isinstance(value, datetime.datetime))
        return "TIMESTAMP" if any(value.time() != datetime.time() for value in times) else "DATE"
    return "TIME" if kinds == {datetime.time} else "VARCHAR"


def _plain(value: Any, kind: str) -> Any:
    if value is None or kind in ("BOOLEAN", "BIGINT", "DOUBLE"):
        return value
    if kind == "DATE":
        return value.isoformat()[:10]
    return str(value)
