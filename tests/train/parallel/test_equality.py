"""Several processes compute the loss and the gradients of one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from openarctic.model.recompute import recompute_selectively
from openarctic.train.parallel import ParallelConfig
from tests.tiny import tiny_config
from tests.train.parallel.worlds import Run, free_port, join_world, spawn, train_alone, train_together

CONFIG = tiny_config(num_hidden_layers=2)
# (processes, how they share): everything that the table of the guide promises.
WORLDS = {
    "data 4": (4, ParallelConfig()),
    "expert 4": (4, ParallelConfig(expert=4)),
    "data 2 x expert 2": (4, ParallelConfig(expert=2)),
    "shards 4": (4, ParallelConfig(shard=True)),
    "shards 2 x expert 2": (4, ParallelConfig(expert=2, shard=True)),
    "data 2": (2, ParallelConfig()),
    "expert 2": (2, ParallelConfig(expert=2)),
    "expert 2, no overlap": (2, ParallelConfig(expert=2, overlap=False)),
    "expert 2, one chunk": (2, ParallelConfig(expert=2, expert_chunks=1)),
    "expert 2, layers computed twice": (2, ParallelConfig(expert=2)),
    "expert 2, recomputed": (2, ParallelConfig(expert=2)),
    "shards 2": (2, ParallelConfig(shard=True)),
    "one": (1, ParallelConfig()),
}


def checkpoint_layers(model: Any) -> None:
    """Compute every layer, and so its exchanges, a second time in the backward pass."""
    model.gradient_checkpointing_enable({"use_reentrant": False})


CHANGES = {"expert 2, layers computed twice": checkpoint_layers, "expert 2, recomputed": recompute_selectively}


def train_in_worlds(rank: int, ports: list[int], folder: Path) -> None:
    """Every world of the table, one after the other; the processes that a world does not need go on."""
    for (name, (size, parallel)), port in zip(WORLDS.items(), ports, strict=True):
        if rank < size:
            with join_world(rank, size, port, parallel) as processes:
                torch.save(asdict(train_together(CONFIG, processes, CHANGES.get(name))), folder / f"{name}.{rank}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    folder = tmp_path_factory.mktemp("worlds")
    spawn(train_in_worlds, 4, [free_port() for _ in WORLDS], folder)
    return {name: [Run(**torch.load(folder / f"{name}.{r}.pt")) for r in range(size)] for name, (size, _) in WORLDS.items()}


@pytest.fixture(scope="module")
def truth() -> Run:
    return train_alone(CONFIG)


@pytest.mark.parametrize("name", WORLDS)
def test_losses_and_gradients_are_those_of_one_process(name: str, runs: dict[str, list[Run]], truth: Run) -> None:
    for run in runs[name]:
        assert run.losses == pytest.approx(truth.losses, rel=1e-5)
        assert run.norm == pytest.approx(truth.norm, rel=1e-5)
        for tensor, gradient in run.gradients.items():
            error = (gradient - truth.gradients[tensor]).norm() / truth.gradients[tensor].norm()
            assert error < 1e-5, (tensor, error)
    assert {tensor for run in runs[name] for tensor in run.gradients} == set(truth.gradients)


@pytest.mark.parametrize("name", WORLDS)
def test_the_first_process_gathers_the_whole_model(name: str, runs: dict[str, list[Run]], truth: Run) -> None:
    first, *others = (run.weights for run in runs[name])
    assert first is not None and truth.weights is not None and others == [None] * len(others)
    assert first.keys() == truth.weights.keys()
    for tensor, value in first.items():
        torch.testing.assert_close(value, truth.weights[tensor], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["expert 2, no overlap", "expert 2, one chunk", *CHANGES])
def test_the_schedule_does_not_change_a_bit(name: str, runs: dict[str, list[Run]]) -> None:
    for run, plain in zip(runs["expert 2"], runs[name], strict=True):
        assert run.losses == plain.losses
        assert all(torch.equal(g, plain.gradients[tensor]) for tensor, g in run.gradients.items())
