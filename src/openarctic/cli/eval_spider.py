"""`openarctic eval spider`: execution accuracy on question files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from openarctic.cli.eval import Counter, add_model, asked_model
from openarctic.cli.progress import end

SUMMARY = "measure execution accuracy on Spider-form questions"
DESCRIPTION = """\
Reads one JSON object a line (question, query, db_id), asks every question of DIR/<db_id>/<db_id>.sqlite and compares the
rows with those of the gold query. Scores gold as a prediction first (gold_ceiling). --without switches steps off, --steps
measures what each gives, one after the other.

example:
  openarctic eval spider --questions dev.jsonl --databases database/ --limit 50
  openarctic eval spider --questions dev.jsonl --databases database/ --record dev.completions.jsonl --steps
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE.jsonl", help="the question file")
    parser.add_argument("--databases", required=True, type=Path, metavar="DIR", help="folder of SQLite databases")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    add_model(parser)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="how candidates are weighed (default: the bundled one)")
    parser.add_argument("--without", default="", metavar="STEP,...", help="switch off: values, mend, prune, variants, scorer")
    parser.add_argument("--steps", action="store_true", help="a row for each step: all off, then one after the other on")
    parser.add_argument("--details", type=Path, metavar="FILE.jsonl", help="also write one line a question there")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from openarctic.copilot.ask import STEPS, AskOptions
    from openarctic.errors import UserError
    from openarctic.evals.spider import GOLD_ROWS, Report, evaluate, read_questions

    without = frozenset(filter(None, args.without.split(",")))
    if unknown := sorted(without - STEPS.keys()):
        raise UserError(f"--without names {unknown[0]!r}", f"steps: {', '.join(STEPS)}")
    questions = read_questions(args.questions, args.limit)
    model = asked_model(args)

    def report_without(steps: frozenset[str]) -> Report:
        options = AskOptions(candidates=args.candidates, limit=GOLD_ROWS, without=steps)
        report = evaluate(questions, args.databases, model, options, Counter(len(questions)), args.calibration)
        end()
        return report

    if args.steps:
        return _print_ladder(report_without, tuple(s for s in STEPS if s not in without), without, args.format)
    report = report_without(without)
    if args.details:
        args.details.write_text("".join(json.dumps(_detail(o), ensure_ascii=False) + "\n" for o in report.outcomes))
    values = report.to_dict()
    if args.format == "json":
        print(json.dumps(values))
    else:
        for name, value in values.items():
            print(f"{name:18} {value}")
    return 0


def _print_ladder(report_without: Any, steps: tuple[str, ...], without: frozenset[str], form: str) -> int:
    """All steps off (the greedy candidate, then the vote), and one after the other on."""
    from openarctic.cli.render import render

    off = list(steps)
    values = report_without(frozenset(off) | without).to_dict()
    rows: list[tuple[str, int, float, float | None]] = [
        ("greedy", values["greedy_correct"], values["greedy_accuracy"], None),
        ("+ vote", values["correct"], values["accuracy"], values["surest_70_accuracy"]),
    ]
    while off:
        name = off.pop(0)
        values = report_without(frozenset(off) | without).to_dict()
        rows.append((f"+ {name}", values["correct"], values["accuracy"], values["surest_70_accuracy"]))
    table = [(*row, round(100 * (row[2] - before[2]), 2)) for before, row in zip([rows[0], *rows], rows, strict=False)]
    print(render(["step", "correct", "accuracy", "surest_70_accuracy", "points"], table, form), end="")
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
