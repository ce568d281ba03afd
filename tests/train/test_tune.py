"""Supervised tuning on epochs of packs: it learns, it saves, it goes on where it stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import UserError  # noqa: E402
from openarctic.model import ArcticForCausalLM  # noqa: E402
from openarctic.train.objectives import PackTuning  # noqa: E402
from openarctic.train.packing import Pack  # noqa: E402
from openarctic.train.trainer import train  # noqa: E402
from openarctic.train.tune import EpochSource, TuneConfig  # noqa: E402

from .test_packing import tiny_model, tiny_pack  # noqa: E402

Epochs = Callable[[int], Sequence[Pack]]


def tune(model: ArcticForCausalLM, epochs: Epochs, config: TuneConfig, out: Path, **options: Any) -> None:
    train(model, PackTuning(), EpochSource(epochs), config, out, **options)


def run(steps: int, out: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    model = tiny_model()
    config = TuneConfig(steps=steps, warmup_steps=2, lr=3e-3)

    def epochs(epoch: int) -> list[Pack]:
        return [tiny_pack()] * 2

    if stop_at is not None:
        with pytest.raises(KeyboardInterrupt):
            tune(model, stopping(epochs, stop_at), config, out)
        model = tiny_model()
    tune(model, epochs, config, out)
    return model.state_dict()


def stopping(epochs: Epochs, epoch_to_stop: int) -> Epochs:
    def wrapped(epoch: int) -> Sequence[Pack]:
        if epoch == epoch_to_stop:
            signal.raise_signal(signal.SIGINT)
        return epochs(epoch)

    return wrapped


def test_loss_falls(tmp_path: Path) -> None:
    run(8, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 9))
    assert log[-1]["loss"] < log[0]["loss"]


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = run(8, tmp_path / "whole")
    resumed = run(8, tmp_path / "resumed", stop_at=2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_schedule_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no end"):
        tune(tiny_model(), lambda epoch: [tiny_pack()], TuneConfig(), tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_every_step_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    config = TuneConfig(steps=4, warmup_steps=2)
    tune(
        tiny_model(),
        lambda epoch: [tiny_pack()],
        config,
        tmp_path,
        on_step=lambda p, record: seen.append((p.step, record["share"])),
    )
    assert seen == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


def test_an_epoch_is_made_when_it_is_wanted_and_found_again() -> None:
    made: list[int] = []

    def epochs(number: int) -> list[str]:
        made.append(number)
        return [f"{number}.{i}" for i in range(3)]

    source = EpochSource(epochs)
    assert made == [] and [source.next_batch() for _ in range(4)] == ["0.0", "0.1", "0.2", "1.0"]
    state = source.state_dict()
    again = EpochSource(epochs)
    again.load_state_dict(state)
    assert [again.next_batch(), again.next_batch(), again.next_batch()] == ["1.1", "1.2", "2.0"]
    source.load_state_dict({"epoch": 0, "position": 2})  # a rollback
    assert source.next_batch() == "0.2" and made == [0, 1, 1, 2, 0]
    with pytest.raises(StopIteration):
        EpochSource(lambda number: []).next_batch()
