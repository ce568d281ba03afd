"""`openarctic query`: hand-written SQL through the same guard and executor as `ask`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from openarctic.cli.ask import add_policy_arguments
from openarctic.cli.chart import add_chart_argument, check_chart, show_chart

SUMMARY = "run one read-only SQL statement"
DESCRIPTION = """\
Checks the statement (one read; known tables, columns and functions), then runs it in a process of its own with limits of
time, memory and rows. What is not a read is refused with exit code 3.

examples:
  openarctic query "SELECT count(*) FROM customers"
  openarctic query "SELECT * FROM orders LIMIT 5" --db shop.sqlite --tables orders,customers --format json
  openarctic query "SELECT * FROM customers" --db shop.duckdb --policy policy.yaml --user ann
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("sql", help="the statement; - reads it from standard input")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--tables", metavar="A,B", help="only these tables may be read")
    add_chart_argument(parser)
    add_policy_arguments(parser)
    parser.add_argument("--no-exec", action="store_true", help="check only, and print the SQL that would run")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="rows at most (default 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds it may run (default 10)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Check, run, print."""
    from openarctic.cli.ask import check_limits, read_question
    from openarctic.cli.render import render
    from openarctic.copilot.access import open_access
    from openarctic.copilot.charts.choose import choose_chart
    from openarctic.copilot.databases import cached_schema
    from openarctic.copilot.execute import Worker
    from openarctic.copilot.query import Queried
    from openarctic.copilot.sample import database_or_sample

    check_limits(args)
    check_chart(args)
    started = time.perf_counter()
    sql, database = read_question(args.sql), database_or_sample(args.db)
    allowed = [t.strip() for t in args.tables.split(",")] if args.tables else None
    access = open_access(cached_schema(database, values=False), args.policy, args.user, allowed)
    with access.recorded("query", sql=sql) as event:
        event.checked = checked = access.check(sql)
        guarded = time.perf_counter()
        result = None
        if not args.no_exec:
            with Worker(database) as worker:
                result = worker.execute(checked, limit=args.limit, timeout_s=args.timeout)
            event.rows, event.truncated = len(result.rows), result.truncated
    if result is None:
        print(checked.shown)
        return 0
    chart, reason = None, ""
    if args.chart is not None:
        chart, reason = choose_chart(
            result.columns, (), result.rows, sql=checked.shown, dialect=database.dialect, truncated=result.truncated
        )
    if args.format == "json":
        body = {
            **Queried(checked, result, database.dialect).to_dict(),
            "timings_ms": {
                "guard": round((guarded - started) * 1000, 1),
                "execute": round((time.perf_counter() - guarded) * 1000, 1),
            },
            "error": None,
            "chart": chart,
        }
        print(json.dumps(body, ensure_ascii=False))
        show_chart(args, chart, reason)
        return 0
    print(render(result.columns, result.rows, args.format), end="")
    show_chart(args, chart, reason)
    if result.truncated:
        print(f"only the first {len(result.rows)} rows are shown; {_what_limits(checked.max_rows, args.limit)}", file=sys.stderr)
    if hidden := access.hidden(checked):
        print(hidden, file=sys.stderr)
    return 0


def _what_limits(policy_rows: int | None, limit: int) -> str:
    return "--limit changes that" if policy_rows is None or policy_rows > limit else "the policy gives no more"
