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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint folder or GGUF file, or a bundled model's name")
    parser.add_argument("text", type=Path, metavar="TEXT", help="the calibration text, UTF-8")
    parser.add_argument("out", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument("--max-tokens", type=int, default=65536, metavar="N", help="of the text at most (default 65536)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Measure and write."""
    from openarctic.engine.library import bundled_models
    from openarctic.errors import MissingError, UserError
    from openarctic.formats.imatrix import write_imatrix

    try:
        import torch

        from openarctic.model.importance import measure_importance
    except ImportError as error:
        raise MissingError("measuring needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    if args.max_tokens < 2:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be at least 2")
    if args.threads:
        torch.set_num_threads(args.threads)
    source = bundled_models().get(args.source, Path(args.source))
    ids = calibration_ids(source, args.text)[: args.max_tokens]
    importance = measure_importance(source, ids, progress=lambda done, of: renew(f"layer {done} of {of}"))
    end()
    write_imatrix(args.out, importance, args.text.name)
    print(f"{len(ids)} tokens; importance of {len(importance)} tensors", file=sys.stderr)
    print(args.out)
    return 0


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
