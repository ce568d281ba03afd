"""`openarctic model`: look at, convert and compare models. One file a subcommand, `model_NAME.py`."""

from __future__ import annotations

import argparse
import importlib

SUMMARY = "describe, convert and compare models"
DESCRIPTION = """\
Works on GGUF files and checkpoint folders; `openarctic model COMMAND --help` teaches each command.

examples:
  openarctic model describe arctic-480b
  openarctic model convert ./checkpoint model.gguf --type Q4_K_M
  openarctic model parity ./checkpoint
"""
COMMANDS: tuple[str, ...] = ("describe", "convert", "importance", "parity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for every subcommand."""
    commands = parser.add_subparsers(dest="model_command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"openarctic.cli.model_{name}")
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run_model=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    code: int = args.run_model(args)
    return code
