"""The states of all random generators of a process, as JSON keeps them."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """Of torch (every accelerator too), numpy and Python."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in cuda],
        "numpy": [name, base64.b64encode(np.asarray(keys, "<u4").tobytes()).decode(), *rest],
        "python": [version, list(words), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what `random_state` gave. Accelerators that there are fewer of now keep their own."""
    torch.set_rng_state(_state(state["torch"]))
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_state(saved), device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.frombuffer(base64.b64decode(keys), "<u4"), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _state(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
