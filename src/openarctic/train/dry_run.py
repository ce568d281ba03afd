"""What a run will cost, before it runs: sizes and FLOPs by arithmetic, time and memory from a few real steps.

The steps run in a temporary folder beside the run's own, with everything that a run does; the model is spoiled by them. Where an
epoch lies ready, they have batches of all sizes, for the time of its mean batch, and at last its largest one, for the memory.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openarctic.config import read_object, write_text
from openarctic.errors import CapacityError
from openarctic.planner.activations import saved_bytes
from openarctic.planner.training import TrainingBytes, training_bytes
from openarctic.train.boxes import local_part
from openarctic.train.checkpoint import checkpoints_folder, saved_steps
from openarctic.train.job import Job
from openarctic.train.objectives import BatchSize, device_of
from openarctic.train.optimizer import is_hidden_matrix
from openarctic.train.room import check_device_memory
from openarctic.train.throughput import gemm_flops, held_experts, memory_bytes, step_flops
from openarctic.train.trainer import Progress, train
from openarctic.train.tune import EpochSource

ESTIMATE = "estimate.json"
MIN_STEPS, MAX_STEPS, TRIAL_SECONDS = 5, 24, 15.0
FORWARD_SHARE = 1 / 3  # of a step's time: the backward pass has two products for each of the forward's


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Sizes in parameters and bytes, time in seconds. `memory_bytes` is the most that the process (or accelerator) holds."""

    parameters: int
    active_parameters: int
    trained_parameters: int
    steps: int | None  # None: the run ends by its minutes
    tokens_per_step: float
    flops_per_step: float
    weight_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int | None  # of the largest batch, by arithmetic; None where its size is not known
    memory_bytes: int
    checkpoint_bytes: int
    disk_bytes: int  # of all checkpoints at once and the exported files
    seconds_per_step: float
    tokens_per_s: float
    peak_flops: float
    peak_share: float
    seconds: float  # of the whole run: steps, validation, checkpoints


