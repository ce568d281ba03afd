"""`openarctic semantic lint`: what is wrong, doubtful or missing in a semantic model."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "find what is wrong in a semantic model"
DESCRIPTION = """\
Without --db the model is checked by itself; with it, its names are checked against the schema, and keys, verified queries and
enums on the data (--no-data leaves that out). The exit code is 2 where there are errors, else 0.

examples:
  openarctic semantic lint shop.yaml --db shop.duckdb
  openarctic semantic lint shop.yaml --level error
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", metavar="FILE", help="Cortex Analyst or Apache Ossie YAML")
    parser.add_argument("--db", metavar="URL_OR_PATH", help="the database that it is about")
    parser.add_argument("--no-data", action="store_true", help="ask the database for its schema alone")
    parser.add_argument("--level", choices=("error", "warning", "note"), default="note", help="the least to show (default: note)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Check and print."""
    from contextlib import nullcontext
    from dataclasses import asdict

    from openarctic.cli.ask import read_semantic
    from openarctic.copilot.databases import open_database, read_schema
    from openarctic.copilot.semantic.lint import LEVELS, lint
    from openarctic.copilot.semantic.probe import Probe

    model = read_semantic(args.model)
    assert model is not None
    if args.db is None:
        findings = lint(model)
    else:
        database = open_database(args.db)
        schema = read_schema(database)
        with nullcontext() if args.no_data else Probe(database, schema) as probe:
            findings = lint(model, schema, probe)
    shown = [f for f in findings if LEVELS.index(f.level) <= LEVELS.index(args.level)]
    if args.format == "json":
        print(json.dumps([asdict(f) for f in shown], ensure_ascii=False))
    else:
        for finding in shown:
            print(finding)
        counts = ", ".join(f"{sum(f.level == level for f in findings)} {level}s" for level in LEVELS)
        print(f"{args.model}: {counts}", file=sys.stderr)
    return 2 if any(f.level == "error" for f in findings) else 0
