"""`openarctic eval`: execution accuracy on question files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from openarctic.cli.progress import end, renew

SUMMARY = "measure execution accuracy on Spider-form questions"
DESCRIPTION = """\
Reads one JSON object a line (question, query, db_id), asks every question of DIR/<db_id>/<db_id>.sqlite and compares the
rows with those of the gold query. Scores gold as a prediction first (gold_ceiling).

example:
  openarctic eval spider --questions dev.jsonl --databases database/ --limit 50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("task", choices=("spider",), help="the form of the questions")
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE.jsonl", help="the question file")
    parser.add_argument("--databases", required=True, type=Path, metavar="DIR", help="folder of SQLite databases")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="model (default: the bundled arctic-nano)")
    parser.add_argument("--candidates", type=int, default=4, metavar="N", help="queries to try and vote on (default 4)")
    parser.add_argument("--details", type=Path, metavar="FILE.jsonl", help="also write one line a question there")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from openarctic.copilot.ask import AskOptions
    from openarctic.engine import load
    from openarctic.evals.spider import evaluate, read_questions

    questions = read_questions(args.questions, args.limit)
    counter = _Counter(len(questions))
    report = evaluate(questions, args.databases, load(args.model), AskOptions(candidates=args.candidates), counter)
    end()
    if args.details:
        args.details.write_text("".join(json.dumps(_detail(o), ensure_ascii=False) + "\n" for o in report.outcomes))
    values = report.to_dict()
    if args.format == "json":
        print(json.dumps(values))
    else:
        for name, value in values.items():
            print(f"{name:18} {value}")
    return 0


def _detail(outcome: Any) -> dict[str, Any]:
    question = outcome.question
    return {
        "question": question.text,
        "db_id": question.database,
        "gold": question.gold,
        "sql": outcome.sql,
        "kind": outcome.kind,
        "hardness": question.hardness,
        "confidence": outcome.confidence,
        "first_in_scope": outcome.first_in_scope,
        "greedy_correct": outcome.is_first_correct,
    }


class _Counter:
    """A line of progress on a terminal's stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.right = total, 0, 0

    def __call__(self, outcome: Any) -> None:
        self.done += 1
        self.right += outcome.kind == "correct"
        renew(f"{self.done}/{self.total} asked, {100 * self.right / self.done:.1f} % correct")
