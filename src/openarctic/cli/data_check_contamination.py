"""`openarctic data check-contamination`: which training documents contain evaluation texts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from openarctic.cli.data import add_contamination, add_reading
from openarctic.cli.data_prepare import read_evaluations
from openarctic.cli.progress import end, renew

if TYPE_CHECKING:
    from openarctic.data.contamination import ContaminationCheck, Finding

SUMMARY = "find training documents that contain evaluation texts"
DESCRIPTION = """\
Looks in training documents for runs of 13 words (--words) of evaluation texts, as GPT-3 did: lower case, without punctuation.
Every document that shares one is a line of standard output: its file and line, and what it shares with which evaluation text.
The summary on standard error has, for each evaluation, its texts, those that were found, and those of fewer words, which are
found as whole documents only.
`openarctic data prepare --drop-contaminated` leaves such documents out.

examples:
  openarctic data check-contamination web.jsonl.gz --against dev.jsonl:question,query
  openarctic data check-contamination data.parquet --field content --against gsm8k.jsonl:question --words 8 --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_reading(parser)
    add_contamination(parser, "--against", required=True)
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="a line a document (default), or one JSON object"
    )


def run(args: argparse.Namespace) -> int:
    """Check and report."""
    from openarctic.data.readers import ReadOptions, read_documents

    check = read_evaluations(args.against, args.words)
    options = ReadOptions(field=args.field, split=args.split)
    documents = text_bytes = 0
    findings = []
    start = shown = time.monotonic()
    for source in args.sources:
        for document in read_documents(Path(source), options):
            documents += 1
            text_bytes += len(document.text.encode("utf-8", "replace"))
            if finding := check.check(document):
                findings.append(finding)
                if args.format == "text":
                    print(_line(finding))
            if time.monotonic() - shown > 0.25:
                shown = time.monotonic()
                renew(f"{documents:,} documents, {text_bytes / 1e6 / (shown - start):.1f} MB/s, {len(findings)} contaminated")
    end()
    seconds = time.monotonic() - start
    if args.format == "json":
        print(json.dumps(_summary(check, findings, documents, text_bytes), ensure_ascii=False))
    _tell(check, len(findings), documents, text_bytes, seconds)
    return 0


def _line(finding: Finding) -> str:
    shared = ", ".join(f"{item.evaluation}:{item.line} ({count})" for item, count in finding.overlaps.items())
    return f"{finding.source}:{finding.index}\t{shared}"


def _summary(check: ContaminationCheck, findings: list[Finding], documents: int, text_bytes: int) -> dict[str, object]:
    evaluations = {
        name: {"texts": own.texts, "too_short": own.too_short, "found": sorted(own.found)}
        for name, own in check.evaluations.items()
    }
    told = [
        {
            "source": finding.source,
            "index": finding.index,
            "shares": [
                {"evaluation": item.evaluation, "line": item.line, "runs": runs} for item, runs in finding.overlaps.items()
            ],
        }
        for finding in findings
    ]
    return {"words": check.words, "documents": documents, "bytes": text_bytes, "contaminated": told, "evaluations": evaluations}


def _tell(check: ContaminationCheck, contaminated: int, documents: int, text_bytes: int, seconds: float) -> None:
    rate = text_bytes / 1e6 / max(seconds, 1e-9)
    print(f"{contaminated:,} of {documents:,} documents are contaminated ({rate:.1f} MB/s)", file=sys.stderr)
    for name, own in check.evaluations.items():
        print(
            f"{name}: {len(own.found):,} of {own.texts:,} texts found, {own.too_short:,} too short to be found inside a text",
            file=sys.stderr,
        )
