"""Joining a training, and what is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from openarctic.errors import CapacityError, UserError
from openarctic.train.parallel import ParallelConfig, ParallelModel, join
from openarctic.train.parallel.mesh import peers_answer
from tests.tiny import tiny_config
from tests.train.parallel.worlds import free_port, join_world, make_batch, make_model, spawn


@pytest.mark.parametrize(("field", "value"), [("expert", 0), ("expert_chunks", 0), ("timeout_s", 0.0)])
def test_sizes_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"parallel.{field} is 0"):
        ParallelConfig(**{field: value})


def test_a_process_that_nobody_started_as_one_of_several_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE") as caught, join(ParallelConfig()):
        pass
    assert "torchrun" in str(caught.value.hint)


def test_processes_that_cannot_share_are_refused() -> None:
    with pytest.raises(UserError, match="1 processes cannot share experts in groups of 2"):
        with join_world(0, 1, free_port(), ParallelConfig(expert=2)):
            pass


def test_one_process_is_a_world() -> None:
    with join_world(0, 1, free_port(), ParallelConfig()) as processes:
        assert (processes.rank, processes.count, processes.data, processes.expert) == (0, 1, 1, 1)
        assert processes.sum(torch.tensor(3.0)) == 3
        assert processes.gather({"a": 1}) == [{"a": 1}]
        assert processes.owned_experts(8) == range(8)


def test_others_that_never_come_are_an_error_after_the_timeout() -> None:
    with pytest.raises(CapacityError, match="gave no sign for 1 s"), join_world(0, 2, free_port(), ParallelConfig(timeout_s=1)):
        pass


def lose_a_process(rank: int, port: int, how: str, timeout_s: float, folder: Path) -> None:
    """The second of two processes ends, or falls silent; the first writes what it is told in the middle of a backward pass."""
    with join_world(rank, 2, port, ParallelConfig(expert=2, timeout_s=timeout_s)) as processes:
        parallel = ParallelModel(make_model(tiny_config(num_hidden_layers=1)), processes)
        loss = parallel.module(make_batch(tiny_config())[0]).logits.sum()
        processes.gather(None)
        if rank == 1:
            while how == "silent" and not (folder / "told").exists():
                time.sleep(0.1)
            os._exit(0)
        start_s = time.monotonic()
        try:
            with peers_answer(timeout_s):
                loss.backward()
        except CapacityError as error:
            (folder / "told").write_text(f"{time.monotonic() - start_s}\n{error.message}\n{error.hint}")
        os._exit(0)  # there is nobody to say goodbye to


@pytest.mark.parametrize(("how", "timeout_s", "limit_s"), [("gone", 600, 60), ("silent", 8, 60)])
def test_a_lost_process_is_an_error_on_the_others_and_no_hang(how: str, timeout_s: float, limit_s: float, tmp_path: Path) -> None:
    spawn(lose_a_process, 2, free_port(), how, timeout_s, tmp_path)
    seconds, message, hint = (tmp_path / "told").read_text().splitlines()
    assert f"another process of this training ended, or gave no sign for {timeout_s:g} s" in message
    assert "--max-restarts" in hint
    assert float(seconds) < limit_s


def test_errors_that_are_not_about_processes_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes"), peers_answer(1):
        raise RuntimeError("shapes cannot be multiplied")
