"""Root-mean-square normalisation, with a backward pass of few steps over memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openarctic.model.recompute import recomputable, recomputing


class ArcticRMSNorm(nn.Module):
    """x / rms(x) * weight, the weight applied after the cast back to the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BSH: Tensor) -> Tensor:
        """Normalise each token."""
        if not torch.is_grad_enabled():
            return rms_norm_reference(x_BSH, self.weight, self.eps)
        return recomputable(_RMSNorm.apply, x_BSH, self.weight, self.eps)


def rms_norm_reference(x_BSH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """As published, and with autograd's own backward pass."""
    return weight_H * F.rms_norm(x_BSH.float(), x_BSH.shape[-1:], eps=eps).to(x_BSH.dtype)


class _RMSNorm(torch.autograd.Function):
    """(x, weight, eps) -> weight * x / rms(x). A layer that recomputes keeps x and its scale, one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        length = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x32 * scale
        ctx.save_for_backward(x, weight_H, scale, None if recomputing() else unit)
        return weight_H * unit.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight_H, scale, unit = ctx.saved_tensors
        unit, dy = x.float() * scale if unit is None else unit, dy.float()
        along = dy * unit  # where the gradient meets the direction of x
        dweight = along.flatten(0, -2).sum(0).to(weight_H.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dweight, None
        weight32_H = weight_H.float()
        mean = (along @ weight32_H).div_(x.shape[-1])
        dx = (dy * weight32_H).addcmul_(unit, mean[..., None], value=-1).mul_(scale)
        return dx.to(x.dtype), dweight, None
