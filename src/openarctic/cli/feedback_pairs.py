"""`openarctic feedback pairs`: accepted drafts as training pairs."""

from __future__ import annotations

import argparse
import sys

SUMMARY = "write training pairs"
DESCRIPTION = """\
Accepted drafts, and the verified queries of --semantic, one JSON object a line: `spider` has question, query and db_id, as
`openarctic train nano` and `eval spider` read them; `sft` has prompt and response, as `openarctic train sft` does, with the very
prompt that `ask` writes.

example:
  openarctic feedback pairs --db shop.duckdb --semantic shop.yaml --form sft --out pairs.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.feedback import add_store_argument

    parser.add_argument("--out", metavar="FILE", required=True, help="where to write them")
    parser.add_argument("--form", choices=("spider", "sft"), default="spider", help="of the lines (default: spider)")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="the database (default: the bundled sample)")
    parser.add_argument("--db-id", metavar="NAME", help="of the database in `spider` lines (default: its own)")
    parser.add_argument("--semantic", metavar="FILE", help="the semantic model that goes with the database")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Collect and write."""
    from pathlib import Path

    from openarctic.cli.ask import read_semantic
    from openarctic.config import write_text
    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.feedback import FeedbackFile
    from openarctic.copilot.feedback_pairs import PairWriter
    from openarctic.copilot.sample import database_or_sample
    from openarctic.copilot.semantic.words import normal_words
    from openarctic.errors import UserError

    model = read_semantic(args.semantic)
    file = FeedbackFile(Path(args.store))
    accepted = (
        [d.verified_query() for d in file.drafts() if d.status == "accepted"] if file.path.exists() or model is None else []
    )
    queries = {normal_words(q.question): q for q in (*accepted, *(model.verified_queries if model else ()))}
    database = database_or_sample(args.db)
    writer = PairWriter(read_schema(database), args.db_id or Path(database.name).stem, model)
    lines = list(writer.lines(queries.values(), args.form))
    for question, why in writer.skipped:
        print(f"left out: {question!r}: {why}", file=sys.stderr)
    if not lines:
        raise UserError("there is no pair to write", "accept drafts first, or give --semantic with verified queries")
    write_text(Path(args.out), "".join(lines))
    print(f"{args.out}: {len(lines)} pairs", file=sys.stderr)
    return 0
