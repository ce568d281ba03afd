"""Several processes compute the loss and the gradients of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openarctic.train.parallel import ParallelConfig
from tests.tiny import tiny_config
from tests.train.parallel.worlds import free_port, join_world, loss_and_gradients, parallel_loss_and_gradients, spawn

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
    "shards 2": (2, ParallelConfig(shard=True)),
    "one": (1, ParallelConfig()),
}


def compute_in_worlds(rank: int, config: dict[str, Any], ports: list[int], folder: Path) -> None:
    """Every world of the table, one after the other; the processes that a world does not need go on."""
    for (name, (size, parallel)), port in zip(WORLDS.items(), ports, strict=True):
        if rank < size:
            with join_world(rank, size, port, parallel) as processes:
                torch.save(parallel_loss_and_gradients(config, processes), folder / f"{name}.{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("worlds")
    spawn(compute_in_worlds, 4, CONFIG, [free_port() for _ in WORLDS], folder)
    return {name: [torch.load(folder / f"{name}.{rank}.pt") for rank in range(size)] for name, (size, _) in WORLDS.items()}


@pytest.fixture(scope="module")
def truth() -> tuple[float, dict[str, torch.Tensor]]:
    return loss_and_gradients(CONFIG)


@pytest.mark.parametrize("name", WORLDS)
def test_loss_and_gradients_are_those_of_one_process(name: str, results: dict[str, list[Any]], truth: Any) -> None:
    loss, gradients = truth
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    seen = set()
    for own_loss, own, own_norm in results[name]:
        assert own_loss == pytest.approx(loss, rel=1e-6)
        assert own_norm == pytest.approx(norm.item(), rel=1e-5)
        for tensor, gradient in own.items():
            error = (gradient - gradients[tensor]).norm() / gradients[tensor].norm()
            assert error < 1e-5, (tensor, error)
        seen |= set(own)
    assert seen == set(gradients)


@pytest.mark.parametrize("name", ["expert 2, no overlap", "expert 2, one chunk"])
def test_the_schedule_does_not_change_a_bit(name: str, results: dict[str, list[Any]]) -> None:
    for (loss, gradients, _), (plain_loss, plain, _) in zip(results["expert 2"], results[name], strict=True):
        assert loss == plain_loss
        assert all(torch.equal(g, plain[tensor]) for tensor, g in gradients.items())
