"""`openarctic init`: a first semantic model of a database."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openarctic.copilot.semantic.draft import Evidence

SUMMARY = "draft a semantic model of a database"
DESCRIPTION = """\
Reads tables, keys, comments and how values spread, and writes a semantic model (Cortex Analyst YAML) to go on from: roles of
columns, synonyms, sample values, relationships, plain metrics. No model is asked; the same database gives the same draft.
Columns that seem to be about persons get no sample values; --no-values puts none in at all.

examples:
  openarctic init --db shop.duckdb --out shop.yaml
  openarctic ask "Total amount by country?" --db shop.duckdb --semantic shop.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--db", metavar="URL_OR_PATH", help="file, data files or server (default: DATABASE_URL, else a sample)")
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: standard output)")
    parser.add_argument("--name", metavar="NAME", help="of the model (default: the database's)")
    parser.add_argument("--no-values", action="store_true", help="no sample values")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def run(args: argparse.Namespace) -> int:
    """Draft, write, say what is guessed."""
    from pathlib import Path

    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.sample import database_or_sample
    from openarctic.copilot.semantic.cortex import cortex_text, write_cortex
    from openarctic.copilot.semantic.draft import draft_model
    from openarctic.copilot.semantic.probe import Probe
    from openarctic.errors import UserError

    out = Path(args.out) if args.out else None
    if out is not None and out.exists() and not args.force:
        raise UserError(f"{out} is there already", "give --force to write over it, or another --out")
    database = database_or_sample(args.db)
    schema = read_schema(database)
    with Probe(database, schema) as probe:
        draft = draft_model(schema, args.name or Path(database.name).stem, probe, values=not args.no_values)
    if out is None:
        print(cortex_text(draft.model), end="")
    else:
        write_cortex(draft.model, out)
        print(f"{out}: {len(draft.model.tables)} tables, {len(draft.model.relationships)} relationships", file=sys.stderr)
    for evidence in draft.evidence:
        if evidence.overlap is not None:
            print(_guess(evidence), file=sys.stderr)
    return 0


def _guess(evidence: Evidence) -> str:
    assert evidence.overlap is not None
    found, distinct = evidence.overlap.found, evidence.overlap.distinct
    return f"guessed from values, please check: {evidence.left} > {evidence.right} ({found} of {distinct} values)"
