"""Rows as files to download: CSV and Parquet."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

from openarctic.copilot.databases.values import quoted
from openarctic.copilot.execute import Result


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
    """Rows as Parquet, by DuckDB: a column of whole numbers, numbers or truth values keeps its type, any other is text."""
    import duckdb

    types = [_type_of([row[i] for row in result.rows]) for i in range(len(result.columns))]
    names = _distinct(result.columns)
    with tempfile.TemporaryDirectory(prefix="openarctic-") as folder, duckdb.connect() as connection:
        target = Path(folder) / "result.parquet"
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(names, types, strict=True))
        connection.execute(f"CREATE TABLE result ({columns})")
        if result.rows:
            places = ", ".join("?" * len(names))
            rows = [[_as_type(v, kind) for v, kind in zip(row, types, strict=True)] for row in result.rows]
            connection.executemany(f"INSERT INTO result VALUES ({places})", rows)
        connection.execute(f"COPY result TO '{target}' (FORMAT parquet)")
        return target.read_bytes()


def _type_of(values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    for kind, name in ((bool, "BOOLEAN"), (int, "BIGINT")):
        if known and all(type(value) is kind for value in known):
            return name if kind is bool or all(-(2**63) <= value < 2**63 for value in known) else "VARCHAR"
    is_number = known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return "DOUBLE" if is_number else "VARCHAR"


def _as_type(value: Any, kind: str) -> Any:
    return str(value) if kind == "VARCHAR" and value is not None else value


def _distinct(names: list[str]) -> list[str]:
    """Two columns of one name (in any case) are told apart by a number."""
    seen: set[str] = set()
    out = []
    for name in names:
        plain, number = name, 1
        while plain.lower() in seen:
            number += 1
            plain = f"{name}_{number}"
        seen.add(plain.lower())
        out.append(plain)
    return out
