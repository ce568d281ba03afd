"""`openarctic feedback accept`: drafts become verified queries."""

from __future__ import annotations

import argparse
import sys

SUMMARY = "make drafts verified queries of a semantic model"
DESCRIPTION = """\
Each draft's SQL must pass the guard and run on the database, and mean the same whether its names are read as the database's or as
the semantic model's. The model's file is written anew (comments in it are lost), then the review is noted in --store.

example:
  openarctic feedback accept 3f2a9c --semantic shop.yaml --db shop.duckdb --by ada
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from openarctic.cli.feedback import add_store_argument

    parser.add_argument("drafts", metavar="ID", nargs="+", help="the beginning of a draft's id is enough")
    parser.add_argument("--semantic", metavar="FILE", required=True, help="the semantic model (Cortex Analyst YAML)")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="the database (default: the bundled sample)")
    parser.add_argument("--by", metavar="NAME", required=True, help="who accepts; the answers will name them")
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check each, write the model, note the reviews."""
    import time
    from pathlib import Path

    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.feedback import FeedbackFile, Review, find_draft, with_verified
    from openarctic.copilot.sample import database_or_sample
    from openarctic.copilot.semantic.cortex import read_cortex, write_cortex
    from openarctic.copilot.semantic.probe import Probe
    from openarctic.copilot.semantic.review import check_draft

    path, file = Path(args.semantic), FeedbackFile(Path(args.store))
    model, _ = read_cortex(path)
    drafts = file.drafts()
    chosen = [find_draft(drafts, id_) for id_ in args.drafts]
    reviews = [Review(id=draft.id, decision="accepted", by=args.by, at=int(time.time())) for draft in chosen]
    database = database_or_sample(args.db)
    schema = read_schema(database)
    with Probe(database, schema) as probe:
        for draft, review in zip(chosen, reviews, strict=True):
            check_draft(draft, model, probe)
            draft.reviewed_by, draft.reviewed_at = review.by, review.at
            model = with_verified(model, draft.verified_query())
    write_cortex(model, path)
    for draft, review in zip(chosen, reviews, strict=True):
        file.append(review)
        print(f"{draft.id}: {draft.question!r} {draft.verified_query().badge}", file=sys.stderr)
    return 0
