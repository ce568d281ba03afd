"""`openarctic eval calibrate`: fit the weights of candidates and the confidence of a model on questions with known answers."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from openarctic.cli.eval import Counter, add_model, asked_model
from openarctic.cli.progress import end

SUMMARY = "fit how candidates are weighed and how sure answers are"
DESCRIPTION = """\
Asks Spider-form questions (as `eval spider`), describes every candidate by features, and fits which of them are right: once with
all candidates, once with the greedy one alone, so that the weights serve both. All numbers it prints are of databases that were
held out of the fit. Take questions over databases that the model was not trained on;
`--only validation` takes those that the recipe of arctic-nano keeps out. With --record, a second run needs no model's time.

example:
  openarctic eval calibrate --questions train_spider.jsonl --databases database/ --only validation \\
      --record validation.completions.jsonl --out src/openarctic/assets/arctic-nano.calibration.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--questions", required=True, type=Path, action="append", metavar="FILE.jsonl", help="a question file; may be given again"
    )
    parser.add_argument("--databases", required=True, type=Path, metavar="DIR", help="folder of SQLite databases")
    parser.add_argument("--only", metavar="DB,...", help="only questions over these databases; validation: arctic-nano's")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each file")
    add_model(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the calibration there")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Ask, fit, print, write."""
    from openarctic.config import write_text
    from openarctic.copilot.ask import AskOptions
    from openarctic.copilot.confidence import fingerprint_of
    from openarctic.errors import UserError
    from openarctic.evals.calibrate import calibrate, unfitted
    from openarctic.evals.curve import SHOWN, accuracy_at, area, calibration_error
    from openarctic.evals.spider import GOLD_ROWS, Report, evaluate, read_questions

    only = _kept_out() if args.only == "validation" else tuple(filter(None, (args.only or "").split(",")))
    questions = [q for path in args.questions for q in read_questions(path) if not only or q.database in only]
    questions = questions[: args.limit]
    if not questions:
        raise UserError(f"no question is over {', '.join(only)}")
    model = asked_model(args)
    options = AskOptions(candidates=args.candidates, limit=GOLD_ROWS)

    def asked(options: AskOptions) -> Report:
        return evaluate(questions, args.databases, model, options, Counter(len(questions)), unfitted(model))

    report = asked(options)
    is_alone = args.candidates == 1
    alone = [] if is_alone else [o.case for o in asked(replace(options, candidates=1)).outcomes if o.case.candidates]
    end()
    fit = calibrate([o.case for o in report.outcomes], model.name, fingerprint_of(model), alone=alone)
    if args.out is not None:
        write_text(args.out, fit.calibration.to_json())
    before = report.to_dict()
    values = {
        "questions": len(fit.judged),
        "greedy_accuracy": before["greedy_accuracy"],
        "any_candidate_right": round(sum(any(o.case.right) for o in report.outcomes) / len(fit.judged), 4),
        "accuracy": round(fit.accuracy, 4),
        "surest_70_accuracy": round(accuracy_at(SHOWN, fit.judged), 4),
        "mean_error_of_all_coverages": round(area(fit.judged), 4),
        "calibration_error": round(calibration_error(fit.judged), 4),
    }
    weights = {name: round(weight, 3) for name, (_, _, weight) in fit.calibration.correct.terms.items()}
    weights = dict(sorted(weights.items(), key=lambda item: -abs(item[1])))
    if args.format == "json":
        print(json.dumps({**values, "weights": weights}))
        return 0
    for name, value in [*values.items(), ("", ""), *weights.items()]:
        print(f"{name:28} {value}".rstrip())
    return 0


def _kept_out() -> tuple[str, ...]:
    """The databases that arctic-nano was not trained on."""
    from openarctic.errors import MissingError

    try:
        from openarctic.train.recipes import NanoRecipe
    except ImportError as error:
        raise MissingError("the recipe needs torch", "pip install 'openarctic[train]', or name the databases") from error
    return NanoRecipe().validation_databases
