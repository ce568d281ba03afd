"""`openarctic model convert`: checkpoints and GGUF files into each other, in little memory, resumable."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from openarctic.cli.progress import end, renew

if TYPE_CHECKING:
    from openarctic.formats.convert import Converted, ConvertOptions, Progress
    from openarctic.formats.sources import Source

SUMMARY = "convert a checkpoint or GGUF file into another form or number type"
DESCRIPTION = """\
SRC is a checkpoint folder (Hugging Face or our training layout), a .gguf file (of splits the first), or a DeepSpeed folder
with mp_rank_00_model_states.pt. DST that ends in .gguf becomes a GGUF file, any other a checkpoint folder.
Names, shapes, dtypes and the index are compared before work starts. An interrupted run leaves DST.partial; the same command
goes on from there. Memory stays under 2 GB whatever the model's size.

examples:
  openarctic model convert ./checkpoint model.gguf --type Q4_K_M
  openarctic model convert ./checkpoint model.gguf --type Q4_0 --calibration questions.txt
  openarctic model convert ./checkpoint ./stacked --layout training
  openarctic model convert model.gguf ./checkpoint --type BF16
  openarctic model convert ./kv56 ./kv8 --collapse-kv
"""
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size(text: str) -> int:
    """`45G` -> bytes; units are decimal."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        value = float(number) * (_UNITS[unit] if unit else 1)
    except (ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; 45G or 800M is") from error
    if not 1 <= value < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a file")
    return int(value)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", type=Path, metavar="SRC", help="what to convert, or a bundled model's name")
    parser.add_argument("destination", type=Path, metavar="DST", help="a name that ends in .gguf, or a folder to make")
    parser.add_argument("--type", metavar="TYPE", help="Q8_0, Q4_K_M, BF16, ...; of a folder F32, F16 or BF16 (default: as SRC)")
    parser.add_argument("--pure", action="store_true", help="all matrices in the one type, no mixture")
    parser.add_argument(
        "--layout",
        choices=("huggingface", "training"),
        default="huggingface",
        help="training stacks a layer's experts",
    )
    kv = parser.add_mutually_exclusive_group()
    kv.add_argument("--collapse-kv", action="store_true", help="keep one of equal key and value heads, after comparing all bits")
    kv.add_argument("--kv-heads", type=positive, metavar="N", help="collapse to N key and value heads")
    parser.add_argument("--split-max-size", type=size, metavar="SIZE", help="split a GGUF file: at most SIZE each, as 45G")
    importance = parser.add_mutually_exclusive_group()
    importance.add_argument("--imatrix", type=Path, metavar="FILE", help="importance of columns, an imatrix.gguf of llama.cpp")
    importance.add_argument("--calibration", type=Path, metavar="TEXT", help="measure importance on a text")
    parser.add_argument("--verify", action="store_true", help="first read all of SRC: sha256 where given, no NaN")
    parser.add_argument("--stock", action="store_true", help="fail unless stock llama.cpp or the published code can run it")
    add_running_options(parser)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """How to run a conversion, whatever is converted."""
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--restart", action="store_true", help="begin anew instead of going on from DST.partial")
    parser.add_argument("--force", action="store_true", help="replace DST")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the report")


def run(args: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from openarctic.formats.bundled import model_path
    from openarctic.formats.convert import convert

    args.source = model_path(args.source)
    source = _open(args.source)
    measure = None
    with converting(source, args.destination) as meter:
        if args.calibration:
            args.imatrix, measure = _calibration(args)
        converted = convert(source, args.destination, _options(args), on_progress=meter, note=meter.note, measure=measure)
    if measure:
        args.imatrix.unlink()
    print_converted(args, converted)
    return 0


@contextlib.contextmanager
def converting(source: Source, destination: Path) -> Iterator[Meter]:
    """Around a conversion: its line of progress, which ends with it, as does the source; Ctrl-C says how to go on."""
    meter = Meter()
    try:
        yield meter
    except KeyboardInterrupt:
        meter.close()
        _tell_of_partial(destination)
        raise
    finally:
        source.close()
        meter.close()


def _tell_of_partial(destination: Path) -> None:
    """Say how an interrupted conversion goes on."""
    from openarctic.formats.resume import partial_folder, real_destination

    partial = partial_folder(real_destination(destination))
    if partial.exists():
        print(f"{partial} is kept: run the same command again to go on", file=sys.stderr)


def _open(path: Path) -> Source:
    from openarctic.errors import MissingError
    from openarctic.formats.sources import is_deepspeed, open_source

    if not is_deepspeed(path):
        return open_source(path)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingError("DeepSpeed checkpoints are read by PyTorch", "pip install 'openarctic[train]'") from error
    from openarctic.model.deepspeed import DeepSpeedSource

    return DeepSpeedSource(path)


def _calibration(args: argparse.Namespace) -> tuple[Path, Callable[[Path], None]]:
    """The importance file of --calibration, and what makes it; what an interrupted run has measured is not measured again."""
    from openarctic.cli.model_importance import measure_once

    path = args.destination.with_name(args.destination.name + ".imatrix.gguf")
    return path, measure_once(args.source, args.calibration, path, threads=args.threads, restart=args.restart)


def _options(args: argparse.Namespace) -> ConvertOptions:
    from openarctic.formats.convert import ConvertOptions
    from openarctic.machine import default_threads

    return ConvertOptions(
        type=args.type,
        is_pure=args.pure,
        layout=args.layout,
        kv_heads=args.kv_heads or ("auto" if args.collapse_kv else "keep"),
        max_file_bytes=args.split_max_size,
        imatrix=args.imatrix,
        is_stock=args.stock,
        is_verified=args.verify,
        restart=args.restart,
        force=args.force,
        threads=args.threads or default_threads(),
    )


def print_converted(args: argparse.Namespace, converted: Converted) -> None:
    """What was written, as JSON or in words; the path alone goes to standard output."""
    from openarctic.formats.sources import is_gguf

    files = [{"path": str(path), "bytes": path.stat().st_size} for path in converted.paths]
    speed = converted.bytes_read / converted.seconds
    if args.format == "json":
        import json

        body = {
            "status": "ok",
            "source": str(args.source),
            "destination": str(args.destination),
            "files": files,
            "tensors": converted.types,
            "bytes_read": converted.bytes_read,
            "bytes_written": converted.bytes_written,
            "resumed_bytes": converted.resumed_bytes,
            "seconds": round(converted.seconds, 3),
            "bytes_per_s": round(speed),
        }
        print(json.dumps(body, ensure_ascii=False))
        return
    print(files[0]["path"] if is_gguf(args.destination) else args.destination)
    types = ", ".join(f"{count} {type_}" for type_, count in sorted(converted.types.items(), key=lambda item: -item[1]))
    print(
        f"wrote {converted.bytes_written / 1e9:.3f} GB in {len(files)} file{'s' if len(files) > 1 else ''} ({types}) "
        f"in {converted.seconds:.1f} s, {speed / 1e6:.0f} MB of input a second",
        file=sys.stderr,
    )


class Meter:
    """The line of progress: percent, GB/s, time left."""

    def __init__(self) -> None:
        self._phase, self._started, self._shown, self._is_open = "", 0.0, 0.0, False

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase != self._phase:
            self._phase, self._started = progress.phase, now
        if now - self._shown < 0.2 and progress.done < progress.total:
            return
        self._shown, self._is_open = now, True
        renew(progress_line(progress, now - self._started))

    def note(self, text: str) -> None:
        """A sentence for the user, on a line of its own."""
        self.close()
        print(f"note: {text}", file=sys.stderr)

    def close(self) -> None:
        """End the line."""
        if self._is_open:
            end()
            self._is_open = False


def progress_line(progress: Progress, seconds: float) -> str:
    """`converting  42 %  0.61 GB/s  3:05 left`"""
    share = progress.done / progress.total if progress.total else 1.0
    speed = (progress.done - progress.start) / seconds if seconds > 0 else 0.0
    line = f"{progress.phase} {share:4.0%}  {speed / 1e9:.2f} GB/s"
    if not speed or progress.done >= progress.total:
        return line
    left = round((progress.total - progress.done) / speed)
    clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}" if left >= 3600 else f"{left // 60}:{left % 60:02d}"
    return f"{line}  {clock} left"
