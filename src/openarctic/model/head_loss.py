"""Cross-entropy of the next token without ever holding all logits.

Some rows at a time: logits, their loss, and at once their gradient, which is turned into the gradients of hidden states and
head while it is in the processor's cache. For a large vocabulary this is most of a step's memory and, on a CPU, some of its time.

Shapes: N positions, H hidden, V vocabulary, n rows of a piece.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openarctic.model.bare import is_bare

IGNORED = -100  # a label that does not count
_PIECE_VALUES = 1 << 22  # logits of a piece


class HeadLoss(NamedTuple):
    """Sum of the cross-entropies over labels that count, with gradient; and how many labels were the likeliest."""

    total: Tensor
    correct: Tensor


def head_loss(head: nn.Module, hidden_NH: Tensor, labels_N: Tensor) -> HeadLoss:
    """Of logits = head(hidden), in float32; labels of -100 do not count. A head that is more than a matrix is called."""
    if not is_bare(head):
        return head_loss_reference(head, hidden_NH, labels_N)
    kind = hidden_NH.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NH.dtype
    with torch.autocast(kind, enabled=False):
        return HeadLoss(*_HeadLoss.apply(hidden_NH.to(dtype), head.weight, labels_N))


def head_loss_reference(head: nn.Module, hidden_NH: Tensor, labels_N: Tensor) -> HeadLoss:
    """The readable form of `head_loss`, with all logits at once."""
    logits_NV = head(hidden_NH).float()
    total = F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORED, reduction="sum")
    return HeadLoss(total, (logits_NV.argmax(-1) == labels_N).sum())


class _HeadLoss(torch.autograd.Function):
    """(hidden, weight, labels) -> (total, correct)."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight_VH.to(hidden_NH.dtype)
        rows = max(1, _PIECE_VALUES // len(weight))
        dhidden_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        dweight_VH = torch.zeros_like(weight_VH) if ctx.needs_input_grad[1] else None
        total, correct = hidden_NH.new_zeros((), dtype=torch.float32), labels_N.new_zeros(())
        for start in range(0, len(hidden_NH), rows):
            hidden_nH, labels_n = hidden_NH[start : start + rows], labels_N[start : start + rows]
            counts_n = labels_n != IGNORED
            index_n1 = labels_n.where(counts_n, 0)[:, None]
            log_probs_nV = (hidden_nH @ weight.T).float().log_softmax(-1)
            own_n = log_probs_nV.gather(1, index_n1)[:, 0]
            total -= (own_n * counts_n).sum()
            correct += ((own_n == log_probs_nV.amax(-1)) & counts_n).sum()
            if dhidden_NH is None and dweight_VH is None:
                continue
            gradient_nV = log_probs_nV.exp_()
            gradient_nV.scatter_add_(1, index_n1, gradient_nV.new_full((1, 1), -1).expand_as(index_n1))
            if not counts_n.all():
                gradient_nV *= counts_n[:, None]
            gradient_nV = gradient_nV.to(weight.dtype)
            if dhidden_NH is not None:
                torch.mm(gradient_nV, weight, out=dhidden_NH[start : start + rows])
            if dweight_VH is not None:
                dweight_VH.addmm_(gradient_nV.T.to(weight_VH.dtype), hidden_nH.to(weight_VH.dtype))
        ctx.save_for_backward(dhidden_NH, dweight_VH)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None]:
        dhidden_NH, dweight_VH = ctx.saved_tensors
        return _times(dhidden_NH, dtotal), _times(dweight_VH, dtotal), None


def _times(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * factor.to(gradient.dtype)
