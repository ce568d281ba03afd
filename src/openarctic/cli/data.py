"""`openarctic data`: text to what training reads. One file a subcommand, `data_NAME.py`."""

from __future__ import annotations

import argparse

SUMMARY = "tokenise training text, look at it, and check it against evaluation files"
DESCRIPTION = """\
Makes token shards of text, one folder for each domain; a curriculum mixes them (docs/data.md).
`openarctic data COMMAND --help` teaches each command.

examples:
  openarctic data prepare web.jsonl.gz --tokenizer ./checkpoint --out data/web
  openarctic data describe data/web data/sql --arctic 35000000
  openarctic data check-contamination web.jsonl.gz --against dev.jsonl:question
"""
COMMANDS = ("prepare", "describe", "check-contamination")

SPLITS = ("blank", "line", "file")  # those of `data.readers`, which the help must not load


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say what a document is."""
    parser.add_argument(
        "sources", nargs="+", metavar="SRC", help=".jsonl, .txt (both also .gz), .parquet, .arrow, or a dataset's folder"
    )
    parser.add_argument("--field", default="text", metavar="NAME", help="field or column that holds the text (default text)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="blank",
        help="documents of .txt files: between blank lines (default), one a line, or the whole file",
    )


def add_contamination(parser: argparse.ArgumentParser, option: str, required: bool) -> None:
    """The options of a check against evaluation files."""
    parser.add_argument(
        option,
        dest="against",
        action="append",
        required=required,
        default=None if required else [],
        metavar="FILE[:FIELD,...]",
        help="evaluation file, and the fields that hold its texts (default text); may be given again",
    )
    parser.add_argument("--words", type=int, default=13, metavar="N", help="length of a run that tells (default 13)")
