"""`openarctic schema`: what a database holds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

SUMMARY = "show the tables, columns and keys of a database"
DESCRIPTION = """\
Lists every table with its rows, columns, types, primary key (*) and foreign keys (> table.column).

example:
  openarctic schema --db shop.duckdb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--db", metavar="URL_OR_PATH", help="DuckDB or SQLite file (default: the bundled sample)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.sample import database_or_sample

    schema = read_schema(database_or_sample(args.db), values=False)
    if args.format == "json":
        tables = [asdict(t) for t in schema.tables]
        print(json.dumps({"dialect": schema.dialect, "tables": tables}, ensure_ascii=False))
        return 0
    for table in schema.tables:
        rows = "view" if table.is_view else f"{table.row_count} rows"
        print(f"{table.name} ({rows})")
        targets = {k.column: f" > {k.table}.{k.to_column}" for k in table.foreign_keys}
        for column in table.columns:
            key = "*" if column.name in table.primary_key else " "
            print(f"  {key} {column.name} {column.type}{targets.get(column.name, '')}")
    return 0
