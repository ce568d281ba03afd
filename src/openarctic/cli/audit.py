"""`openarctic audit`: the log of who read what."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SUMMARY = "check the audit log of a policy"
DESCRIPTION = """\
A policy file with `audit: FILE` has every question and statement recorded there, one JSON object a line, each with the hash
of the one before. `verify` follows the chain and names the first line that was changed, dropped or added. It prints the last
hash: kept elsewhere, it proves later (--anchor) that nothing was cut off.

examples:
  openarctic audit verify audit.jsonl
  openarctic audit verify audit.jsonl --anchor 5f2c...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("verify",), help="follow the chain of hashes")
    parser.add_argument("file", help="the log")
    parser.add_argument("--anchor", metavar="HASH", help="a hash that was printed earlier and must still be in the log")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Verify and print."""
    from dataclasses import asdict

    from openarctic.copilot.audit import verify

    chain = verify(Path(args.file), args.anchor)
    if args.format == "json":
        print(json.dumps({"status": "ok", **asdict(chain)}))
    elif not chain.lines:
        print("the log is empty")
    else:
        print(
            f"the chain of {chain.lines} lines holds, from {chain.first_time} to {chain.last_time}\nlast hash: {chain.last_hash}"
        )
    return 0
