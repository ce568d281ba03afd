"""No damaged GGUF file crashes the reader, or reads beyond its end, or costs time or memory without bound."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(files: int, seed: int, timeout_s: float) -> dict[str, int]:
    """In a process of its own, whose memory is bounded."""
    command = [sys.executable, "-m", "tests.formats.fuzz_gguf", "--files", str(files), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    counts = {name: int(count) for name, count in re.findall(r"'(\w+)': (\d+)", done.stdout)}
    assert sum(counts.values()) == files
    return counts


def test_some_damaged_files() -> None:
    counts = run(600, 0, 60)
    assert counts["CorruptError"] > 300 and counts["ran"] > 0


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files() -> None:
    counts = run(100_000, 1, 1800)
    assert counts["CorruptError"] > 50_000 and counts["ran"] > 100
