"""A soak of seconds; `python -m tests.engine.soak` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.engine.soak import soak


def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    report = soak(tmp_path, 2.0, random.Random(5))
    assert report["failures"] == []
    assert all(int(str(report[name])) > 0 for name in ("compared", "cancelled", "with_deadline", "preemptions"))
