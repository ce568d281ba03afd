"""torchrun starts everything again when a process dies, and the training ends where an undisturbed one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(out: Path, **environment: str) -> list[float]:
    """The losses of a training of ten steps on two processes."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    subprocess.run(
        [sys.executable, *command, str(Path(__file__).with_name("elastic.py")), str(out), "10"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))), **environment},
        check=True,
        timeout=600,
    )
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "undisturbed")
    killed = run(tmp_path / "killed", KILL_AT="8")
    assert killed == undisturbed and len(killed) == 10
    events = [json.loads(line) for line in (tmp_path / "killed" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [6]
