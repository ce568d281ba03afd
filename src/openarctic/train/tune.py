"""Supervised tuning on packs: the trainer's loop with epochs of packs as its source."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.model import ArcticForCausalLM
from openarctic.train.config import TrainConfig
from openarctic.train.objectives import PackTuning
from openarctic.train.packing import Pack, Segment
from openarctic.train.trainer import OnStep, Progress, Say, train


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(TrainConfig):
    """A training run with the defaults of supervised tuning."""

    expert_lr: float | None = 1e-3
    weight_decay: float = 0.01
    beta2: float = 0.98
    warmup_steps: int = 20
    decay_share: float = 0.6
    final_rate: float = 0.02


Epochs = Callable[[int], Sequence[Pack]]


class EpochSource:
    """The batches of `epochs(0)`, `epochs(1)`, ... without end; an epoch is made when its first batch is wanted."""

    def __init__(self, epochs: Callable[[int], Sequence[Any]]) -> None:
        self._epochs = epochs
        self._batches: Sequence[Any] | None = None
        self._epoch, self._position = 0, 0

    def next_batch(self) -> Any:
        """The next one. Raises StopIteration where an epoch is empty."""
        if self._batches is not None and self._position >= len(self._batches):
            self._epoch, self._position, self._batches = self._epoch + 1, 0, None
        if self._batches is None:
            self._batches = self._epochs(self._epoch)
        if not self._batches:
            raise StopIteration
        self._position += 1
        return self._batches[self._position - 1]

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches of it that were given."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""
        if state["epoch"] != self._epoch:
            self._batches = None
        self._epoch, self._position = state["epoch"], state["position"]


def tune(
    model: ArcticForCausalLM,
    epochs: Epochs,
    config: TrainConfig,
    out: Path,
    resume: str | int = "auto",
    on_step: OnStep | None = None,
    *,
    rounding: Mapping[str, str] | None = None,
    validation: Mapping[str, Sequence[Pack]] | None = None,
    recipe: Any = None,
    say: Say | None = None,
) -> Progress:
    """Train on `epochs(0)`, `epochs(1)`, ... until the schedule ends; everything else is `trainer.train`'s.

    `rounding` has GGUF types by the names of the parameters that are to be trained through them (`train.rounding`).
    """
    source = EpochSource(epochs)
    return train(
        model,
        PackTuning(rounding or {}),
        source,
        config,
        out,
        recipe=recipe,
        resume=resume,
        validation=validation,
        on_step=on_step,
        say=say,
    )


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
