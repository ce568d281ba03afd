"""`openarctic semantic convert`: a semantic model as Cortex Analyst YAML."""

from __future__ import annotations

import argparse

SUMMARY = "write a semantic model as Cortex Analyst YAML"
DESCRIPTION = """\
Reads Cortex Analyst or Apache Ossie YAML and writes Cortex Analyst YAML, with keys in the usual order. Warnings tell what was not
understood (and kept), or has no place in the other form.

example:
  openarctic semantic convert ossie.yaml cortex.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="SRC", help="Cortex Analyst or Apache Ossie YAML")
    parser.add_argument("target", metavar="DST", nargs="?", help="where to write it (default: standard output)")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def run(args: argparse.Namespace) -> int:
    """Read and write."""
    from pathlib import Path

    from openarctic.cli.ask import read_semantic
    from openarctic.copilot.semantic.cortex import cortex_text, write_cortex
    from openarctic.errors import UserError

    model = read_semantic(args.source)
    assert model is not None
    target = Path(args.target) if args.target else None
    if target is None:
        print(cortex_text(model), end="")
        return 0
    if target.exists() and not args.force:
        raise UserError(f"{target} is there already", "give --force to write over it")
    write_cortex(model, target)
    return 0
