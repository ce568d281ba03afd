"""`openarctic explain`: what a query does, in words, and how the engine would do it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from openarctic.cli.ask import add_policy_arguments

SUMMARY = "say in words what an SQL statement does, and how it would run"
DESCRIPTION = """\
Reads the statement's tree and says it step by step; then asks the engine for its plan and shows what matters of it: tables
that are read whole, indexes, joins, expected rows. The statement passes the same guard as in `query`, and does not run.

examples:
  openarctic explain "SELECT country, count(*) FROM customers GROUP BY country ORDER BY 2 DESC LIMIT 3"
  openarctic explain "SELECT * FROM orders WHERE customer_id = 7" --db shop.sqlite --raw-plan
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("sql", help="the statement; - reads it from standard input")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--no-plan", action="store_true", help="only the words")
    parser.add_argument("--raw-plan", action="store_true", help="the plan as the engine gives it")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds that planning may take (default 10)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")
    add_policy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check, explain, print."""
    from openarctic.cli.ask import read_question
    from openarctic.copilot.access import open_access
    from openarctic.copilot.answers.execution_plan import Plan, can_plan, plan_of
    from openarctic.copilot.answers.explain import explain
    from openarctic.copilot.answers.indexes import missing_indexes
    from openarctic.copilot.databases import cached_schema
    from openarctic.copilot.execute import Worker
    from openarctic.copilot.sample import database_or_sample

    sql, database = read_question(args.sql), database_or_sample(args.db)
    access = open_access(cached_schema(database, values=False), args.policy, args.user)
    plan: Plan | None = None
    advice: list[str] = []
    with access.recorded("explain", sql=sql) as event:
        event.checked = checked = access.check(sql)
        steps = explain(checked.shown, database.dialect)
        if not args.no_plan and not access.is_restricted and can_plan(database.dialect):
            with Worker(database) as worker:
                plan = plan_of(worker, checked, access.schema, args.timeout)
            assert checked.tree is not None
            advice = missing_indexes(checked.tree, plan.steps, access.schema)
    if args.format == "json":
        body: dict[str, Any] = {
            "status": "ok",
            "sql": checked.shown,
            "dialect": database.dialect,
            "steps": steps,
            "plan": None,
            "advice": advice,
        }
        if plan is not None:
            body["plan"] = plan.raw if args.raw_plan else [
                {"depth": s.depth, "kind": s.kind, "text": s.text, "table": s.table or None, "rows": s.rows} for s in plan.steps
            ]  # fmt: skip
        print(json.dumps({**body, "error": None}, ensure_ascii=False))
        return 0
    print("\n".join(steps))
    if plan is not None:
        print("\nPlan:\n" + (plan.raw if args.raw_plan else "\n".join(step.line for step in plan.steps)))
    for line in advice:
        print(f"Advice: {line}")
    if not args.no_plan and not can_plan(database.dialect):
        print(f"plans of {database.dialect} are not read", file=sys.stderr)
    elif access.is_restricted and not args.no_plan:
        print("the plan is not shown under a policy: its estimates speak of rows that are hidden", file=sys.stderr)
    return 0
