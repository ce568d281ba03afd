"""`openarctic feedback`: what people say of answers, and what becomes of it."""

from __future__ import annotations

import argparse

SUMMARY = "thumbs and corrections: drafts of verified queries, training pairs"
DESCRIPTION = """\
Verdicts and corrected SQL are kept in a file (--store), one JSON object a line. What people liked or wrote becomes a draft; a
draft becomes a verified query of a semantic model when somebody accepts it by name, and a training pair after that.

  add      a verdict, or a correction, on an answer
  list     the drafts
  accept   drafts become verified queries of a semantic model
  reject   drafts are put away
  pairs    accepted drafts as lines for `openarctic train`

examples:
  openarctic ask "How many orders are open?" --format json | openarctic feedback add - --up --by ann
  openarctic feedback list
"""
STORE = "feedback.jsonl"
COMMANDS = ("add", "list", "accept", "reject", "pairs")


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Where the feedback is kept."""
    parser.add_argument("--store", metavar="FILE", default=STORE, help=f"the file of feedback (default: {STORE})")
