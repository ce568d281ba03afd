"""`openarctic eval`: how good are answers? One file a subcommand, `eval_NAME.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from openarctic.cli.ask import add_candidates, check_candidates
from openarctic.cli.progress import renew

if TYPE_CHECKING:
    from openarctic.evals.spider import Outcome
    from openarctic.generator import Generator

SUMMARY = "measure how good answers are, and how well confidence tells"
DESCRIPTION = """\
Asks questions whose answers are known and compares rows. `openarctic eval COMMAND --help` teaches each command.

examples:
  openarctic eval spider --questions dev.jsonl --databases database/ --limit 50
  openarctic eval mine questions.yaml --db shop.duckdb --html curve.html --calibration shop.json
  openarctic eval calibrate --questions train.jsonl --databases database/ --only validation --out calibration.json
"""
COMMANDS = ("spider", "mine", "calibrate")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say who answers, and how."""
    parser.add_argument("--model", metavar="NAME_PATH_OR_URL", help="model (default: the bundled arctic-nano)")
    add_candidates(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE.jsonl",
        help="keep the model's completions there: a stopped run goes on, another run need not ask again",
    )


def asked_model(args: argparse.Namespace) -> Generator:
    """The model of these options, behind its recording where one is kept."""
    from openarctic.copilot.models import load_generator
    from openarctic.evals.recording import Recording

    check_candidates(args.candidates)
    model = load_generator(args.model, **({} if args.threads is None else {"threads": args.threads}))
    return model if args.record is None else Recording(model, args.record)


class Counter:
    """A line of progress on a terminal's stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.right = total, 0, 0

    def __call__(self, outcome: Outcome) -> None:
        self.done += 1
        self.right += outcome.kind == "correct"
        renew(f"{self.done}/{self.total} asked, {100 * self.right / self.done:.1f} % correct")
