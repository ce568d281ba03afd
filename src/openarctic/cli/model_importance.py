"""`openarctic model importance`: which columns of a model's matrices matter, measured on a text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openarctic.cli.progress import end, renew

SUMMARY = "measure an importance matrix on a calibration text"
DESCRIPTION = """\
Runs a model over a text and writes, for every matrix, the mean square of what each column meets, in the form of llama.cpp's
imatrix.gguf. `openarctic model convert --imatrix` (and llama-quantize --imatrix) round with it, so that what matters on such
text loses least. Some ten thousand tokens of the kind that the model will see are enough. One layer is in memory at a time.

example:
  openarctic model importance ./checkpoint questions.txt imatrix.gguf
  openarctic model convert ./checkpoint model.gguf --type Q4_K_M --imatrix imatrix.gguf
"""

MAX_TOKENS = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint folder or GGUF file, or a bundled model's name")
    parser.add_argument("text", type=Path, metavar="TEXT", help="the calibration text, UTF-8")
    parser.add_argument("out", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument(
        "--max-tokens", type=int, default=MAX_TOKENS, metavar="N", help=f"of the text at most (default {MAX_TOKENS})"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Measure and write."""
    from openarctic.errors import UserError
    from openarctic.formats.bundled import model_path

    if args.max_tokens < 2:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be at least 2")
    source = model_path(args.source)
    measure(source, args.text, args.out, threads=args.threads, max_tokens=args.max_tokens)
    print(args.out)
    return 0


def measure(source: Path, text: Path, out: Path, *, threads: int | None, max_tokens: int = MAX_TOKENS) -> None:
    """Write the importance of `source` on `text` to `out`, with a line of progress."""
    from openarctic.errors import MissingError
    from openarctic.formats.imatrix import write_imatrix

    try:
        import torch

        from openarctic.model.importance import measure_importance
    except ImportError as error:
        raise MissingError("measuring importance needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    if threads:
        torch.set_num_threads(threads)
    ids = calibration_ids(source, text)[:max_tokens]
    importance = measure_importance(source, ids, progress=lambda done, of: renew(f"importance: layer {done} of {of}"))
    end()
    write_imatrix(out, importance, text.name)
    print(f"importance of {len(importance)} tensors, from {len(ids)} tokens", file=sys.stderr)


def calibration_ids(source: Path, text: Path) -> list[int]:
    """The text in the model's tokens. Raises MissingError (no text, no tokenizer) or UserError (not UTF-8)."""
    from openarctic.errors import MissingError, UserError
    from openarctic.formats.sources import open_source
    from openarctic.formats.targets import find_tokenizer

    if not text.is_file():
        raise MissingError(f"no calibration text at {text}")
    opened = open_source(source)
    tokenizer = find_tokenizer(opened)
    opened.close()
    if tokenizer is None:
        raise MissingError(f"{source} has no tokenizer", "a text needs one")
    try:
        return tokenizer.encode(text.read_text(encoding="utf-8"), add_special=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{text} is not UTF-8") from error
