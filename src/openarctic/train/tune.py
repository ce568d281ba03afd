"""Supervised tuning: its defaults, epochs of batches as a source, and packs made of segments that share a prefix."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openarctic.errors import UserError
from openarctic.train.config import TrainConfig
from openarctic.train.packing import Pack, Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(TrainConfig):
    """A training run with the defaults of supervised tuning."""

    expert_lr: float | None = 1e-3
    weight_decay: float = 0.01
    beta2: float = 0.98
    warmup_steps: int = 20
    decay_share: float = 0.6
    final_rate: float = 0.02


class EpochSource:
    """The batches of `epochs(0)`, `epochs(1)`, ... without end; an epoch is made when its first batch is wanted.

    `data` is a fingerprint of what epochs are made of, if known: a run goes on with the same data only. So it is with `base`,
    `path` and `sha256` of the model that it began with, because checkpoints lack the weights that do not learn.
    """

    def __init__(
        self, epochs: Callable[[int], Sequence[Any]], data: str | None = None, base: Mapping[str, str] | None = None
    ) -> None:
        self._epochs, self._data, self._base = epochs, data, base
        self._batches: Sequence[Any] | None = None
        self._epoch, self._position = 0, 0

    def next_batch(self) -> Any:
        """The next one. Raises StopIteration where an epoch is empty."""
        batches = self._current()
        if not batches:
            raise StopIteration
        self._position += 1
        return batches[self._position - 1]

    def upcoming(self) -> Sequence[Any]:
        """What is left of the epoch; the whole next one where nothing is."""
        return self._current()[self._position :]

    def _current(self) -> Sequence[Any]:
        """The epoch of the next batch."""
        if self._batches is not None and self._position >= len(self._batches):
            self._epoch, self._position, self._batches = self._epoch + 1, 0, None
        if self._batches is None:
            self._batches = self._epochs(self._epoch)
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches of it that were given."""
        made_of = {"data": self._data, "base": self._base and dict(self._base)}
        return {"epoch": self._epoch, "position": self._position, **{k: v for k, v in made_of.items() if v}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there. Raises UserError for a state of other data or of another base."""
        began = state.get("base")
        if self._base and began and began["sha256"] != self._base["sha256"]:
            raise UserError(
                f"this run began with the model {began['path']}, and {self._base['path']} is another one",
                "give the same --base, or begin a new run in another folder",
            )
        if state.get("data", self._data) != self._data:
            raise UserError(
                "the data of this run have changed since its checkpoint",
                "go on with the same data, or begin a new run from the checkpoint's weights",
            )
        if state["epoch"] != self._epoch:
            self._batches = None
        self._epoch, self._position = state["epoch"], state["position"]


def make_packs(
    segments: dict[str, list[Segment]],
    prefix: Callable[[str, Sequence[Segment], random.Random | None], list[int]],
    rng: random.Random,
    *,
    max_tokens: int = 900,
    max_segments: int = 20,
    shuffle_share: float = 0.5,
) -> list[Pack]:
    """Packs in random order; `prefix(database, segments, rng)` gives schema ids, from another schema (by `rng`) for a share."""
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
    return [Pack(prefix(name, batch, rng if rng.random() < shuffle_share else None), batch) for name, batch in packs]
