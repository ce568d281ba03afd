"""The line of progress of a training run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from openarctic.cli.train import Meter

RECORD = {
    "loss": 1.5,
    "tokens_per_s": 400.0,
    "peak_share": 0.42,
    "memory_bytes": 1.2e9,
    "eta_seconds": 180.0,
    "share": 0.25,
    "dropped": [0.0, 0.02],
    "dead_experts": [1, 2],
}


def test_the_meter_says_how_fast_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter()
    meter.EVERY_S = 0.0  # type: ignore[misc]
    meter(SimpleNamespace(step=50, seconds=60.0, tokens=12_000), RECORD)
    meter(SimpleNamespace(step=51, seconds=61.0, tokens=12_200), RECORD)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 50, 25 %, loss 1.500, 400 tokens/s, 42 % of GEMM peak, 1.2 GB, 3 min left")
    assert "200 tokens/s" in second and second.endswith("2 % dropped, 3 experts dead")


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter()
    for step in range(1, 9):
        meter(SimpleNamespace(step=step, seconds=float(step), tokens=step), {**RECORD, "share": step / 8})
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["step 8"]
