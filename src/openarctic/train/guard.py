"""What watches a run's losses: a loss that is not finite, or a spike, is undone by going back to a good checkpoint. No torch.

A spike is a loss more than `spike_sigmas` standard deviations above the mean of the last `spike_window` losses. Whoever rolls
back skips the batches of the step; a second time from the same checkpoint also those of the step before, then of the three
before, and so on, because the harm may have been done by an update that came earlier (Chowdhery et al. 2022, PaLM, section 5.1,
skip a few hundred batches before a spike). After `max_rollbacks` the run stops with an error.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openarctic.errors import UserError
from openarctic.train.config import TrainConfig

MIN_LOSSES = 20  # before which nothing is a spike


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step and the ordinals of the source's batches that it drew, the skipped ones aside."""

    step: int
    batches: tuple[int, ...]


@dataclass(slots=True)
class Guard:
    """Judges every step before its update is made, and remembers which batches are never to be trained on."""

    config: TrainConfig
    losses: deque[float] = field(default_factory=deque)
    skipped: set[int] = field(default_factory=set)
    rollbacks: int = 0
    again: int = 0  # rollbacks in a row to the same checkpoint
    target: int | None = None  # the step of that checkpoint

    def trouble(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong with a step, or None; a sound loss joins the window."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        limit = self._limit()
        if loss > limit:
            return f"the loss jumped to {loss:.4g}, past {limit:.4g}"
        self.losses.append(loss)
        while len(self.losses) > self.config.spike_window:
            self.losses.popleft()
        return None

    def _limit(self) -> float:
        if not self.config.spike_sigmas or len(self.losses) < min(MIN_LOSSES, self.config.spike_window):
            return math.inf
        return statistics.fmean(self.losses) + self.config.spike_sigmas * statistics.pstdev(self.losses)

    def roll_back(self, why: str, checkpoint: int, drawn: Sequence[Drawn]) -> list[int]:
        """Count a rollback to the checkpoint of that step, and choose the batches to skip from the steps drawn since, the
        troubled one last. Raises UserError after too many."""
        if self.rollbacks >= self.config.max_rollbacks:
            told = f"{why} in step {drawn[-1].step}, after {self.rollbacks} rollbacks"
            raise UserError(told, "lower the learning rate or look at the data; events.jsonl names the batches")
        self._count(checkpoint)
        skipped = [batch for step in drawn[-(2**self.again) :] for batch in step.batches]
        self.skipped.update(skipped)
        return skipped

    def recall(self, checkpoint: int, events: Iterable[Mapping[str, Any]]) -> None:
        """Take up, from the run's events, rollbacks to the checkpoint of that step which its own state does not know: the run
        was killed before the next one was saved."""
        for event in events:
            is_rollback = event.get("event") == "rollback" and event.get("to") == checkpoint
            if is_rollback and event.get("number", 0) > self.rollbacks:
                self._count(checkpoint)
                self.skipped.update(event["skipped_batches"])

    def _count(self, checkpoint: int) -> None:
        self.rollbacks += 1
        self.again = self.again + 1 if checkpoint == self.target else 0
        self.target = checkpoint

    def state_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {
            "losses": list(self.losses),
            "skipped": sorted(self.skipped),
            "rollbacks": self.rollbacks,
            "again": self.again,
            "target": self.target,
        }

    def load_state_dict(self, state: dict[str, Any], keep_verdicts: bool = False) -> None:
        """Take over a state; `keep_verdicts`: only the losses, because this guard itself decided to go back there."""
        self.losses = deque(state["losses"])
        if not keep_verdicts:
            self.skipped = set(state["skipped"])
            self.rollbacks, self.again, self.target = state["rollbacks"], state["again"], state["target"]
