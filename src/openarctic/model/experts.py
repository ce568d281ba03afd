"""What the experts compute: tokens sorted by expert, one product a matrix and expert, no padding, no loop over tokens.

A dropped route costs nothing: it has no row. There are three ways to the same numbers, and `combine_experts` takes the fastest
that applies: grouped products of stacked matrices (CUDA), products expert by expert with a backward pass written by hand, and
calls of the expert modules, for experts that are more than three bare matrices (adapters, quantised, observed by hooks).

Shapes: T tokens, H hidden, I width of an expert, E experts, k choices, N rows: routes that were kept, sorted by expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openarctic.model.bare import is_bare, is_untouched
from openarctic.model.mlp import MLP
from openarctic.model.recompute import recomputing
from openarctic.model.routing import Route


@dataclass(frozen=True, slots=True)
class Rows:
    """How kept routes lie when sorted by expert: the token of each row, and the row of each route (N where dropped)."""

    token_N: Tensor
    row_Tk: Tensor
    counts: list[int]  # rows of each expert

    @property
    def drops(self) -> bool:
        """Whether some route has no row."""
        return len(self.token_N) < self.row_Tk.numel()


def sort_by_expert(route: Route) -> tuple[Rows, Tensor]:
    """The rows, and the weight of each [N]."""
    (num_tokens, top_k), counts = route.chosen_Tk.shape, route.load_E.tolist()
    num_rows = sum(counts)
    experts = route.chosen_Tk if num_rows == num_tokens * top_k else route.chosen_Tk.where(route.kept_Tk, len(counts))
    order = experts.flatten().argsort(stable=True)[:num_rows]
    row_R = torch.full((num_tokens * top_k,), num_rows, device=order.device)
    row_R[order] = torch.arange(num_rows, device=order.device)
    return Rows(order // top_k, row_R.view(num_tokens, top_k), counts), route.weights_Tk.flatten()[order]


def combine_experts(x_TH: Tensor, route: Route, experts: nn.ModuleList) -> Tensor:
    """Each token's experts on it, weighed and summed [T, H]."""
    rows, weight_N = sort_by_expert(route)
    dtype = _product_dtype(x_TH)
    matrices = bare_matrices(experts)
    if matrices is None or _can_group(x_TH, dtype, matrices):
        y_NH = run_experts(gather_rows(x_TH, rows), rows.counts, experts)
        return scatter_rows((y_NH * weight_N[:, None]).to(x_TH.dtype), rows)
    with torch.autocast(x_TH.device.type, enabled=False):
        y_NH = _Products.apply(x_TH.to(dtype), weight_N, rows, rows.counts, *matrices)
        return scatter_rows(y_NH.to(x_TH.dtype), rows)


def combine_experts_reference(x_TH: Tensor, route: Route, experts: nn.ModuleList) -> Tensor:
    """The readable form of `combine_experts`."""
    out_TH = torch.zeros_like(x_TH)
    for e, expert in enumerate(experts):
        tokens, choice = ((route.chosen_Tk == e) & route.kept_Tk).nonzero(as_tuple=True)
        scaled = expert(x_TH[tokens]) * route.weights_Tk[tokens, choice, None]
        out_TH = out_TH.index_add(0, tokens, scaled.to(x_TH.dtype))
    return out_TH


def gather_rows(x_TH: Tensor, rows: Rows) -> Tensor:
    """Each row's token [N, H]."""
    return _Gather.apply(x_TH, rows)


def scatter_rows(y_NH: Tensor, rows: Rows) -> Tensor:
    """Each token's sum over its rows [T, H]."""
    return _Scatter.apply(y_NH, rows)


def run_experts(x_NH: Tensor, counts: Sequence[int], experts: nn.ModuleList | Sequence[nn.Module]) -> Tensor:
    """Every expert on its rows [N, H]: the first `counts[0]` rows are for the first one, and so on."""
    dtype = _product_dtype(x_NH)
    matrices = bare_matrices(experts)
    if matrices is None:
        return _call_modules(x_NH, counts, experts)
    with torch.autocast(x_NH.device.type, enabled=False):
        if _can_group(x_NH, dtype, matrices):
            return grouped_products(x_NH.to(dtype), counts, matrices)
        return _Products.apply(x_NH.to(dtype), None, None, counts, *matrices)


