"""A recipe with its inputs: everything that a run needs, ready to start or to be estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openarctic.model import ArcticForCausalLM
from openarctic.train.config import TrainConfig
from openarctic.train.objectives import Objective
from openarctic.train.processes import ALONE, Processes, SpreadModel
from openarctic.train.trainer import OnStep, Progress, Say, Source, train


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained on what; `finish` writes the model's files and returns them. `recipe` holds `config`."""

    recipe: Any
    config: TrainConfig
    model: ArcticForCausalLM
    objective: Objective
    source: Source
    finish: Callable[[ArcticForCausalLM, Progress], tuple[Path, ...]]
    validation: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    largest_batch: tuple[int, int] | None = None  # sequences and tokens of each, where the recipe knows
    exported_bytes: int = 0  # of what `finish` writes
    notes: tuple[str, ...] = ()  # what whoever starts it should know
    processes: Processes = ALONE
    spread: SpreadModel | None = None

    def run(
        self,
        out: Path,
        *,
        resume: str | int = "auto",
        on_step: OnStep | None = None,
        say: Say | None = None,
    ) -> tuple[Path, ...]:
        """Train, or go on training, and write the files; raises what `train` does."""
        progress = train(
            self.model,
            self.objective,
            self.source,
            self.config,
            out,
            recipe=self.recipe,
            resume=resume,
            validation=self.validation,
            on_step=on_step,
            say=say,
            processes=self.processes,
            spread=self.spread,
        )
        whole = self.spread.whole_model() if self.spread else self.model
        return () if whole is None else self.finish(whole, progress)
