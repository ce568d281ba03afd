"""`openarctic write procedure`: stored procedures for PostgreSQL and Snowflake."""

from __future__ import annotations

import argparse

from openarctic.cli.write import add_target_arguments, add_writing_arguments

SUMMARY = "stored procedures for PostgreSQL and Snowflake"
DESCRIPTION = """\
Writes a procedure or function in PL/pgSQL or Snowflake Scripting, whichever the database speaks. Every statement in it is
checked; it may change the named targets and nothing else, and build no SQL at run time. Nothing is created in the database.

examples:
  openarctic write procedure "orders of a customer, newest first" --db postgresql://reader@localhost/shop --model openai
  openarctic write procedure "refresh revenue by month" --target revenue --db snowflake://... --model openai
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_writing_arguments(parser, "what it is to do; - reads it from standard input")
    add_target_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write, check, save."""
    from dataclasses import replace

    from openarctic.cli.write import described, fitting, open_source, write, writing_model
    from openarctic.copilot.writing.procedure import Procedure

    description = described(args)
    _, access, whole = open_source(args)
    # Before a model is loaded: it refuses databases that have no procedures.
    task = Procedure(description, access.schema, tuple(args.target), args.name, whole=whole)
    model = writing_model(args)
    return write(args, replace(task, shown=fitting(access.schema, description, model)), access, model)
