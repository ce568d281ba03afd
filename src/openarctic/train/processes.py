"""The processes that train one model together, as the trainer sees them; one alone is the default.

`train/parallel` has the forms for torch.distributed, `Processes` and `ParallelModel`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Processes(Protocol):
    """Every method is called by all processes, in the same order."""

    rank: int
    count: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over all processes, everywhere."""

    def gather(self, value: Any) -> list[Any]:
        """The values (plain Python) of all processes in order of rank, everywhere; also a barrier."""


class SpreadModel(Protocol):
    """A model that processes share. Each differentiates its part of the loss, and gradients are summed."""

    module: nn.Module  # what to call

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward of one part of a step."""

    def finish_backward(self) -> None:
        """After the last part's backward pass."""

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradient of the whole model to that norm at most; the norm before, a scalar."""

    def whole_model(self) -> nn.Module | None:
        """The model as one process has it, on the first process; None on the others."""


class Alone:
    """One process."""

    rank, count = 0, 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The values."""
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]


ALONE = Alone()


class UndividedModel:
    """A model in one process."""

    def __init__(self, model: nn.Module) -> None:
        self.module = model

    @contextlib.contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Nothing to exchange."""
        yield

    def finish_backward(self) -> None:
        """Nothing to do."""

    def clip_gradients(self, max_norm: float) -> Tensor:
        """As torch does it."""
        return torch.nn.utils.clip_grad_norm_(self.module.parameters(), max_norm)

    def whole_model(self) -> nn.Module:
        """The model."""
        return self.module
