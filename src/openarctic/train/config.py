"""What a training run is, as one frozen config; recipes build on it. No torch.

A field marked `may_change` may differ when a stopped run goes on; a change of any other is refused, by name
(`changed_fields`), because the run would be another one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from openarctic.errors import UserError

MAY_CHANGE = {"may_change": True}  # metadata of such a field


def may_change(default: Any) -> Any:
    """A config field that a resumed run may set anew."""
    return field(default=default, metadata=MAY_CHANGE)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, how fast, how exact, and what is kept.

    The run ends at `steps`, or at `minutes` of training time summed over resumed runs, or with its source of batches. One that
    ends by its minutes depends on the machine; every other can be repeated to the bit on a CPU.

    `rate` below is the share of the peak learning rate: it rises over `warmup_steps`, then follows `schedule` down to
    `final_rate` (`schedule.py`); `decay_share` is the last share of the run that wsd and linear spend on the way down.
    """

    steps: int | None = may_change(None)
    minutes: float | None = may_change(None)
    accumulate: int = 1  # batches of the source in one step

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 6e-4
    expert_lr: float | None = None  # of experts and routers; None: lr
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    muon_momentum: float = 0.95
    clip_norm: float = 1.0
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    warmup_steps: int = 100
    decay_share: float = 0.2
    final_rate: float = 0.0
    aux_loss_coef: float = 0.01
    unbiased_share: float = may_change(0.1)  # last share of the run, without the biases of loss-free balancing
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: products under autocast; weights and moments stay as they are
    recompute: bool = may_change(False)  # selective recomputation: less memory, the same bits
    seed: int = 0

    max_rollbacks: int = may_change(5)
    spike_sigmas: float = may_change(0.0)  # a loss so many deviations above the last `spike_window` is undone; 0: never
    spike_window: int = 100

    checkpoint_minutes: float = may_change(5.0)
    checkpoint_steps: int | None = may_change(None)
    keep_last: int = may_change(2)
    keep_every: int | None = may_change(None)  # checkpoints of these steps are never removed
    validate_every: int | None = may_change(None)
    tensorboard: bool = may_change(False)  # event files beside the log, for those who watch many runs

    def __post_init__(self) -> None:
        positive = ("accumulate", "lr", "clip_norm", "checkpoint_minutes", "keep_last", "spike_window")
        optional = ("steps", "minutes", "expert_lr", "checkpoint_steps", "keep_every", "validate_every")
        for name in (*positive, *optional):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}", "it must be greater than 0")
        for name in ("lr", "expert_lr", "weight_decay", "aux_loss_coef", "minutes"):
            if getattr(self, name) == math.inf:
                raise UserError(f"{name} is inf", "it must be finite")
        for name in ("weight_decay", "warmup_steps", "aux_loss_coef", "spike_sigmas", "max_rollbacks"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}", "it must not be negative")
        for name in ("unbiased_share", "decay_share", "final_rate", "beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}", "it must lie between 0 and 1")


def fixed_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, as JSON keeps it, of every field of a (nested) config that may not change in a resumed run."""
    values = ((name, value) for name, value, may_change in _leaves(config, prefix) if not may_change)
    return {name: json.loads(json.dumps(value, default=_plain)) for name, value in values}


def _leaves(config: Any, prefix: str = "", may_change: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """(dotted name, value, whether it may change) of every field that is no group."""
    for each in fields(config):
        name, value = f"{prefix}{each.name}", getattr(config, each.name)
        is_free = may_change or bool(each.metadata.get("may_change"))
        if is_dataclass(value):
            yield from _leaves(value, f"{name}.", is_free)
        else:
            yield name, value, is_free


def _plain(value: Any) -> Any:
    """What JSON has no form for: paths, and configs inside of lists."""
    return fixed_fields(value) if is_dataclass(value) else str(value)


def resolved(config: Any) -> dict[str, Any]:
    """The whole (nested) config as JSON can keep it."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    whole = {name: resolved(value) if is_dataclass(value) else value for name, value in values.items()}
    plain: dict[str, Any] = json.loads(json.dumps(whole, default=lambda v: resolved(v) if is_dataclass(v) else str(v)))
    return plain


def check_unchanged(saved: dict[str, Any], config: Any, checkpoint: Path) -> None:
    """Raise UserError naming the fields in which `config` differs from the fixed fields that a checkpoint was made with."""
    now = fixed_fields(config)
    free = {name for name, _, may_change in _leaves(config) if may_change}  # older versions may have fixed some of them
    absent = "absent"
    differing = [name for name in {**saved, **now} if name not in free and saved.get(name, absent) != now.get(name, absent)]
    if differing:
        told = ", ".join(f"{name} ({saved.get(name, absent)} -> {now.get(name, absent)})" for name in differing)
        raise UserError(
            f"the config changed under {checkpoint}: {told}", "set the old values again, or start a new run in another folder"
        )
