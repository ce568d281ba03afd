"""`openarctic model importance`: which columns of a model's matrices matter, measured on a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from openarctic.cli.model_convert import positive
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
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Measure and write."""
    from openarctic.errors import UserError
    from openarctic.formats.bundled import model_path

    if args.max_tokens < 2:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be at least 2")
    source = model_path(args.source)
    _check_free(args.out, source, args.text, force=args.force)
    _need_torch()
    measure(source, calibration_ids(source, args.text)[: args.max_tokens], args.out, args.text.name, threads=args.threads)
    print(args.out)
    return 0


def _check_free(out: Path, source: Path, text: Path, *, force: bool) -> None:
    from openarctic.errors import MissingError, UserError
    from openarctic.formats.sources import GGUFSource, open_source

    opened = open_source(source)
    inputs = [text, source, *(opened.file.paths if isinstance(opened, GGUFSource) else ())]
    opened.close()
    if out.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"{out} is read, and would be replaced", "write to another place")
    if out.is_dir():
        raise UserError(f"{out} is a folder", "give the name of a file")
    if out.exists() and not force:
        raise UserError(f"{out} exists already", "give another name, or --force to replace it")
    if not out.parent.is_dir():
        raise MissingError(f"no folder {out.parent}", "make it first")


def calibration(source: Path, ids: list[int]) -> str:
    """What a measurement depends on: the model's files, and the tokens (so the text, the tokenizer, and how many)."""
    import hashlib
    import json

    from openarctic.formats.sources import open_source

    opened = open_source(source)
    told = json.dumps([opened.fingerprint(), ids])
    opened.close()
    return hashlib.sha256(told.encode()).hexdigest()


def _need_torch() -> None:
    from openarctic.errors import MissingError

    try:
        import openarctic.model.importance  # noqa: F401
    except ImportError as error:
        raise MissingError("measuring importance needs PyTorch and transformers", "pip install 'openarctic[train]'") from error


def measure_once(source: Path, text: Path, out: Path, *, threads: int | None, restart: bool) -> Callable[[Path], None]:
    """What writes the importance of `source` on `text`; it keeps a file `out` that was measured on the same.

    Raises MissingError or UserError for a text that cannot be read, a model without tokenizer, or a file `out` of somebody else.
    """
    from openarctic.errors import UserError
    from openarctic.formats.imatrix import calibration_of

    _need_torch()
    ids = calibration_ids(source, text)[:MAX_TOKENS]
    found = calibration_of(out) if out.exists() else None
    if out.exists() and found is None:
        raise UserError(f"{out} is in the way, and no calibration made it", "move it away, or use it with --imatrix")

    def make(path: Path) -> None:
        if restart or found != calibration(source, ids):
            path.parent.mkdir(parents=True, exist_ok=True)
            measure(source, ids, path, text.name, threads=threads)

    return make


def measure(source: Path, ids: list[int], out: Path, dataset: str, *, threads: int | None) -> None:
    """Write the importance of `source` on tokens to `out`, with a line of progress."""
    import torch

    from openarctic.formats.imatrix import write_imatrix
    from openarctic.model.importance import measure_importance

    if threads:
        torch.set_num_threads(threads)
    importance = measure_importance(source, ids, progress=lambda done, of: renew(f"importance: layer {done} of {of}"))
    end()
    write_imatrix(out, importance, dataset, calibration=calibration(source, ids))
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
