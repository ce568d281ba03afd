"""`openarctic feedback reject`: drafts are put away."""

from __future__ import annotations

import argparse

SUMMARY = "put drafts away"
DESCRIPTION = """\
A rejected draft stays in the file and in `list`, and becomes neither a verified query nor a training pair.

example:
  openarctic feedback reject 3f2a9c --by ada
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.feedback import add_store_argument

    parser.add_argument("drafts", metavar="ID", nargs="+", help="the beginning of a draft's id is enough")
    parser.add_argument("--by", metavar="NAME", required=True, help="who rejects")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Note the reviews."""
    from pathlib import Path

    from openarctic.copilot.feedback import FeedbackFile, Review, find_draft

    file = FeedbackFile(Path(args.store))
    drafts = file.drafts()
    for draft in [find_draft(drafts, id_) for id_ in args.drafts]:
        file.append(Review(id=draft.id, decision="rejected", by=args.by))
    return 0
