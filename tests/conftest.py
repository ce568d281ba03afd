"""Shared test set-up: small models need one thread, and more would only fight over it."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
