"""Supervised tuning of a hybrid on packs: the loop, its schedule, its log and its checkpoints."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openarctic.errors import CorruptError, UserError
from openarctic.model import ArcticForCausalLM
from openarctic.train.packing import Pack, Segment, pack_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """How long and how fast. The schedule ends at `steps`, or at `minutes` of training time summed over resumed runs.

    A run that ends by its steps can be repeated exactly; one that ends by its minutes depends on the machine.
    """

    steps: int | None = None
    minutes: float | None = None
    lr: float = 6e-4
    expert_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 20
    decay_share: float = 0.6
    clip_norm: float = 1.0
    aux_loss_coef: float = 0.01
    checkpoint_minutes: float = 5.0
    seed: int = 0


@dataclass(slots=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # packs done in this epoch
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0


Epochs = Callable[[int], Sequence[Pack]]
# Called after every step with where the run stands and the step's numbers (loss, accuracy, share done, ...).
OnStep = Callable[[Progress, dict[str, Any]], None]


def tune(
    model: ArcticForCausalLM,
    epochs: Epochs,
    config: TuneConfig,
    out: Path,
    resume: bool = True,
    on_step: OnStep | None = None,
) -> Progress:
    """Train the parameters that require a gradient on `epochs(0)`, `epochs(1)`, ... until the schedule ends.

    Writes `log.jsonl` (one object a step) and `checkpoints/step-N/` under `out`. Ctrl-C finishes the step and saves before
    it stops. Raises UserError where the schedule has no end, CorruptError for an unreadable checkpoint.
    """
    if not config.steps and not config.minutes:
        raise UserError("the training has no end", "set tune.steps or tune.minutes")
    out.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(model, config)
    progress = Progress()
    latest = latest_checkpoint(out) if resume else None
    if latest:
        progress = _load(latest, model, optimizer)
    saved = progress.seconds
    last = time.monotonic()
    with (out / "log.jsonl").open("a", encoding="utf-8") as log, _PatientInterrupt() as interrupt:
        for pack in _packs(epochs, progress):
            share = _share_done(progress, config)
            if share >= 1 or interrupt.asked:
                break
            record = _step(model, optimizer, pack, _rate(progress.step, share, config), config)
            now = time.monotonic()
            progress.seconds += now - last
            last = now
            progress.step += 1
            progress.position += 1
            progress.examples += len(pack.segments)
            progress.tokens += len(pack)
            log.write(json.dumps({**asdict(progress), **record}) + "\n")
            log.flush()
            if on_step:
                on_step(progress, {**record, "share": _share_done(progress, config)})
            if progress.seconds - saved > 60 * config.checkpoint_minutes:
                _save(out, model, optimizer, progress)
                saved = progress.seconds
        _save(out, model, optimizer, progress)
    if interrupt.asked:
        raise KeyboardInterrupt
    return progress


class _PatientInterrupt:
    """Remembers the first Ctrl-C, so that the step under way ends whole; a second one stops at once, saving nothing."""

    def __enter__(self) -> _PatientInterrupt:
        self.asked = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _packs(epochs: Epochs, progress: Progress) -> Iterator[Pack]:
    """The packs from where `progress` stands; the caller moves `progress.position` on when one is done."""
    while True:
        packs = epochs(progress.epoch)
        while progress.position < len(packs):
            yield packs[progress.position]
        progress.epoch += 1
        progress.position = 0


def _share_done(progress: Progress, config: TuneConfig) -> float:
    by_time = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
    by_steps = progress.step / config.steps if config.steps else 0.0
    return max(by_time, by_steps)


def _rate(step: int, share: float, config: TuneConfig) -> float:
    """Warm-up, then constant, then a line down to 2 % over the last `decay_share` of the time."""
    decay = min(1.0, (1 - share) / config.decay_share)
    return min(1.0, (step + 1) / config.warmup_steps) * max(0.02, decay)


def _optimizer(model: ArcticForCausalLM, config: TuneConfig) -> torch.optim.Optimizer:
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in trained:
        lr = config.expert_lr if "block_sparse_moe.experts" in name or ".gate." in name else config.lr
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()],
        betas=(0.9, 0.98),
        fused=True,
    )


def _step(
    model: ArcticForCausalLM,
    optimizer: torch.optim.Optimizer,
    pack: Pack,
    rate: float,
    config: TuneConfig,
) -> dict[str, Any]:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * rate
    result = pack_loss(model, pack)
    loss = result.cross_entropy + config.aux_loss_coef * result.aux_loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    if math.isfinite(norm.item()):
        optimizer.step()
    return {
        "loss": round(result.cross_entropy.item(), 5),
        "aux_loss": round(result.aux_loss.item(), 4),
        "accuracy": round(result.correct / result.targets, 4),
        "grad_norm": round(norm.item(), 4),
        "lr": config.lr * rate,
    }


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint whose manifest was written, or None."""
    found = [p for p in (out / "checkpoints").glob("step-*") if (p / "manifest.json").exists()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def _save(out: Path, model: ArcticForCausalLM, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Into a temporary folder, the manifest last, then renamed: a stop at any moment leaves the old one whole."""
    folder = out / "checkpoints" / f"step-{progress.step}"
    if (folder / "manifest.json").exists():
        return
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    trained = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
    moments = {
        f"optimizer.{index}.{key}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for key, tensor in state.items()
    }
    save_file({**{f"model.{n}": t for n, t in trained.items()}, **moments}, temporary / "state.safetensors")
    (temporary / "manifest.json").write_text(json.dumps({"format": 1, **asdict(progress)}))
    os.replace(temporary, folder)
    others = sorted((out / "checkpoints").glob("step-*"), key=lambda p: p.stat().st_mtime)
    for old in others[:-2]:
        shutil.rmtree(old)


def _load(folder: Path, model: ArcticForCausalLM, optimizer: torch.optim.Optimizer) -> Progress:
    try:
        tensors = load_file(folder / "state.safetensors")
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptError(f"cannot read checkpoint {folder}: {error}") from error
    manifest.pop("format")
    model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")}, strict=False)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**manifest)


def make_packs(
    segments: dict[str, list[Segment]],
    prefix: Callable[[str, random.Random | None], list[int]],
    rng: random.Random,
    *,
    max_tokens: int = 900,
    max_segments: int = 20,
    shuffle_share: float = 0.5,
) -> list[Pack]:
    """Packs in random order; `prefix(database, rng)` gives its schema ids, with shuffled order for a share."""
    packs = []
    for name, own in segments.items():
        own = own[:]
        rng.shuffle(own)
        size = math.ceil(len(own) / math.ceil(len(own) / max_segments))
        batch: list[Segment] = []
        for segment in own:
            if batch and (len(batch) >= size or sum(map(len, batch)) + len(segment) > max_tokens):
                packs.append((name, batch))
                batch = []
            batch.append(segment)
        packs.append((name, batch))
    rng.shuffle(packs)
    return [Pack(prefix(name, rng if rng.random() < shuffle_share else None), batch) for name, batch in packs]
