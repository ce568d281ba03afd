"""`openarctic model upcycle`: a dense model becomes a dense-MoE hybrid with the same logits."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openarctic.cli.model_convert import add_running_options, positive
from openarctic.cli.progress import end, renew

if TYPE_CHECKING:
    from openarctic.formats.sources import Source
    from openarctic.formats.upcycled import Fit, UpcycleConfig

SUMMARY = "make a dense-MoE hybrid of a dense model, with the same logits"
DESCRIPTION = """\
SRC is a model of the Llama or Qwen2 family, a Hugging Face folder or a .gguf file. DST that ends in .gguf becomes a GGUF file,
any other a checkpoint folder. The chosen layers get experts beside their MLP whose output begins at zero, so the logits stay
what they are until training begins. Work is done piece by piece and goes on after an interruption, as in `model convert`.

examples:
  openarctic model upcycle ./smollm2 ./hybrid --every 6 --experts 8 --top-k 2 --expert-size 256
  openarctic model upcycle model.gguf hybrid.gguf --layers 5,11,17 --experts 16 --top-k 2 --expert-size 128
  openarctic model upcycle ./qwen2 ./hybrid --every 2 --experts 32 --top-k 2 --expert-size 704 --init clustered \\
      --router warm --text some.txt --freeze-dense
"""
MAX_TOKENS = 8192


def layer_list(text: str) -> list[int]:
    """`5,11,17` -> numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers; 5,11,17 is") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", type=Path, metavar="SRC", help="a dense model: checkpoint folder or .gguf file")
    parser.add_argument("destination", type=Path, metavar="DST", help="a name that ends in .gguf, or a folder to make")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--layers", type=layer_list, metavar="I,J,...", help="layers that get experts, counted from 0")
    where.add_argument("--every", type=positive, metavar="N", help="every N-th layer does (default: 2, so layers 1, 3, ...)")
    parser.add_argument("--start", type=int, metavar="I", help="with --every: the first of them (default: N - 1)")
    parser.add_argument("--experts", type=positive, default=8, metavar="N", help="experts of a layer (default: 8)")
    parser.add_argument("--top-k", type=positive, default=2, metavar="K", help="experts of a token (default: 2)")
    parser.add_argument("--expert-size", type=positive, required=True, metavar="W", help="neurons of an expert")
    parser.add_argument(
        "--init",
        choices=("slices", "clustered", "random"),
        default="slices",
        help="what experts start from: random parts of the MLP, neurons that are alike, or nothing (default: slices)",
    )
    parser.add_argument("--router", choices=("random", "warm"), default="random", help="warm: fitted to --text, load balanced")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text for --router warm and --init clustered")
    parser.add_argument(
        "--max-tokens", type=positive, default=MAX_TOKENS, metavar="N", help=f"of the text at most (default: {MAX_TOKENS})"
    )
    parser.add_argument("--freeze-dense", action="store_true", help="note in DST that training shall leave the dense part alone")
    parser.add_argument("--type", metavar="TYPE", help="number type of DST, as in `model convert` (default: loses nothing)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add_running_options(parser)


def run(args: argparse.Namespace) -> int:
    """Upcycle, and say what was written."""
    from openarctic.cli.model_convert import converting, print_converted
    from openarctic.formats.bundled import model_path
    from openarctic.formats.convert import ConvertOptions, convert
    from openarctic.formats.sources import open_source
    from openarctic.formats.upcycled import UpcycledSource, exact_type
    from openarctic.machine import default_threads

    args.source = model_path(args.source)
    source = open_source(args.source)
    with converting(source, args.destination) as meter:
        config = upcycle_config(args, source)
        hybrid = UpcycledSource(source, config, _fit(args, source, config, meter.note))
        type_ = args.type or exact_type(source, args.destination)
        options = ConvertOptions(type=type_, restart=args.restart, force=args.force, threads=args.threads or default_threads())
        converted = convert(hybrid, args.destination, options, on_progress=meter, note=meter.note)
    print_converted(args, converted)
    return 0


def upcycle_config(args: argparse.Namespace, source: Source) -> UpcycleConfig:
    """What the options ask for. Raises UserError where they contradict each other."""
    from openarctic.errors import UserError
    from openarctic.formats.upcycled import UpcycleConfig

    every, count = args.every or 2, source.config.num_hidden_layers
    if args.start is not None and (args.layers or not 0 <= args.start < count):
        raise UserError(f"--start {args.start} with {count} layers", "it is a layer, counted from 0, and goes with --every")
    start = every - 1 if args.start is None else args.start
    layers = sorted(set(args.layers or range(start, count, every)))
    reads_text = args.router == "warm" or args.init == "clustered"
    if args.router == "warm" and not args.text:
        raise UserError("--router warm fits the routers to a text", "give --text FILE")
    if args.text and not reads_text:
        raise UserError("--text changes nothing here", "it is for --router warm and --init clustered")
    return UpcycleConfig(
        layers=tuple(layers),
        num_local_experts=args.experts,
        num_experts_per_tok=args.top_k,
        intermediate_size=args.expert_size,
        experts=args.init,
        is_warm=args.router == "warm",
        freeze_dense=args.freeze_dense,
        seed=args.seed,
    )


def _fit(
    args: argparse.Namespace, source: Source, config: UpcycleConfig, note: Callable[[str], None]
) -> Callable[[], Fit] | None:
    """What fits the new tensors to the text, if there is one."""
    if not args.text:
        return None
    from openarctic.cli.model_importance import calibration_ids
    from openarctic.errors import MissingError

    try:
        import torch

        from openarctic.train.layer_inputs import fit_to_text
    except ImportError as error:
        raise MissingError("reading a text needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    if args.threads:
        torch.set_num_threads(args.threads)
    ids = calibration_ids(args.source, args.text)[: args.max_tokens]

    def fit() -> Fit:
        def progress(done: int, of: int) -> None:
            renew(f"reading the text: layer {done} of {of}")

        fitted = fit_to_text(source, config, ids, progress=progress, note=note)
        end()
        return fitted

    return fit
