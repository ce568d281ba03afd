"""The trainer on several processes: the run of one, and checkpoints that N write and M read."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from openarctic.data import Batch
from openarctic.train.checkpoint import latest_checkpoint
from openarctic.train.config import TrainConfig
from openarctic.train.objectives import LanguageModelling
from openarctic.train.parallel import ParallelConfig, ParallelModel
from openarctic.train.processes import ALONE, Processes
from openarctic.train.runlog import read_log
from openarctic.train.trainer import train
from tests.train.parallel.worlds import free_port, join_world, spawn
from tests.train.worlds import Stream, documents, tiny_hybrid

SETTINGS = TrainConfig(steps=4, schedule="constant", warmup_steps=2, lr=3e-3, accumulate=2, checkpoint_steps=2)


class Share(Stream):
    """A process's rows of every batch."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.rows = slice(processes.rank, None, processes.count)

    def next_batch(self) -> Batch:
        batch, self.number = documents(self.number, rows=4), self.number + 1
        names = ("input_ids", "labels", "document_ids", "position_ids", "domains")
        return Batch(*(getattr(batch, name)[self.rows] for name in names))


def go(out: Path, processes: Any = ALONE, **changes: Any) -> None:
    """Train, or go on training, the same model in one or several processes."""
    model = tiny_hybrid()
    spread = ParallelModel(model, processes) if processes.count > 1 else None
    settings = TrainConfig(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__slots__}, **changes})
    train(model, LanguageModelling(), Share(processes), settings, out, processes=processes, spread=spread)


WORLDS = {
    "experts": ParallelConfig(expert=2),
    "shards": ParallelConfig(shard=True),
    "shards and experts": ParallelConfig(expert=2, shard=True),
}
MUON = ("shards",)


def half_and_rest(rank: int, ports: list[int], folder: Path) -> None:
    """Of each world: the first half of a run, and the second half of one that a single process began."""
    for (name, parallel), port in zip(WORLDS.items(), ports, strict=True):
        with join_world(rank, 2, port, parallel) as processes:
            optimizer = "muon" if name in MUON else "adamw"
            go(folder / f"{name}, begun", processes, steps=2, optimizer=optimizer)
            go(folder / f"{name}, ended", processes, optimizer=optimizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    for name in WORLDS:
        go(folder / f"{name}, ended", steps=2, optimizer="muon" if name in MUON else "adamw")
    for optimizer in ("adamw", "muon"):
        go(folder / optimizer, optimizer=optimizer)
    spawn(half_and_rest, 2, [free_port() for _ in WORLDS], folder)
    return folder


def weights(out: Path) -> dict[str, Any]:
    found = latest_checkpoint(out)
    assert found is not None and found.step == 4
    return {name: found.read(name) for name in found.names}


@pytest.mark.parametrize("name", WORLDS)
def test_two_write_and_one_reads(folder: Path, name: str) -> None:
    optimizer = "muon" if name in MUON else "adamw"
    found = latest_checkpoint(folder / f"{name}, begun")
    assert found is not None and len(found.own) == 2 and found.step == 2
    assert len(found.manifest["files"]) == 2
    go(folder / f"{name}, begun", optimizer=optimizer)
    same(folder / f"{name}, begun", folder / optimizer)


@pytest.mark.parametrize("name", WORLDS)
def test_one_writes_and_two_read(folder: Path, name: str) -> None:
    same(folder / f"{name}, ended", folder / ("muon" if name in MUON else "adamw"))


def same(run: Path, truth: Path) -> None:
    """Weights, moments and losses are those of one process all the way."""
    got, wanted = weights(run), weights(truth)
    assert set(got) == set(wanted)
    for key in wanted:
        assert torch.allclose(got[key], wanted[key], rtol=1e-4, atol=1e-5), key
    for a, b in zip(read_log(run), read_log(truth), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["tokens"] == b["tokens"]
        assert a["aux_loss"] == pytest.approx(b["aux_loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["expert_load"] == b["expert_load"]


class Stopped(Share):
    """Asks the second process to stop while it reads its second batch."""

    def next_batch(self) -> Batch:
        if dist.get_rank() == 1 and self.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().next_batch()


def stop_one(rank: int, port: int, folder: Path) -> None:
    """What each process ends with goes into a file."""
    with join_world(rank, 2, port, ParallelConfig()) as processes:
        model = tiny_hybrid()
        try:
            train(
                model,
                LanguageModelling(),
                Stopped(processes),
                replace(SETTINGS, accumulate=1),
                folder / "run",
                processes=processes,
                spread=ParallelModel(model, processes),
            )
        except SystemExit as stopped:
            (folder / f"ended-{rank}").write_text(str(stopped.code))


def test_who_asks_one_process_to_stop_stops_all(tmp_path: Path) -> None:
    spawn(stop_one, 2, free_port(), tmp_path)
    assert [(tmp_path / f"ended-{rank}").read_text() for rank in range(2)] == ["143", "143"]
    found = latest_checkpoint(tmp_path / "run")
    assert found is not None and found.step == 2
