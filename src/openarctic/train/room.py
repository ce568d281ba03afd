"""Memory of the machine and its accelerator: whether what a run holds fits, asked before it is held, and holding less of it."""

from __future__ import annotations

import math
import os

import torch

from openarctic.errors import CapacityError
from openarctic.formats import HybridConfig
from openarctic.formats.names import state_dict_shapes
from openarctic.machine import check_memory
from openarctic.planner.training import FP32

KEPT_KERNELS = 128  # a run of arctic-nano is no slower than with 1,024 (docs/log.md)


def keep_few_kernels() -> None:
    """Have oneDNN keep `KEPT_KERNELS` of the kernels that it makes, one for each shape of a product, instead of 1,024.

    Packs have ever other shapes, so that most are never used again. Without effect once oneDNN has made a kernel in this process,
    and where `ONEDNN_PRIMITIVE_CACHE_CAPACITY` is set.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))


def num_parameters(shape: HybridConfig) -> int:
    """Of a model that need not be there."""
    return sum(map(math.prod, state_dict_shapes(shape).values()))


def check_weights(shape: HybridConfig) -> None:
    """Raise CapacityError, with both numbers, before a model is made whose weights alone do not fit.

    Weights are made in the machine's memory and go on to the accelerator where there is one.
    """
    count = num_parameters(shape)
    what, hint = f"a model of {count / 1e9:.2f} billion parameters in fp32", "take a smaller model, or a larger machine"
    check_memory(FP32 * count, what, hint)
    if torch.cuda.is_available():
        check_device_memory(FP32 * count, what, hint, torch.device("cuda"))


def check_device_memory(needed_bytes: int, what: str, hint: str, device: torch.device) -> None:
    """Raise CapacityError, with both numbers, when `what` needs more memory than there is left where the device computes."""
    if device.type != "cuda":
        check_memory(needed_bytes, what, hint)
        return
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # ours, and free
    available = torch.cuda.mem_get_info(device)[0] + cached
    if needed_bytes > available:
        told = f"{what} takes {needed_bytes / 1e9:.2f} GB of the accelerator's memory, {available / 1e9:.2f} GB are available"
        raise CapacityError(told, hint)
