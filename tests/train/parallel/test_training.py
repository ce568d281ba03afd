"""A training that changes its number of processes on the way ends where one that stays alone does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from openarctic.data import Batch
from openarctic.model import ArcticForCausalLM
from openarctic.train.config import TrainConfig
from openarctic.train.objectives import LanguageModelling
from openarctic.train.parallel import ParallelConfig, ParallelModel
from openarctic.train.processes import ALONE, Processes, SpreadModel
from openarctic.train.trainer import train
from tests.train.parallel.worlds import free_port, join_world, spawn
from tests.train.worlds import Stream, tiny_hybrid

ROWS = 4
# One after the other: steps in all, processes, how they share. The last one is alone again.
STAGES = [
    (3, 4, ParallelConfig(expert=2)),
    (6, 2, ParallelConfig(expert=2, shard=True)),
    (9, 4, ParallelConfig(shard=True)),
    (12, 2, ParallelConfig(expert=2)),
    (15, 1, ParallelConfig()),
]


class SharedStream(Stream):
    """Every process's rows of the same batches, all of one length."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def next_batch(self) -> Batch:
        parts = [super(SharedStream, self).next_batch() for _ in range(ROWS // 2)]
        own = slice(self.processes.rank, None, self.processes.count)
        fields = ("input_ids", "labels", "document_ids", "position_ids", "domains")
        return Batch(*(np.concatenate([getattr(part, name) for part in parts])[own] for name in fields))


def advance(steps: int, out: Path, processes: Processes = ALONE, parallel: bool = False) -> ArcticForCausalLM | None:
    """Train, or go on training, until so many steps in all; the whole model, on the first process."""
    model = tiny_hybrid()
    spread: SpreadModel | None = ParallelModel(model, processes) if parallel else None  # type: ignore[arg-type]
    config = TrainConfig(steps=steps, lr=3e-3, warmup_steps=2, schedule="constant", checkpoint_steps=3)
    train(model, LanguageModelling(), SharedStream(processes), config, out, processes=processes, spread=spread)
    return spread.whole_model() if spread else model


def train_in_stages(rank: int, ports: list[int], out: Path) -> None:
    for (steps, size, parallel), port in zip(STAGES, ports, strict=True):
        if rank >= size:
            continue
        with join_world(rank, size, port, parallel) as processes:
            whole = advance(steps, out, processes, parallel=True)
            if whole is not None:
                torch.save(whole.state_dict(), out / f"whole-{steps}.pt")


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_processes_may_come_and_go(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    model = advance(STAGES[-1][0], alone)
    together.mkdir()
    spawn(train_in_stages, 4, [free_port() for _ in STAGES], together)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    assert len(losses(together)) == STAGES[-1][0]
    assert model is not None
    state = torch.load(together / f"whole-{STAGES[-1][0]}.pt")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-2, atol=2e-3)
