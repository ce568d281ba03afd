"""`openarctic data prepare`: documents to token shards."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from openarctic.cli.data import add_contamination, add_reading
from openarctic.cli.model_convert import positive
from openarctic.cli.progress import end, renew

if TYPE_CHECKING:
    from openarctic.data.contamination import ContaminationCheck
    from openarctic.tokenizer import Tokenizer

SUMMARY = "tokenise documents into shards"
DESCRIPTION = """\
Reads documents, writes their token ids with an end token after each into DIR, and a manifest with checksums last. The folder is
one domain of a mixture. A stopped run goes on where it was when the same command is given again. Only a tokenizer that makes the
same ids can train on the result.

  --field NAME            which field of JSONL or column of Parquet and datasets is the text
  --validation-share 0.01 holds out documents by the hash of their text; training never reads them
  --drop-contaminated     leaves out documents that share a run of 13 words with an evaluation file

examples:
  openarctic data prepare web.jsonl.gz more.parquet --tokenizer arctic-nano --out data/web --validation-share 0.01
  openarctic data prepare wiki.txt --split file --tokenizer ./checkpoint --out data/wiki
  openarctic data prepare code.jsonl --field content --tokenizer model.gguf --out data/code --drop-contaminated dev.jsonl:question
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_reading(parser)
    parser.add_argument("--tokenizer", required=True, metavar="MODEL", help="checkpoint folder, GGUF file, or a bundled model")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--domain", metavar="NAME", help="name of the domain (default: that of the folder)")
    parser.add_argument(
        "--validation-share", type=float, default=0.0, metavar="P", help="part of the documents to hold out (default 0)"
    )
    add_contamination(parser, "--drop-contaminated", required=False)
    parser.add_argument(
        "--shard-tokens", type=positive, default=1 << 25, metavar="N", help="tokens of a shard (default 33554432)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Make the shards and say what they are."""
    from openarctic.data.prepare import PrepareOptions, prepare
    from openarctic.data.readers import ReadOptions
    from openarctic.data.shards import TRAIN, VALIDATION

    options = PrepareOptions(
        domain=args.domain or args.out.resolve().name,
        read=ReadOptions(field=args.field, split=args.split),
        validation_share=args.validation_share,
        shard_tokens=args.shard_tokens,
    )
    manifest = prepare(
        [Path(source) for source in args.sources],
        read_tokenizer(args.tokenizer),
        args.out,
        options,
        contamination=read_evaluations(args.against, args.words) if args.against else None,
        threads=args.threads,
        on_progress=_Meter(),
        note=lambda line: print(line, file=sys.stderr),
    )
    end()
    for split in (TRAIN, VALIDATION):
        if manifest.documents(split):
            print(f"{split}: {manifest.documents(split):,} documents, {manifest.tokens(split):,} tokens", file=sys.stderr)
    for reason, count in manifest.left_out.items():
        print(f"left out: {count:,} {reason}", file=sys.stderr)
    print(args.out)
    return 0


def read_tokenizer(name: str) -> Tokenizer:
    """Of a checkpoint folder, GGUF file or bundled model. Raises MissingError, UserError or CorruptError."""
    from openarctic.formats.bundled import model_path
    from openarctic.formats.gguf import read_gguf
    from openarctic.tokenizer import Tokenizer

    path = model_path(name)
    return Tokenizer.from_huggingface(path) if path.is_dir() else Tokenizer.from_gguf_metadata(read_gguf(path).metadata)


class _Meter:
    """A line of progress, at most four a second."""

    def __init__(self) -> None:
        self._start = self._shown = time.monotonic()

    def __call__(self, documents: int, tokens: int, text_bytes: int) -> None:
        now = time.monotonic()
        if now - self._shown > 0.25:
            self._shown = now
            rate = text_bytes / 1e6 / (now - self._start)
            renew(f"{documents:,} documents, {tokens:,} tokens, {text_bytes / 1e6:,.1f} MB of text, {rate:.2f} MB/s")


def read_evaluations(named: list[str], words: int) -> ContaminationCheck:
    """The check against `FILE[:FIELD,...]`. Raises what reading them raises."""
    from openarctic.data.contamination import ContaminationCheck
    from openarctic.data.readers import ReadOptions, read_documents

    evaluations = {}
    for name in named:
        path, fields = _split_fields(name)
        evaluations[path] = [document for field in fields for document in read_documents(path, ReadOptions(field=field))]
    return ContaminationCheck(evaluations, words)


def _split_fields(name: str) -> tuple[str, list[str]]:
    if Path(name).exists() or ":" not in name:
        return name, ["text"]
    path, _, fields = name.rpartition(":")
    return path, fields.split(",")
