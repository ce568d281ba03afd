"""`openarctic optimise`: faster forms of a query, proven on the data and measured."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from openarctic.cli.ask import add_policy_arguments

if TYPE_CHECKING:
    from openarctic.copilot.answers.optimise import Optimisation

SUMMARY = "find faster forms of an SQL statement, with proof"
DESCRIPTION = """\
Rewrites the statement by rules that keep its rows, runs every form through the guard beside the original, compares all rows
and measures both in turns (median of 5). A form with other rows is discarded; when nothing is faster, that is said. Indexes
that are missing are named as advice; nothing is ever created or changed.

examples:
  openarctic optimise "SELECT DISTINCT customer_id, name FROM customers"
  openarctic optimise - --db shop.sqlite --format json < slow.sql
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("sql", help="the statement; - reads it from standard input")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each form (default 5)")
    parser.add_argument("--limit", type=int, default=100_000, metavar="N", help="rows fetched to compare (default 100000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds one run may take (default 10)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")
    add_policy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Try, compare, print the best form or that there is none."""
    from openarctic.cli.ask import check_limits, read_question
    from openarctic.copilot.access import open_access
    from openarctic.copilot.answers.optimise import optimise
    from openarctic.copilot.databases import cached_schema
    from openarctic.copilot.execute import Worker
    from openarctic.copilot.sample import database_or_sample
    from openarctic.errors import UserError

    check_limits(args)
    if not 1 <= args.repeats <= 100:
        raise UserError(f"--repeats is {args.repeats}, it must be 1 to 100")
    sql, database = read_question(args.sql), database_or_sample(args.db)
    access = open_access(cached_schema(database, values=False), args.policy, args.user)
    with access.recorded("optimise", sql=sql) as event, Worker(database) as worker:
        event.checked = access.check(sql)
        found = optimise(sql, access, worker, repeats=args.repeats, max_rows=args.limit, timeout_s=args.timeout)
    print(_json(found) if args.format == "json" else _text(found))
    if args.format == "table" and found.best is None:
        print("no form was faster", file=sys.stderr)
    return 0


def _text(found: Optimisation) -> str:
    lines = [f"original: {found.original_ms:.2f} ms"]
    for trial in found.trials:
        times = "" if trial.after_ms is None else f", {trial.before_ms:.2f} -> {trial.after_ms:.2f} ms"
        detail = f" ({trial.detail})" if trial.detail else ""
        lines.append(f"{trial.rewrite.name}: {trial.verdict}{times}{detail}; {trial.rewrite.why}")
    lines += [f"advice: {line}" for line in found.advice]
    if found.best is not None:
        lines += ["", found.best.rewrite.sql]
    return "\n".join(lines)


def _json(found: Optimisation) -> str:
    trials = [
        {
            "name": t.rewrite.name,
            "why": t.rewrite.why,
            "sql": t.rewrite.sql,
            "verdict": t.verdict,
            "detail": t.detail or None,
            "before_ms": t.before_ms,
            "after_ms": t.after_ms,
        }
        for t in found.trials
    ]
    body = {
        "status": "ok",
        "sql": found.sql,
        "original_ms": round(found.original_ms, 2),
        "best": None if found.best is None else found.best.rewrite.sql,
        "trials": trials,
        "advice": list(found.advice),
        "error": None,
    }
    return json.dumps(body, ensure_ascii=False)
