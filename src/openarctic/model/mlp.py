"""The gated MLP that a residual branch, a dense layer and every expert are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openarctic.model.recompute import recomputable, recomputing


class MLP(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden, width, bias=False)
        self.w2 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        """Each token on its own."""
        return self.w2(recomputable(_GatedSilu.apply, self.w1(x_BSH), self.w3(x_BSH)))


class _GatedSilu(torch.autograd.Function):
    """(gate, up) -> silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        silu = F.silu(gate)
        ctx.save_for_backward(gate, up, None if recomputing() else silu)
        return silu * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor]:
        gate, up, silu = ctx.saved_tensors
        return torch.ops.aten.silu_backward(dout * up, gate), dout * (F.silu(gate) if silu is None else silu)
