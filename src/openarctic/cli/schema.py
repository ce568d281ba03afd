"""`openarctic schema`: what a database holds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.copilot.schema import Table

SUMMARY = "show the tables, columns and keys of a database"
DESCRIPTION = """\
Lists every table with its rows, columns, types, primary key (*), foreign keys (> table.column) and comments. What was read is
kept and read again when the database has changed.

examples:
  openarctic schema --db shop.duckdb
  openarctic schema --db 'data/*.csv'
  openarctic schema --db 'postgresql://reader@localhost/shop?schema=sales' --refresh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--refresh", action="store_true", help="read it again although nothing seems to have changed")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    from openarctic.copilot.databases import cached_schema
    from openarctic.copilot.sample import database_or_sample

    schema = cached_schema(database_or_sample(args.db), values=False, refresh=args.refresh)
    if args.format == "json":
        tables = [asdict(t) for t in schema.tables]
        print(json.dumps({"dialect": schema.dialect, "tables": tables}, ensure_ascii=False))
        return 0
    for table in schema.tables:
        print(f"{table.name} ({_size(table)}){_note(table.comment)}")
        targets = {k.column: f" > {k.table}.{k.to_column}" for k in table.foreign_keys}
        for column in table.columns:
            key = "*" if column.name in table.primary_key else " "
            print(f"  {key} {column.name} {column.type}{targets.get(column.name, '')}{_note(column.comment)}")
    return 0


def _size(table: Table) -> str:
    if table.is_view:
        return "view"
    if table.row_count is not None:
        return f"{table.row_count} rows"
    return "rows not counted" if table.row_estimate is None else f"about {table.row_estimate} rows"


def _note(comment: str) -> str:
    return f"  -- {' '.join(comment.split())}" if comment else ""
