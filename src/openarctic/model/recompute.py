"""Selective recomputation: the backward pass computes cheap things again instead of keeping them.

Kept are products of matrices and attention, which are most of the time; norms, activations, router softmax and gathered rows
are most of the memory after them and cost little, so they are computed again from what is kept. No product is computed twice.
Values are those of the forward pass to the last bit, and so are gradients.

How: a function that is called through `recomputable` leaves a recipe for its result. Where autograd keeps that result for
someone's backward pass, a saved-tensor hook keeps the recipe in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from openarctic.errors import UserError

_thread = threading.local()


def recompute_selectively(model: nn.Module, enabled: bool = True) -> None:
    """Switch it on or off for every layer of a model that has it.

    Raises UserError while whole layers are checkpointed: they are then computed again anyway.
    """
    layers = [module for module in model.modules() if hasattr(module, "recompute")]
    if not layers:
        raise UserError(f"a {type(model).__name__} has no layers that can recompute", "give an ArcticForCausalLM")
    if enabled and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        told = "gradient checkpointing is on, which computes whole layers again"
        raise UserError(told, "model.gradient_checkpointing_disable() first, or do without selective recomputation")
    for layer in layers:
        layer.recompute = enabled


def recomputing() -> bool:
    """Whether the code that runs now belongs to a layer that recomputes. Functions with a backward pass of their own then keep
    no more than they need."""
    return getattr(_thread, "recipes", None) is not None


def recomputable(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), remembered so that the result need not be kept. The function must give the same bits every time."""
    out = function(*inputs)
    if recomputing() and out.requires_grad and _has_place(out):
        _thread.recipes.add(out, function, inputs)
    return out


def saving(recompute: bool) -> AbstractContextManager[Any]:
    """Around the forward pass of a layer: with `recompute`, its recipes replace what autograd would keep."""
    return _Recipes() if recompute and torch.is_grad_enabled() else nullcontext()


def _has_place(tensor: Tensor) -> bool:
    """Whether a tensor can be told by where it lies: a plain one with some values in memory."""
    is_plain = type(tensor) is Tensor and tensor.layout == torch.strided
    return is_plain and not tensor.is_meta and tensor.numel() > 0


class _Recipe:
    """How to make a tensor again. Made once for all that asked for it, and let go when the last of them has it."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> None:
        self.function = function
        self.inputs = tuple(i.detach() if isinstance(i, Tensor) else i for i in inputs)
        self.uses, self.left = 0, 0
        self.value: Tensor | None = None

    def make(self) -> Tensor:
        if self.value is None:
            with torch.no_grad():
                self.value = self.function(*self.inputs)
            self.left = self.uses
        value, self.left = self.value, self.left - 1
        if self.left == 0:
            self.value = None
        return value


class _Recipes(torch.autograd.graph.saved_tensors_hooks):
    """The recipes of one layer's forward pass, found by storage. Results live until it ends, so no storage is used anew."""

    def __init__(self) -> None:
        super().__init__(self._pack, self._unpack)
        self._found: dict[int, tuple[Tensor, _Recipe]] = {}

    def add(self, out: Tensor, function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> None:
        self._found[out.untyped_storage().data_ptr()] = (out.detach(), _Recipe(function, inputs))

    def __enter__(self) -> None:
        super().__enter__()
        self._outer, _thread.recipes = getattr(_thread, "recipes", None), self

    def __exit__(self, *error: object) -> None:
        _thread.recipes = self._outer
        self._found = {}
        super().__exit__(*error)

    def _pack(self, tensor: Tensor) -> Any:
        found = self._found.get(tensor.untyped_storage().data_ptr()) if _has_place(tensor) else None
        if found is None:
            return tensor
        found[1].uses += 1
        return found[1], tensor.shape, tensor.stride(), tensor.storage_offset()

    @staticmethod
    def _unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        recipe, *view = kept
        return recipe.make().as_strided(*view)
