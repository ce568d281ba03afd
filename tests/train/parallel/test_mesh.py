"""Joining a training, and what is refused."""

from __future__ import annotations

import pytest
import torch

from openarctic.errors import CapacityError, UserError
from openarctic.train.parallel import ParallelConfig, join
from openarctic.train.parallel.mesh import peers_answer
from tests.train.parallel.worlds import free_port, join_world


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


def test_errors_that_are_not_about_processes_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes"), peers_answer(1):
        raise RuntimeError("shapes cannot be multiplied")