def bare_matrices(experts: nn.ModuleList | Sequence[nn.Module]) -> list[Tensor] | None:
    """w1, w2 and w3 of each expert, or None when an expert is more than three plain matrices: then it must be called."""
    found: list[Tensor] = []
    for expert in experts:
        if not (type(expert) is MLP and is_untouched(expert)):
            return None
        linears = (expert.w1, expert.w2, expert.w3)
        if not all(is_bare(linear) for linear in linears):
            return None
        found += (linear.weight for linear in linears)
    return found


def _product_dtype(x: Tensor) -> torch.dtype:
    """What matrices are multiplied in: autocast's number type where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _can_group(x: Tensor, dtype: torch.dtype, matrices: Sequence[Tensor]) -> bool:
    """Whether the device has a kernel for all experts' products at once, and it takes rows as long as theirs."""
    if x.device.type != "cuda" or dtype != torch.bfloat16 or not hasattr(torch, "_grouped_mm"):
        return False
    if not _are_aligned(matrices, dtype):
        return False
    return torch.cuda.get_device_capability(x.device) >= (8, 0)


def _are_aligned(matrices: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether rows and columns of all matrices are multiples of 16 bytes, as `torch._grouped_mm` wants strides to be."""
    return all(size * dtype.itemsize % 16 == 0 for matrix in matrices for size in matrix.shape)


def grouped_products(x_NH: Tensor, counts: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """All experts' products of a kind in one call, w1 and w3 side by side; matrices are stacked for it."""
    num_experts = len(matrices) // 3
    ends_E = torch.tensor(counts, device=x_NH.device).cumsum(0, dtype=torch.int32)
    w13 = torch.stack([m for e in range(num_experts) for m in (matrices[3 * e], matrices[3 * e + 2])]).to(x_NH.dtype)
    w2 = torch.stack(list(matrices[1::3])).to(x_NH.dtype)
    w13_E = w13.view(num_experts, -1, w13.shape[-1])
    gate_NI, up_NI = torch._grouped_mm(x_NH, w13_E.transpose(1, 2), offs=ends_E).chunk(2, -1)
    return torch._grouped_mm(F.silu(gate_NI) * up_NI, w2.transpose(1, 2), offs=ends_E)


def _call_modules(x_NH: Tensor, counts: Sequence[int], experts: nn.ModuleList | Sequence[nn.Module]) -> Tensor:
    """In training an idle expert is called too, on no rows: its gradients are then zeros in every process, never absent."""
    parts = [expert(x) for x, expert in zip(x_NH.split(list(counts)), experts, strict=True) if len(x) or expert.training]
    return torch.cat(parts) if parts else torch.empty_like(x_NH)


class _Products(torch.autograd.Function):
    """(x, weight of each row or None, rows or None, counts, w1, w2, w3 of each expert) -> weighed outputs [N, H].

    With `rows`, x are tokens [T, H] and are gathered expert by expert, while they are in the processor's cache; else x are the
    rows. Kept of each expert are what w1 and w3 gave; and its rows and activations, unless the layer recomputes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_N: Tensor | None, rows: Rows | None, counts: Sequence[int], *matrices: Tensor
    ) -> Tensor:
        y_NH = x.new_empty(sum(counts), matrices[1].shape[0])
        kept: list[Tensor] = []
        for e, own in enumerate(_slices(counts)):
            w1, w2, w3 = (m.to(x.dtype) for m in matrices[3 * e : 3 * e + 3])
            x_nH = _take(x, rows, own)
            gate_nI, up_nI = x_nH @ w1.T, x_nH @ w3.T
            silu_nI, act_nI = _activate(gate_nI, up_nI)
            out_nH = act_nI @ w2.T
            if weight_N is None:
                y_NH[own] = out_nH
            else:
                torch.mul(out_nH, weight_N[own, None], out=y_NH[own])
            kept += (gate_nI, up_nI) if recomputing() else (gate_nI, up_nI, x_nH, silu_nI, act_nI)
        ctx.save_for_backward(x, weight_N, *matrices, *kept)
        ctx.rows, ctx.counts, ctx.recomputes = rows, counts, recomputing()
        return y_NH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Any, ...]:
        x, weight_N, *rest = ctx.saved_tensors
        matrices, kept = rest[: 3 * len(ctx.counts)], rest[3 * len(ctx.counts) :]
        wants_x, wants_weight, _, _, *wants = ctx.needs_input_grad
        dx_NH = x.new_empty(len(dy_NH), x.shape[1]) if wants_x else None
        dweight_N = torch.empty_like(weight_N) if wants_weight else None
        gradients: list[Tensor | None] = []
        for e, own in enumerate(_slices(ctx.counts)):
            stored, wanted = matrices[3 * e : 3 * e + 3], wants[3 * e : 3 * e + 3]
            w1, w2, w3 = (m.to(x.dtype) for m in stored)
            if ctx.recomputes:
                gate_nI, up_nI = kept[2 * e : 2 * e + 2]
                x_nH, (silu_nI, act_nI) = _take(x, ctx.rows, own), _activate(gate_nI, up_nI)
            else:
                gate_nI, up_nI, x_nH, silu_nI, act_nI = kept[5 * e : 5 * e + 5]
            dy_nH = dy_NH[own]
            dact_nI = dy_nH @ w2  # of the output before it is weighed
            if dweight_N is not None:
                dweight_N[own] = (dact_nI * act_nI).sum(-1)
            if weight_N is not None:
                dy_nH = (dy_nH * weight_N[own, None]).to(x.dtype)
                dact_nI *= weight_N[own, None]
            dup_nI = silu_nI * dact_nI
            dgate_nI = torch.ops.aten.silu_backward(dact_nI.mul_(up_nI), gate_nI)
            if dx_NH is not None:
                torch.addmm(dgate_nI @ w1, dup_nI, w3, out=dx_NH[own])
            pairs = ((dgate_nI, x_nH), (dy_nH, act_nI), (dup_nI, x_nH))
            gradients += [
                (left.T @ right).to(m.dtype) if want else None
                for (left, right), m, want in zip(pairs, stored, wanted, strict=True)
            ]
        dx = _sum_rows(dx_NH, ctx.rows) if dx_NH is not None and ctx.rows is not None else dx_NH
        return dx, dweight_N, None, None, *gradients


def _activate(gate_nI: Tensor, up_nI: Tensor) -> tuple[Tensor, Tensor]:
    """silu(gate), and that times up."""
    silu_nI = F.silu(gate_nI)
    return silu_nI, silu_nI * up_nI


def _slices(counts: Sequence[int]) -> list[slice]:
    """Each expert's rows."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    return [slice(start, end) for start, end in pairwise(ends)]


def _take(x: Tensor, rows: Rows | None, own: slice) -> Tensor:
    return x[own] if rows is None else x.index_select(0, rows.token_N[own])


class _Gather(torch.autograd.Function):
    """x_TH -> its rows [N, H]."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x_TH.index_select(0, rows.token_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx_NH: Tensor) -> tuple[Tensor, None]:
        return _sum_rows(dx_NH, ctx.rows), None


class _Scatter(torch.autograd.Function):
    """Rows [N, H] -> their sum for each token [T, H]; always in the order of choices, so the same bits every time."""

    @staticmethod
    def forward(ctx: Any, y_NH: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return _sum_rows(y_NH, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor) -> tuple[Tensor, None]:
        return dy_TH.index_select(0, ctx.rows.token_N), None


def _sum_rows(y_NH: Tensor, rows: Rows) -> Tensor:
    if rows.drops:
        y_NH = torch.cat((y_NH, y_NH.new_zeros(1, y_NH.shape[1])))
    out_TH = y_NH.index_select(0, rows.row_Tk[:, 0])
    for choice in range(1, rows.row_Tk.shape[1]):
        out_TH += y_NH.index_select(0, rows.row_Tk[:, choice])
    return out_TH
