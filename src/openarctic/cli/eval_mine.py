"""`openarctic eval mine`: a user's own questions, the curve of risk and coverage, and a calibration for them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from openarctic.cli.ask import add_no_values, add_policy_arguments, check_limits, read_semantic
from openarctic.cli.eval import Counter, add_model, asked_model
from openarctic.cli.progress import end

SUMMARY = "measure answers to your own questions, and learn when to be silent"
DESCRIPTION = """\
QUESTIONS is a YAML file, a list of `question` and `sql` (the query whose rows are right). Prints how many answers are right when
only the surest share is answered. --calibration keeps what was found for `openarctic ask --calibration FILE --max-error 0.2`.

example:
  openarctic eval mine questions.yaml --db shop.duckdb --html curve.html --calibration shop.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("questions", type=Path, metavar="QUESTIONS.yaml", help="the questions, with the SQL that is right")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    add_model(parser)
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="rows at most (default 1000)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds a query may run (default 10)")
    parser.add_argument("--semantic", metavar="FILE", help="semantic model: Cortex Analyst or Ossie YAML")
    add_no_values(parser)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="write the calibration there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the curve and the wrong answers there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the curve there")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")
    add_policy_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, print, write the files that were wanted."""
    from openarctic.cli.render import render
    from openarctic.config import write_text
    from openarctic.copilot.ask import AskOptions, Copilot
    from openarctic.copilot.charts.svg import svg
    from openarctic.copilot.sample import database_or_sample
    from openarctic.errors import UserError
    from openarctic.evals.curve import curve_chart, curve_page
    from openarctic.evals.mine import mine, read_mine

    check_limits(args)
    questions = read_mine(args.questions)
    database, model = database_or_sample(args.db), asked_model(args)
    options = AskOptions(candidates=args.candidates, limit=args.limit, timeout_s=args.timeout)
    semantic, values = read_semantic(args.semantic), not args.no_values
    with Copilot(database, model, policy=args.policy, user=args.user, semantic=semantic, values=values) as copilot:
        mined = mine(questions, copilot, options, Counter(len(questions)), copilot.judge.calibration)
    end()
    found = mined.to_dict()
    if args.calibration is not None:
        if mined.fit is None:
            raise UserError(f"no calibration can be made: {mined.why}")
        write_text(args.calibration, mined.fit.calibration.to_json())
    if args.svg is not None:
        write_text(args.svg, svg(curve_chart(mined.judged)))
    if args.html is not None:
        told = [
            f"{found['total']} questions over {database.place}, answered by {model.name}: {100 * found['accuracy']:.1f} % right"
            f", {100 * found['surest_70_accuracy']:.1f} % among the surest 70 %."
        ]
        write_text(args.html, curve_page("How sure are the answers?", told, mined.judged, mined.wrong()))
    if args.format == "json":
        print(json.dumps(found))
        return 0
    curve = found.pop("curve")
    if args.format == "table":
        print("".join(f"{name:28} {value}\n" for name, value in found.items()))
    print(render(list(curve[0]), [list(point.values()) for point in curve], args.format), end="")
    return 0
