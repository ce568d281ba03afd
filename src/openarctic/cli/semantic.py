"""`openarctic semantic`: semantic models checked and converted."""

from __future__ import annotations

import argparse

from openarctic.cli import add_commands

SUMMARY = "check and convert semantic models"
DESCRIPTION = """\
Semantic models are Cortex Analyst YAML; Apache Ossie files are read too. `openarctic init` drafts one.

  lint     finds what is wrong, doubtful or missing, by itself, against a database, and on its data
  convert  writes a model of either form as Cortex Analyst YAML, in the usual order of its keys

examples:
  openarctic semantic lint model.yaml --db shop.duckdb
  openarctic semantic convert ossie.yaml model.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands."""
    add_commands(parser, "subcommand", "openarctic.cli.semantic_", ("lint", "convert"))


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    code: int = args.run_subcommand(args)
    return code
