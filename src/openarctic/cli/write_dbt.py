"""`openarctic write dbt`: dbt models, with sources and tests."""

from __future__ import annotations

import argparse

from openarctic.cli.write import add_writing_arguments

SUMMARY = "dbt models with tests and descriptions"
DESCRIPTION = """\
Writes dbt models from a description, with schema.yml and sources.yml. References must exist, SQL must pass the guard, and of
Jinja only ref, source, config and is_incremental are allowed: no hooks, no macros. With --staging no model is asked: a staging
model for each table, its sources and its tests are made from the schema.

examples:
  openarctic write dbt --staging --db shop.duckdb --tables orders,customers --out project
  openarctic write dbt "revenue by month and country" --db shop.duckdb --model http://127.0.0.1:8000/v1 --out project
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_writing_arguments(parser, None)
    parser.add_argument("--staging", action="store_true", help="staging models from the schema alone, without a model")
    parser.add_argument("--tables", metavar="A,B", help="only these tables (with --staging)")
    parser.add_argument("--source", metavar="NAME", help="dbt's name of the database (default: its own)")


def run(args: argparse.Namespace) -> int:
    """Write, check, save."""
    from openarctic.cli.write import described, fitting, give, open_source, write, writing_model
    from openarctic.copilot.writing.dbt import Dbt, source_name, staging
    from openarctic.errors import UserError

    if args.staging and args.description is not None:
        raise UserError("--staging takes no description", "leave one of the two out")
    if args.tables is not None and not args.staging:
        raise UserError("--tables belongs to --staging", "say in the description which tables are meant")
    if args.staging:
        name, access, _ = open_source(args)
        tables = [table.strip() for table in args.tables.split(",")] if args.tables else None
        return give(args, staging(access.schema, source_name(args.source or name), tables))
    description, model = described(args), writing_model(args)
    name, access, whole = open_source(args)
    shown = fitting(access.schema, description, model)
    return write(args, Dbt(description, access.schema, source_name(args.source or name), shown, whole), access, model)
