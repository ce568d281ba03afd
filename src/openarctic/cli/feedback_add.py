"""`openarctic feedback add`: a verdict, or a correction, on an answer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

SUMMARY = "add a verdict or a correction"
DESCRIPTION = """\
The answer is what `ask --format json` printed (a file, or - for standard input); or give --question and --answered.

examples:
  openarctic ask "How many orders?" --format json | openarctic feedback add - --up --by ada
  openarctic feedback add answer.json --down --correct "SELECT COUNT(*) FROM orders WHERE status <> 'cancelled'"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.feedback import add_store_argument

    parser.add_argument("answer", nargs="?", metavar="ANSWER", help="the JSON of an answer; - reads standard input")
    parser.add_argument("--question", metavar="TEXT", help="what was asked")
    parser.add_argument("--answered", metavar="SQL", default="", help="the SQL that answered it")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--up", action="store_true", help="it was right")
    verdict.add_argument("--down", action="store_true", help="it was wrong")
    parser.add_argument("--correct", metavar="SQL", default="", help="the right SQL, or an edited one")
    parser.add_argument("--by", metavar="NAME", default="", help="who says so")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check and append."""
    from pathlib import Path

    from openarctic.copilot.feedback import Feedback, FeedbackFile, draft_id
    from openarctic.errors import UserError

    question, sql = args.question, args.answered
    if args.answer is not None:
        if question is not None:
            raise UserError("both an answer and --question are given", "give one of them")
        body = _read(args.answer)
        question, sql = body["question"], body["sql"] or ""
    if question is None:
        raise UserError("there is no question", "give the JSON of an answer, or --question and --answered")
    if not (args.up or args.down or args.correct):
        raise UserError("there is no verdict", "give --up, --down or --correct SQL")
    record = Feedback(question=question, sql=sql, verdict="up" if args.up else "down", corrected=args.correct, by=args.by)
    FeedbackFile(Path(args.store)).append(record)
    if args.up or args.correct:
        print(f"draft {draft_id(question, args.correct or sql)} in {args.store}", file=sys.stderr)
    return 0


def _read(path: str) -> dict[str, Any]:
    from pathlib import Path

    from openarctic.errors import MissingError, UserError

    if path != "-" and not Path(path).exists():
        raise MissingError(f"no file at {path}", "give what `ask --format json` printed, or --question")
    raw = sys.stdin.buffer.read(1 << 26) if path == "-" else Path(path).read_bytes()
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON", "give what `ask --format json` printed") from error
    is_answer = isinstance(body, dict) and isinstance(body.get("question"), str) and isinstance(body.get("sql"), str | None)
    if not is_answer:
        raise UserError(f"{path} is not an answer: it has no question and sql", "give what `ask --format json` printed")
    return dict(body)
