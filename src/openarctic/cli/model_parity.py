"""`openarctic model parity`: does every runtime give the same answers?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from openarctic.cli.progress import renew

SUMMARY = "compare every installed runtime on one model"
DESCRIPTION = """\
Runs one set of prompts through every runtime that is installed (our engine, torch, transformers, llama.cpp, vLLM), all in
float32, and compares logits and greedy tokens with plain numpy in float64. SOURCE is a checkpoint folder or a GGUF file; the
other forms are converted from it in a temporary folder.

The exit code is 1 when a runtime failed, differs by more than --tolerance, or diverges where the reference was not undecided.

examples:
  openarctic model parity ./checkpoint
  openarctic model parity model.gguf --runtimes openarctic,llama.cpp --max-tokens 16 --format json
"""
COLUMNS = (
    "name",
    "version",
    "max_logit_diff",
    "mean_logit_diff",
    "greedy_agreement",
    "first_divergence",
    "divergence_margin",
    "ties",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint folder or GGUF file, or a bundled model's name")
    parser.add_argument("--runtimes", metavar="A,B", help="only these: openarctic, torch, transformers, llama.cpp, vllm")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="texts, one a line (default: twenty of our own)")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="greedy tokens a prompt (default 32)")
    parser.add_argument(
        "--tolerance", type=float, metavar="X", help="largest logit difference (default 1e-3; 5.0 for quantised files)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each runtime (default: all)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from openarctic.cli.render import render
    from openarctic.errors import MissingError, UserError
    from openarctic.formats.bundled import model_path
    from openarctic.machine import default_threads

    for name, value, least in (("--max-tokens", args.max_tokens, 1), ("--threads", args.threads, 1)):
        if value is not None and value < least:
            raise UserError(f"{name} is {value}, it must be at least {least}")
    if args.tolerance is not None and not 0 <= args.tolerance < float("inf"):
        raise UserError(f"--tolerance is {args.tolerance}, it must be a finite number of at least 0")
    texts = _texts(args.prompts) if args.prompts else None
    try:
        from openarctic.model.parity import compare
    except ImportError as error:
        raise MissingError("the comparison needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    report = compare(
        model_path(args.source),
        texts=texts,
        runtimes=[n.strip() for n in args.runtimes.split(",")] if args.runtimes else None,
        max_tokens=args.max_tokens,
        tolerance=args.tolerance,
        threads=args.threads or default_threads(),
        progress=renew,
    )
    renew("")
    if args.format == "json":
        print(json.dumps(report.to_dict()))
    else:
        rows = [[_short(getattr(runtime, column)) for column in COLUMNS] for runtime in report.runtimes]
        print(render(COLUMNS, rows, args.format), end="")
    for runtime in report.runtimes:
        if runtime.error:
            print(f"{runtime.name} failed: {runtime.error}", file=sys.stderr)
    for name, reason in report.skipped.items():
        print(f"{name} skipped: {reason}", file=sys.stderr)
    summary = f"reference: {report.reference}; {report.prompts} prompts, {report.max_tokens} tokens each"
    print(f"{summary}; {'within' if report.is_ok else 'PAST'} the tolerance of {report.tolerance:g}", file=sys.stderr)
    return 0 if report.is_ok else 1


def _texts(path: Path) -> list[str]:
    from openarctic.errors import MissingError, UserError

    if not path.is_file():
        raise MissingError(f"no prompts at {path}")
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8") from error
    if not texts:
        raise UserError(f"{path} has no prompts", "one a line")
    return texts


def _short(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value
