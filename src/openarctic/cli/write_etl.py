"""`openarctic write etl`: Python scripts that move data."""

from __future__ import annotations

import argparse

from openarctic.cli.write import add_target_arguments, add_writing_arguments

SUMMARY = "Python ETL scripts"
DESCRIPTION = """\
Writes a Python script from a description. It must compile and lint, import nothing but data libraries, and hold its SQL as plain
text, which is checked; it may write the named targets (tables, files) and nothing else. It is never executed here.

examples:
  openarctic write etl "load revenue by month" --target monthly_revenue --db shop.duckdb --model openai --out jobs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_writing_arguments(parser, "what it is to do; - reads it from standard input")
    add_target_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write, check, save."""
    from openarctic.cli.write import described, fitting, open_source, write, writing_model
    from openarctic.copilot.writing.etl import Etl
    from openarctic.errors import UserError

    name = args.name or "etl"
    if not name.isidentifier():
        raise UserError(f"--name {args.name!r} is no plain name", "letters, digits and _")
    description, model = described(args), writing_model(args)
    _, access, whole = open_source(args)
    shown = fitting(access.schema, description, model)
    return write(args, Etl(description, access.schema, tuple(args.target), name, shown, whole), access, model)
