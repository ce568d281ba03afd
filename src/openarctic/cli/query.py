"""`openarctic query`: hand-written SQL through the same guard and executor as `ask`."""

from __future__ import annotations

import argparse
import json
import sys
import time

SUMMARY = "run one read-only SQL statement"
DESCRIPTION = """\
Checks the statement (one read; known tables, columns and functions), then runs it in a process of its own with limits of
time, memory and rows. What is not a read is refused with exit code 3.

examples:
  openarctic query "SELECT count(*) FROM customers"
  openarctic query "SELECT * FROM orders LIMIT 5" --db shop.sqlite --tables orders,customers --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("sql", help="the statement; - reads it from standard input")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="DuckDB or SQLite file (default: the bundled sample)")
    parser.add_argument("--tables", metavar="A,B", help="only these tables may be read")
    parser.add_argument("--no-exec", action="store_true", help="check only, and print the SQL that would run")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="rows at most (default 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds it may run (default 10)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Check, run, print."""
    from openarctic.cli.ask import check_limits, read_question
    from openarctic.cli.render import render
    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.execute import Worker
    from openarctic.copilot.guard import check
    from openarctic.copilot.sample import database_or_sample

    check_limits(args)
    started = time.perf_counter()
    database = database_or_sample(args.db)
    schema = read_schema(database, values=False)
    allowed = [t.strip() for t in args.tables.split(",")] if args.tables else None
    checked = check(read_question(args.sql), database.dialect, schema, allowed)
    guarded = time.perf_counter()
    if args.no_exec:
        print(checked.sql)
        return 0
    with Worker(database) as worker:
        result = worker.execute(checked, limit=args.limit, timeout_s=args.timeout)
    if args.format == "json":
        body = {
            "status": "ok",
            "sql": checked.sql,
            "dialect": database.dialect,
            "columns": result.columns,
            "rows": result.rows,
            "truncated": result.truncated,
            "timings_ms": {
                "guard": round((guarded - started) * 1000, 1),
                "execute": round((time.perf_counter() - guarded) * 1000, 1),
            },
            "error": None,
        }
        print(json.dumps(body, ensure_ascii=False))
        return 0
    print(render(result.columns, result.rows, args.format), end="")
    if result.truncated:
        print(f"only the first {args.limit} rows are shown; --limit changes that", file=sys.stderr)
    return 0
