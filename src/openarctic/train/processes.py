"""The processes that train one model together, as the trainer sees them: a rank, a sum and a gathering. One alone is the default.

`train/parallel` has the form for torch.distributed.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Processes(Protocol):
    """Every method is called by all processes, in the same order."""

    rank: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over all processes, everywhere."""

    def gather(self, value: Any) -> list[Any]:
        """The values (plain Python) of all processes in order of rank, everywhere; also a barrier."""


class Alone:
    """One process."""

    rank, count = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """The values."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]


ALONE = Alone()
