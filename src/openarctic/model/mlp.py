"""The gated MLP that a residual branch, a dense layer and every expert are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden, width, bias=False)
        self.w2 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        """Each token on its own."""
        return self.w2(F.silu(self.w1(x_BSH)) * self.w3(x_BSH))
