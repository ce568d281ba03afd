"""`openarctic report`: several questions at once, into one HTML page or Markdown file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openarctic.cli.ask import add_candidates, add_no_values, add_policy_arguments

SUMMARY = "answer several questions into one page with charts"
DESCRIPTION = """\
Splits a short description into questions, asks each one as `ask` does, and writes sentences, charts, tables and the SQL into
one self-contained file (.html or .md). What could not be answered is named in it, and not guessed.

examples:
  openarctic report "customers by country, most expensive products, orders by status" --out report.html
  openarctic report - --db shop.duckdb --out report.md < questions.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("description", help="questions, parted by lines, semicolons or commas; - reads standard input")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write it: .html or .md")
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: Report on DATABASE)")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="model (default: the bundled arctic-nano)")
    add_candidates(parser)
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="rows at most for each (default 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds a query may run (default 10)")
    parser.add_argument("--semantic", metavar="FILE", help="semantic model: Cortex Analyst or Ossie YAML (docs/semantic.md)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    add_no_values(parser)
    add_policy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, write, say where. The exit code is 4 when no question could be answered."""
    from openarctic.cli import progress
    from openarctic.cli.ask import check_candidates, check_limits, read_question, read_semantic
    from openarctic.copilot.answers.report import check_path, make_report, split_description, write_report
    from openarctic.copilot.ask import AskOptions, Copilot
    from openarctic.copilot.sample import database_or_sample
    from openarctic.engine import load
    from openarctic.errors import AbstainedError

    check_limits(args)
    check_path(args.out)
    check_candidates(args.candidates)
    description, database = read_question(args.description), database_or_sample(args.db)
    split_description(description)
    semantic = read_semantic(args.semantic)
    model = load(args.model, threads=args.threads, on_progress=progress.loading(args.model or "the model"))
    options = AskOptions(candidates=args.candidates, limit=args.limit, timeout_s=args.timeout, chart=True)
    values = not args.no_values
    with Copilot(database, model, policy=args.policy, user=args.user, semantic=semantic, values=values) as copilot:
        report = make_report(description, copilot, options, args.title, lambda i, n: progress.renew(f"{i}/{n} asked"))
    progress.end()
    for section in report.sections:
        if section.answer is None:
            print(f"not answered: {section.question}: {section.failure}", file=sys.stderr)
    if not report.answered:
        raise AbstainedError("no question of the description could be answered", "name tables or columns in it")
    write_report(report, args.out)
    print(args.out)
    return 0
