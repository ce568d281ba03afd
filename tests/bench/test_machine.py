"""What the machine tells, and the share that others use."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from openarctic.bench import machine
from openarctic.bench.machine import ForeignClock, busy_seconds, describe_machine, foreign_share


def test_it_is_described() -> None:
    body = describe_machine()
    assert body["processor"] and body["usable_processors"] >= 1
    assert body["versions"]["numpy"]


@pytest.mark.parametrize(
    ("busy", "own", "wall", "processors", "share"),
    [
        (2.0, 2.0, 1.0, 2, 0.0),
        (2.0, 1.0, 1.0, 2, 0.5),
        (0.99, 1.0, 1.0, 2, 0.0),
        (9.0, 0.0, 1.0, 2, 1.0),
        (1.0, 0.0, 0.0, 2, 0.0),
    ],
)
def test_the_foreign_share(busy: float, own: float, wall: float, processors: int, share: float) -> None:
    assert foreign_share(busy, own, wall, processors) == share


def test_ticks_are_read_without_idle_time_and_with_what_the_hypervisor_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9999 8888 1 2 40 7 7\ncpu0 1 2 3\n")
    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    assert busy_seconds() == pytest.approx(1.93)  # guests are part of user time


def test_nothing_is_known_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STAT", tmp_path / "none")
    clock = ForeignClock()
    clock.start()
    assert clock.stop(0) is None


@pytest.mark.skipif(not machine.STAT.exists(), reason="only Linux tells")
def test_another_process_is_foreign_until_it_says_it_is_ours() -> None:
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    clock = ForeignClock()
    clock.start()
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    wall = time.perf_counter() - start
    counted, foreign = clock.stop(0.3), clock.stop(0.0)
    assert counted is not None and foreign is not None
    # 0.3 s of this wall time's processor seconds, unless others fill them all.
    assert foreign == 1 or foreign - counted > 0.2 * 0.3 / (wall * (machine.os.cpu_count() or 1))
