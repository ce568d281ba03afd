"""Schedules: where they begin, bend and end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from openarctic.errors import UserError
from openarctic.train.config import TrainConfig
from openarctic.train.schedule import learning_rate


def rates(**changes: object) -> list[float]:
    config = TrainConfig(**{"steps": 100, "warmup_steps": 10, "decay_share": 0.25, "final_rate": 0.1, **changes})  # type: ignore[arg-type]
    return [learning_rate(config, step, step / 100) for step in range(101)]


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine", "constant"])
def test_warm_up_is_a_line_and_the_end_is_the_final_rate(schedule: str) -> None:
    all_rates = rates(schedule=schedule)
    assert all_rates[0] == pytest.approx(0.1)
    assert all_rates[9] == pytest.approx(1.0)
    assert all_rates[4] == pytest.approx(all_rates[9] / 2)
    assert all_rates[100] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert max(all_rates) <= 1.0
    assert all(a >= b for a, b in pairwise(all_rates[9:]))


def test_wsd_is_constant_until_its_decay() -> None:
    all_rates = rates(schedule="wsd")
    assert all_rates[10:76] == [1.0] * 66
    assert all_rates[88] == pytest.approx(0.1 + 0.9 * 12 / 25)


def test_linear_and_cosine_pass_the_middle_together() -> None:
    # Half way between warm-up and end both stand half way down.
    assert rates(schedule="linear")[55] == pytest.approx(0.55)
    assert rates(schedule="cosine")[55] == pytest.approx(0.55)
    assert rates(schedule="cosine")[30] > rates(schedule="linear")[30]


def test_the_cosine_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.1)
    ours = rates(schedule="cosine", warmup_steps=0)
    for step in range(100):
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("lr", -1.0), ("decay_share", 1.5), ("warmup_steps", -1), ("accumulate", 0)]
)
def test_values_without_meaning_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        TrainConfig(**{field: value})