def bytes_needed(job: Job, of_all: bool = False) -> TrainingBytes:
    """What the job's training holds at least: this process, or with `of_all` all together, counting every tensor once."""
    copies = job.model.config.num_local_experts // max(1, held_experts(job.model))  # of what this process has of the experts

    def size(name: str, parameter: Tensor) -> int:
        return parameter.numel() * (copies if ".experts." in name else 1) if of_all else local_part(parameter).numel()

    parameters = dict(job.model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    hidden = sum(size(name, p) for name, p in trained.items() if is_hidden_matrix(name, p))
    total = sum(size(name, p) for name, p in parameters.items())
    return training_bytes(total, sum(size(name, p) for name, p in trained.items()), hidden, job.config.optimizer)


def activation_bytes(job: Job) -> int | None:
    """What the forward pass of the largest batch keeps: with precision=bf16 the bound that `saved_bytes` states."""
    if job.largest_batch is None:
        return None
    return saved_bytes(job.model.config.shape, *job.largest_batch, recompute=job.config.recompute, with_logits=False)


def disk_needed(job: Job, checkpoint_bytes: int) -> int:
    """Bytes of all checkpoints that the run keeps at once (the last ones, the one being written, and every Nth), and of the
    exported files."""
    config = job.config
    marked = config.steps // config.keep_every if config.steps and config.keep_every else 0
    return checkpoint_bytes * (config.keep_last + 1 + marked) + job.exported_bytes


def check_room(job: Job, out: Path) -> None:
    """Raise CapacityError, with both numbers, before a run that lacks memory or disk for what it holds at least."""
    needed = bytes_needed(job)
    hint = "smaller batches with train.accumulate, train.recompute=true, fewer trained parameters, or a smaller model"
    held = needed.gradients + needed.moments + (activation_bytes(job) or 0)  # the weights are there already
    check_device_memory(held, "training (gradients, moments and activations)", hint, device_of(job.model))
    out.mkdir(parents=True, exist_ok=True)
    # A run that goes on has some of its checkpoints already; they make way for later ones.
    there = sum(path.stat().st_size for path in checkpoints_folder(out).glob("step-*/*"))
    disk, free = disk_needed(job, bytes_needed(job, of_all=True).checkpoint), shutil.disk_usage(out).free
    if disk > free + there:
        told = f"checkpoints and model files take {disk / 1e9:.1f} GB, {(free + there) / 1e9:.1f} GB are free for them at {out}"
        raise CapacityError(told, "make room, or set train.keep_last=1")


def estimate(job: Job, out: Path) -> Estimate:
    """Run a few steps and say what the whole run takes; `out/estimate.json` keeps it for the comparison afterwards.

    Raises CapacityError where memory or disk do not suffice.
    """
    check_room(job, out)
    needed, trial = bytes_needed(job), _try(job, out)
    parameters = dict(job.model.named_parameters())
    config = job.model.config
    experts = sum(p.numel() for name, p in parameters.items() if ".experts." in name)
    idle = experts * (config.num_local_experts - config.num_experts_per_tok) // config.num_local_experts if experts else 0
    total = sum(p.numel() for p in parameters.values())
    peak = gemm_flops(torch.bfloat16 if job.config.precision == "bf16" else torch.float32, device_of(job.model))
    found = Estimate(
        parameters=total,
        active_parameters=total - idle,
        trained_parameters=sum(p.numel() for p in parameters.values() if p.requires_grad),
        steps=job.config.steps,
        tokens_per_step=trial.tokens,
        flops_per_step=trial.flops,
        weight_bytes=needed.weights,
        gradient_bytes=needed.gradients,
        moment_bytes=needed.moments,
        activation_bytes=activation_bytes(job),
        memory_bytes=memory_bytes(device_of(job.model)),
        checkpoint_bytes=trial.checkpoint_bytes,
        disk_bytes=disk_needed(job, trial.checkpoint_bytes),
        seconds_per_step=trial.seconds,
        tokens_per_s=trial.tokens / trial.seconds,
        peak_flops=peak,
        peak_share=trial.flops / trial.seconds / peak,
        seconds=_seconds(job, trial),
    )
    write_text(out / ESTIMATE, json.dumps(asdict(found), indent=2) + "\n")
    return found


@dataclass(frozen=True, slots=True)
class _Trial:
    """Means of a step, and what a checkpoint took."""

    seconds: float
    tokens: float
    flops: float
    checkpoint_seconds: float
    checkpoint_bytes: int


class _Watched:
    """A source that ends when enough steps were seen, and keeps the sizes of its batches.

    Where an epoch lies ready (`epoch` has its sizes), they are drawn from all its sizes alike: the middle one, the quarters, the
    eighths; and one more step has the largest.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._limit = min(MAX_STEPS, job.config.steps or MAX_STEPS)
        batches = job.source.upcoming() if isinstance(job.source, EpochSource) else ()
        self.epoch = [job.objective.size(batch) for batch in batches]
        order = sorted(range(len(batches)), key=lambda i: self.epoch[i].tokens)
        self._ranked = [batches[i] for i in order]
        self.has_largest = False
        self.sizes: list[BatchSize] = []
        self.seen: list[tuple[float, Progress]] = []  # time of day and progress after every step

    @property
    def steps(self) -> int:
        """At most."""
        return self._limit + bool(self._ranked)

    def next_batch(self) -> Any:
        begins_step = len(self.sizes) == len(self.seen) * self._job.config.accumulate
        if begins_step and self._has_enough():
            if self.has_largest or not self._ranked:
                raise StopIteration
            self.has_largest = True
        batch = self._drawn() if self._ranked else self._job.source.next_batch()
        self.sizes.append(self._job.objective.size(batch))
        return batch

    def _has_enough(self) -> bool:
        if len(self.seen) >= self._limit:
            return True
        return len(self.seen) >= MIN_STEPS and self.seen[-1][1].seconds > TRIAL_SECONDS

    def _drawn(self) -> Any:
        if self.has_largest:
            return self._ranked[-1]
        share, part, count = 0.0, 0.5, len(self.sizes) + 1
        while count:  # its bits mirrored: 1/2, 1/4, 3/4, 1/8, 5/8, ...
            share, part, count = share + part * (count % 2), part / 2, count // 2
        return self._ranked[int(share * len(self._ranked))]

    def note(self, progress: Progress, record: dict[str, Any]) -> None:
        self.seen.append((time.monotonic(), replace(progress)))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise CapacityError("the trial steps went wrong: a loss was not finite", "look at the data and the learning rate")


def _try(job: Job, out: Path) -> _Trial:
    """Train a few steps in a folder of their own."""
    watched = _Watched(job)
    config = replace(
        job.config, steps=watched.steps, minutes=None, checkpoint_steps=None, checkpoint_minutes=1e9, validate_every=None
    )
    with tempfile.TemporaryDirectory(prefix="dry-run-", dir=out) as folder:
        train(job.model, job.objective, watched, config, Path(folder), on_step=watched.note)
        checkpoint_seconds = time.monotonic() - watched.seen[-1][0]
        newest = checkpoints_folder(Path(folder)) / f"step-{saved_steps(Path(folder))[-1]}"
        checkpoint_bytes = sum(path.stat().st_size for path in newest.iterdir())
    # The first step pays for what is made once, the largest batch is like no other.
    last = len(watched.seen) - watched.has_largest
    first = 1 if last > 1 else 0
    taken = watched.sizes[first * config.accumulate : last * config.accumulate]
    seconds = watched.seen[last - 1][1].seconds - (watched.seen[0][1].seconds if first else 0.0)
    flops, mean = step_flops(job.model), watched.epoch or taken
    computed = sum(map(flops.of, taken))
    mean_flops = sum(map(flops.of, mean)) / len(mean) * config.accumulate
    return _Trial(
        seconds=seconds * mean_flops / computed,
        tokens=sum(size.tokens for size in mean) / len(mean) * config.accumulate * job.processes.count,
        flops=mean_flops,
        checkpoint_seconds=checkpoint_seconds,
        checkpoint_bytes=checkpoint_bytes,
    )


def _seconds(job: Job, trial: _Trial) -> float:
    """Of the whole run."""
    config = job.config
    training = config.steps * trial.seconds if config.steps else math.inf
    if config.minutes:
        training = min(training, 60 * config.minutes)
    steps = training / trial.seconds
    saves = 2 + (steps / config.checkpoint_steps if config.checkpoint_steps else training / 60 / config.checkpoint_minutes)
    held_out = sum(job.objective.size(batch).tokens for batches in job.validation.values() for batch in batches)
    validations = steps / config.validate_every if config.validate_every else 0.0
    return training + saves * trial.checkpoint_seconds + validations * held_out * trial.seconds / trial.tokens * FORWARD_SHARE


def compare(out: Path, progress: Progress, held_bytes: int) -> str | None:
    """What was estimated for so many steps beside what they took, and the memory that was held; None without an estimate."""
    if not (out / ESTIMATE).is_file() or not progress.step:
        return None
    told = read_object(out / ESTIMATE)
    wanted, took = told["seconds_per_step"] * progress.step, progress.seconds
    held = f"; {told['memory_bytes'] / 1e9:.2f} GB of memory, it took {held_bytes / 1e9:.2f} GB"
    return f"estimated {wanted:.1f} s for {progress.step} steps, they took {took:.1f} s ({took / wanted - 1:+.0%}){held}"
