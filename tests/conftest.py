"""Shared test set-up: small models need one thread, and more would only fight over it."""

from __future__ import annotations

import importlib.util
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

TORCH_ROOMS = ("model", "train", "vllm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs no torch is marked `core`: it must pass on the core install alone."""
    for item in items:
        is_default = not (item.get_closest_marker("slow") or item.get_closest_marker("peer"))
        if is_default and item.path.parent.name not in TORCH_ROOMS:
            item.add_marker("core")


if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
