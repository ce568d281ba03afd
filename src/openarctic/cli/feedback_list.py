"""`openarctic feedback list`: the drafts that feedback made."""

from __future__ import annotations

import argparse
import json

SUMMARY = "show the drafts"
DESCRIPTION = """\
Drafts with more support than objections, those to be reviewed first. `rivals` are other SQL for the same question.

example:
  openarctic feedback list --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.feedback import add_store_argument

    add_store_argument(parser)
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    from pathlib import Path

    from openarctic.cli.render import render
    from openarctic.copilot.feedback import FeedbackFile, as_json

    drafts = FeedbackFile(Path(args.store)).drafts()
    if args.format == "json":
        print(json.dumps([as_json(draft) for draft in drafts], ensure_ascii=False))
        return 0
    columns = ["id", "status", "up", "down", "corrected", "rivals", "question", "sql"]
    rows = [(d.id, d.status, d.up, d.down, d.corrections, len(d.rivals), d.question, d.sql) for d in drafts]
    print(render(columns, rows, args.format), end="")
    return 0
