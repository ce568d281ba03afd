"""Rows as an answer's body: JSON, CSV and Parquet. Many rows take seconds: to be called in a thread.

No single step is long, as most of them (a call of the JSON encoder, say) hold Python's lock, and the event loop waits for that.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openarctic.copilot.databases.values import quoted
from openarctic.copilot.execute import Result

ROWS_AT_ONCE = 1000
MAX_DIGITS = 38  # of a decimal in Parquet
MAX_EXACT_FLOAT = 1 << 53  # every whole number below is a float too
# Kinds of a column's values (see `Result.kinds`) that the text of each stands for exactly.
TYPES = {
    frozenset({"bool"}): "BOOLEAN",
    frozenset({"float"}): "DOUBLE",
    frozenset({"date"}): "DATE",
    frozenset({"time"}): "TIME",
    frozenset({"datetime"}): "TIMESTAMP",
    frozenset({"datetime_ns"}): "TIMESTAMP_NS",
    frozenset({"aware"}): "TIMESTAMPTZ",
    frozenset({"bytes"}): "BLOB",
    frozenset({"bytearray"}): "BLOB",
    frozenset({"memoryview"}): "BLOB",
}


def as_json(body: Mapping[str, Any]) -> bytes:
    """An object; of its `rows` some at a time. What JSON has no form for is text."""
    parts = ["{"]
    for name, value in body.items():
        parts.append(f"{', ' if len(parts) > 1 else ''}{json.dumps(name)}: ")
        parts += _rows_as_json(value) if name == "rows" and value else [json.dumps(value, default=str)]
    return "".join([*parts, "}"]).encode()


def _rows_as_json(rows: Sequence[Any]) -> Iterable[str]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield ", " if start else "["
        yield json.dumps(rows[start : start + ROWS_AT_ONCE], default=str)[1:-1]
    yield "]"


def as_csv(result: Result) -> bytes:
    """Rows as RFC 4180 has them. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(_plain_cell, result.columns))
    writer.writerows([_plain_cell(value) for value in row] for row in result.rows)
    return out.getvalue().encode()


def _plain_cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(value)
    return f"'{value}" if is_formula else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_parquet(result: Result) -> bytes:
    """Rows of an exact result as Parquet, by DuckDB. A column whose values are all of one type that Parquet has keeps it; any
    other is text."""
    import duckdb

    names = _distinct(result.columns)
    with tempfile.TemporaryDirectory(prefix="openarctic-") as folder, duckdb.connect() as connection:
        target = Path(folder) / "result.parquet"
        connection.execute("SET threads = 1")
        connection.execute("SET pandas_analyze_sample = 0")  # text stays text
        connection.execute(f"CREATE TABLE given ({', '.join(f'c{i} VARCHAR' for i in range(len(names)))})")
        for start in range(0, len(result.rows), ROWS_AT_ONCE * 10):
            _insert(connection, result.rows[start : start + ROWS_AT_ONCE * 10], len(names))
        kinds = result.kinds or [()] * len(names)
        casts = (_cast(connection, i, frozenset(kinds[i])) for i in range(len(names)))
        columns = ", ".join(f"{cast} AS {quoted(name)}" for cast, name in zip(casts, names, strict=True))
        connection.execute(f"COPY (SELECT {columns} FROM given) TO '{target}' (FORMAT parquet)")
        return target.read_bytes()


def _insert(connection: Any, rows: Sequence[Sequence[Any]], width: int) -> None:
    """A batch, column by column: row by row takes a minute for what this does in a second."""
    import numpy as np

    batch = {f"c{i}": np.array([_as_text(row[i]) for row in rows], dtype=object) for i in range(width)}
    connection.register("batch", batch)
    connection.execute("INSERT INTO given SELECT * FROM batch")
    connection.unregister("batch")


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return repr(value) if type(value) in (int, float) else json.dumps(value)


def _cast(connection: Any, place: int, kinds: frozenset[str]) -> str:
    """A column's texts as the first type that has every one of them exactly, else as they are."""
    name = f"c{place}"
    for type in _types_for(connection, name, kinds):
        cast = f"unhex({name})" if type == "BLOB" else f"TRY_CAST({name} AS {type})"
        if _one(connection, f"SELECT count({name}) = count({cast}) FROM given"):
            return cast
    return name


def _types_for(connection: Any, name: str, kinds: frozenset[str]) -> tuple[str, ...]:
    if kinds == {"int"}:
        return ("BIGINT", f"DECIMAL({MAX_DIGITS}, 0)")
    if kinds == {"int", "float"}:
        large = (
            f"SELECT bool_or(abs(TRY_CAST({name} AS DOUBLE)) >= {MAX_EXACT_FLOAT} AND {name} SIMILAR TO '-?[0-9]+') FROM given"
        )
        return () if _one(connection, large) else ("DOUBLE",)
    if kinds and kinds <= {"Decimal", "int"}:
        scale = _one(connection, f"SELECT max(length(split_part({name}, '.', 2))) FROM given")
        return (f"DECIMAL({MAX_DIGITS}, {scale})",) if scale <= MAX_DIGITS else ()
    return (TYPES[kinds],) if kinds in TYPES else ()


def _one(connection: Any, sql: str) -> Any:
    return connection.execute(sql).fetchone()[0]


def _distinct(names: list[str]) -> list[str]:
    """A column without a name gets one, and two of one name (in any case) are told apart by a number."""
    seen: set[str] = set()
    out = []
    for name in names:
        plain, number = name or "column", 1
        while plain.lower() in seen:
            number += 1
            plain = f"{name or 'column'}_{number}"
        seen.add(plain.lower())
        out.append(plain)
    return out
