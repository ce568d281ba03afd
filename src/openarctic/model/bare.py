"""Whether a module is no more than what its class says, so that its matrix may be multiplied without calling it."""

from __future__ import annotations

from torch import Tensor, nn


def is_untouched(module: nn.Module) -> bool:
    """No hooks, no replaced forward."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return not any(hooks) and "forward" not in vars(module)


def is_bare(linear: nn.Module) -> bool:
    """A linear layer that is its matrix: without bias, adapter, quantisation, sharding or observer."""
    if not (type(linear) is nn.Linear and linear.bias is None and is_untouched(linear)):
        return False
    # A bare Tensor is what functional_call puts there.
    return type(linear.weight) in (nn.Parameter, Tensor) and not linear.weight.is_meta
