"""The same tables as a SQLite and as a DuckDB file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb


def write_both(folder: Path, script: str, insert: str = "", rows: Sequence[Sequence[Any]] = ()) -> dict[str, Path]:
    """Run `script`, then `insert` for every one of `rows`; the files by dialect."""
    paths = {"sqlite": folder / "shop.sqlite", "duckdb": folder / "shop.duckdb"}
    with sqlite3.connect(paths["sqlite"]) as lite:
        lite.executescript(script)
        if rows:
            lite.executemany(insert, rows)
    lite.close()
    with duckdb.connect(str(paths["duckdb"])) as duck:
        duck.execute(script)
        if rows:
            duck.executemany(insert, rows)
    return paths
