"""kill -9 at random moments: no damaged checkpoint, nothing lost but the steps since the last, the same end to the bit."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from openarctic.train.checkpoint import Checkpoint, latest_checkpoint  # noqa: E402
from openarctic.train.runlog import read_events, read_log  # noqa: E402

from .worlds import RESTLESS, config, run, tiny_hybrid  # noqa: E402

EVERY = 2  # steps between checkpoints
FOREVER = config(steps=10**6, schedule="constant", checkpoint_steps=EVERY)


def train_until_killed(out: Path, seconds: float) -> None:
    """A forked child trains, and is killed after so long; forking saves the imports."""
    child = os.fork()
    if child == 0:
        try:
            run(out, FOREVER, model=tiny_hybrid(seed=1), routing=RESTLESS)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"


def found(out: Path) -> Checkpoint | None:
    damaged: list[str] = []
    latest = latest_checkpoint(out, damaged.append) if out.exists() else None
    assert damaged == []
    return latest


def logged(out: Path) -> int:
    return max((record["step"] for record in read_log(out)), default=0) if (out / "log.jsonl").exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    out, rng = tmp_path / "killed", random.Random(kills)
    step = 0
    run(tmp_path / "warm", config(steps=1))  # what is measured and loaded once, the children inherit
    start = time.monotonic()
    run(tmp_path / "timed", config(steps=3 * EVERY), routing=RESTLESS)
    longest = 2 * (time.monotonic() - start)
    for _ in range(kills):
        train_until_killed(out, rng.uniform(0.0, longest))
        latest = found(out)
        now = latest.step if latest else 0
        assert now >= step and logged(out) - now <= EVERY
        step = now
    print(f"{kills} kills, {step} steps, {len(read_events(out))} events")

    end = config(steps=step + 3, schedule="constant", checkpoint_steps=EVERY)
    after, _ = run(out, end, model=tiny_hybrid(seed=1), routing=RESTLESS)
    whole, _ = run(tmp_path / "whole", end, model=tiny_hybrid(seed=1), routing=RESTLESS)
    assert all(torch.equal(a, b) for a, b in zip(after.state_dict().values(), whole.state_dict().values(), strict=True))
    losses = [[(r["step"], r["loss"], r["grad_norm"]) for r in read_log(folder)] for folder in (out, tmp_path / "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == step + 3
