"""`openarctic model merge`: the weighted mean of models of one shape."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from openarctic.cli.model_convert import add_running_options, size

SUMMARY = "average the weights of models of one shape"
DESCRIPTION = """\
SRC are two or more models of one shape, checkpoint folders or .gguf files, usually runs that began with the same weights. DST
gets the mean of their weights (a "model soup", mergekit's `linear`); tokenizer and number types are those of the first. What is
the same in all keeps its bytes. A DST that ends in .gguf becomes a GGUF file, any other a checkpoint folder.

examples:
  openarctic model merge ./run-a ./run-b --out ./mean
  openarctic model merge tuned.gguf base.gguf --weights 0.7 0.3 --out merged.gguf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="SRC", help="a checkpoint folder, a .gguf file, a bundled model's name"
    )
    parser.add_argument(
        "--out", type=Path, required=True, dest="destination", metavar="DST", help="a .gguf file or a folder to make"
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="of each model, relative to their sum (default: equal)"
    )
    parser.add_argument("--split-max-size", type=size, metavar="SIZE", help="split a GGUF file: at most SIZE each, as 45M")
    add_running_options(parser)


def run(args: argparse.Namespace) -> int:
    """Merge, and say what was written."""
    from openarctic.cli.model_convert import converting, print_converted
    from openarctic.formats.bundled import model_path
    from openarctic.formats.convert import ConvertOptions, convert
    from openarctic.formats.merged import MergedSource
    from openarctic.formats.sources import open_source
    from openarctic.machine import default_threads

    with ExitStack() as stack:
        sources = []
        for path in map(model_path, args.sources):
            sources.append(open_source(path))
            stack.callback(sources[-1].close)
        merged = MergedSource(sources, args.weights)
        meter = stack.enter_context(converting(merged, args.destination))
        options = ConvertOptions(
            max_file_bytes=args.split_max_size,
            restart=args.restart,
            force=args.force,
            threads=args.threads or default_threads(),
        )
        converted = convert(merged, args.destination, options, on_progress=meter, note=meter.note)
    args.source = args.sources[0]
    print_converted(args, converted)
    return 0
