"""`openarctic data describe`: what is in token shards, and what a curriculum takes of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openarctic.cli.model_convert import positive
from openarctic.cli.render import render

if TYPE_CHECKING:
    from openarctic.data import Curriculum, TokenShards

SUMMARY = "say what is in token shards, and how a curriculum uses them"
DESCRIPTION = """\
Lists domains, documents and tokens of folders that `openarctic data prepare` made, and checks sizes; with --verify the checksum
of every file. With a curriculum (a JSON file, or Arctic's three stages scaled to a budget), lists what each stage takes of each
domain and how many epochs that is, without reading a token. It fails where the training would: a missing domain, proportions
that do not sum to 1, a domain repeated more often than max_epochs.

examples:
  openarctic data describe data/web --verify
  openarctic data describe data/* --arctic 35000000 --sequence-length 1024
  openarctic data describe data/* --curriculum curriculum.json --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of shards")
    parser.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    plan = parser.add_mutually_exclusive_group()
    plan.add_argument("--curriculum", type=Path, metavar="FILE.json", help="say what this curriculum takes")
    plan.add_argument(
        "--arctic", type=positive, metavar="TOKENS", help="say what Arctic's stages of this budget take of these domains"
    )
    parser.add_argument("--sequence-length", type=positive, default=4096, metavar="N", help="of --arctic (default 4096)")
    parser.add_argument(
        "--format", choices=("table", "csv", "md", "json"), default="table", help="form of the list (default table)"
    )


def run(args: argparse.Namespace) -> int:
    """Describe."""
    from openarctic.data.shards import TRAIN, VALIDATION, TokenShards, read_manifest

    found = {}
    for folder in args.folders:
        manifest = read_manifest(folder)
        splits = [split for split in (TRAIN, VALIDATION) if manifest.documents(split)]
        found[manifest.domain] = {split: TokenShards(folder, split, verify=args.verify) for split in splits}
    curriculum = _curriculum(args, list(found))
    if curriculum is None:
        sys.stdout.write(render(*_inventory([shards for splits in found.values() for shards in splits.values()]), args.format))
    else:
        sys.stdout.write(render(*_plan(curriculum, {name: splits[TRAIN] for name, splits in found.items()}), args.format))
    return 0


def _curriculum(args: argparse.Namespace, domains: list[str]) -> Curriculum | None:
    from openarctic.data.curriculum import arctic_curriculum, read_curriculum

    if args.curriculum:
        return read_curriculum(args.curriculum)
    return arctic_curriculum(args.arctic, args.sequence_length).only(domains) if args.arctic else None


Rows = tuple[list[str], list[list[Any]]]


def _inventory(found: list[TokenShards]) -> Rows:
    rows = [
        [
            shards.manifest.domain,
            shards.split,
            shards.num_documents,
            shards.num_tokens,
            round(shards.num_tokens / shards.num_documents, 1),
            len(shards.manifest.shards[shards.split]),
            shards.manifest.vocab_size,
            shards.manifest.tokenizer_sha256[:12],
            ", ".join(f"{count} {reason}" for reason, count in shards.manifest.left_out.items()),
        ]
        for shards in found
    ]
    columns = ["domain", "split", "documents", "tokens", "per document", "shards", "vocabulary", "tokenizer", "left out"]
    return columns, rows


def _plan(curriculum: Curriculum, found: dict[str, TokenShards]) -> Rows:
    from openarctic.data.curriculum import limit_repeats

    available = {name: shards.num_tokens for name, shards in found.items()}
    curriculum, changes = limit_repeats(curriculum, available)
    for change in changes:
        print(change, file=sys.stderr)
    rows = [
        [stage.name, name, round(100 * share, 3), round(share * stage.tokens), round(share * stage.tokens / available[name], 3)]
        for stage in curriculum.stages
        for name, share in stage.mixture.shares.items()
    ]
    return ["stage", "domain", "percent", "tokens", "epochs"], rows
