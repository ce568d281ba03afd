"""Training through the precision that ships: weights are rounded to their GGUF type in the forward pass, gradients pass straight.

The optimiser moves full-precision weights; what the loss sees are the numbers that the file will hold. On a CPU the file's own
encoder rounds; elsewhere the same arithmetic in torch (tests/train/test_rounding.py compares them bit for bit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from openarctic.errors import UserError
from openarctic.formats.quants import dequantize, quantize

BLOCK = 32
# Largest code of the types with a scale and a minimum.
_LEVELS = {"Q4_1": 15, "Q5_1": 31}
_TRAINABLE = ("Q8_0", *_LEVELS)

Result = TypeVar("Result")


def check_types(model: nn.Module, types: Mapping[str, str]) -> None:
    """Raise UserError, before a run, for a type that the named parameter cannot be trained through."""
    parameters = dict(model.named_parameters())
    for name, type in types.items():
        if type not in _TRAINABLE:
            raise _unknown(type)
        if parameters[name].shape[-1] % BLOCK:
            told = f"{name} has rows of {parameters[name].shape[-1]} values, no multiple of {BLOCK}"
            raise UserError(f"cannot train through {type}: {told}", "change the sizes of what is trained")


def rounded(values: Tensor, type: str) -> Tensor:
    """`values` as a GGUF tensor of `type` (Q8_0, Q4_1 or Q5_1) would give them back: by the file's own encoder on a CPU.

    Raises UserError for another type, or rows that are no multiple of 32.
    """
    if values.is_cuda:
        return rounded_in_torch(values, type)
    plain = values.detach().float().numpy()
    back = dequantize(quantize(plain, type, threads=torch.get_num_threads()), type, plain.shape)
    return torch.from_numpy(np.ascontiguousarray(back)).to(values.dtype)


@torch.no_grad()
def rounded_in_torch(values: Tensor, type: str) -> Tensor:
    """The same arithmetic in torch, on any device; on a CPU five times slower."""
    blocks = values.detach().float().reshape(-1, BLOCK)
    if type == "Q8_0":
        scale = blocks.abs().amax(1, keepdim=True) / 127
        codes = _half_away(blocks * _inverse(scale))
        return (codes * scale.half().float()).view_as(values)
    if type in _LEVELS:
        low, high = blocks.aminmax(dim=1, keepdim=True)
        scale = (high - low) / _LEVELS[type]
        codes = (blocks - low).mul_(_inverse(scale)).add_(0.5).floor_().clamp_(max=_LEVELS[type])
        return codes.mul_(scale.half().float()).add_(low.half().float()).view_as(values)
    raise _unknown(type)


def _unknown(type: str) -> UserError:
    return UserError(f"cannot train through {type}", f"known: {', '.join(_TRAINABLE)}")


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _half_away(values: Tensor) -> Tensor:
    """C's roundf: halves away from zero."""
    return torch.copysign((values.abs() + 0.5).floor(), values)


class _RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, type: str) -> Tensor:
        return rounded(weight, type)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _Call(nn.Module):
    """`call(model)` as a module's forward pass, so that its parameters can be replaced for the time of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[[nn.Module], Result]) -> Result:
        return call(self.model)


def through_types(model: nn.Module, types: Mapping[str, str], call: Callable[[Any], Result]) -> Result:
    """`call(model)` with the named parameters rounded to their types; gradients reach the parameters themselves."""
    parameters = dict(model.named_parameters())
    replaced = {f"model.{name}": _RoundThrough.apply(parameters[name], type) for name, type in types.items()}
    return functional_call(_Call(model), replaced, (call,))
