"""Shared test set-up: small models need one thread, and more would only fight over it."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections import Counter

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("DATABASE_URL", None)  # the sample is meant where no database is named
# A shell starts background jobs with Ctrl-C ignored, and children inherit that; some tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Markers of tests that a plain run leaves out.
ASKED_FOR = ("slow", "peer", "ecosystem", "vllm", "snowflake", "browser")
TORCH_ROOMS = ("model", "train", "vllm")
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
# On a core install these rooms cannot even be read.
collect_ignore = [] if HAS_TORCH else list(TORCH_ROOMS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--every N`, for a further Python after the whole suite has passed on one."""
    parser.addoption("--every", type=int, default=1, metavar="N", help="run the first and every Nth of a test's cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs no torch is marked `core`: it must pass on the core install alone. `--every` leaves cases out."""
    cases = Counter[str]()
    left_out = []
    for item in list(items):
        test = item.nodeid.partition("[")[0]
        if cases[test] % config.getoption("every"):
            items.remove(item)
            left_out.append(item)
        cases[test] += 1
    config.hook.pytest_deselected(items=left_out)
    for item in items:
        if not any(map(item.get_closest_marker, ASKED_FOR)) and item.path.parent.name not in TORCH_ROOMS:
            item.add_marker("core")


if HAS_TORCH:
    import torch

    torch.set_num_threads(1)
