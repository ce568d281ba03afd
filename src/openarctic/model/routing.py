"""Which experts a token goes to, with what weight, and what that costs: a router as pure functions of its logits.

Everything is computed in float32. Each token chooses k experts; with a capacity, an expert takes only so many and the rest is
dropped: the token then lacks that expert, and nothing is computed for it. The rules of dropping and both published balancing
losses are those of spec/arctic-architecture.md sections 2.4 and 6; the z-loss is that of ST-MoE (arXiv 2202.08906), balancing
without a loss that of arXiv 2408.15664.

Shapes: T tokens, E experts, k choices of a token, R = T * k routes (a token's choice of an expert). Routes are counted
choice by choice: all first choices in the order of tokens, then all second ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from openarctic.errors import UserError
from openarctic.model.recompute import recomputable, recomputing

DropRule = Literal["position", "probability", "random"]
AuxLoss = Literal["all_choices", "first_choice"]
# Sums a tensor over processes.
Total = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    """How a router behaves in training; in evaluation it drops nothing and adds no noise.

    `capacity_factor` None drops nothing, 1 gives every expert room for its even share of the routes, and `min_capacity` is the
    least room. `drop` says who stays when it is too little: `position` first choices before second, then earlier tokens
    (DeepSpeed's order, whose offsets count what is dropped too); `probability` the most wanted; `random` any with equal chance.
    `renormalize_after_drop` divides a token's weights by the sum of those that stayed, else by the sum of all.
    `jitter` multiplies the router's input with random factors from 1 - jitter to 1 + jitter.
    `aux_loss` is `all_choices` (Hugging Face: k at perfect balance) or `first_choice` (DeepSpeed: 1 at perfect balance).
    `z_loss_coef` weighs the z-loss in the model's loss. `bias_update_rate` above 0 balances by a bias that counts for choosing
    only and moves by that much after each step. Raises UserError for values that make no sense.
    """

    capacity_factor: float | None = None
    min_capacity: int = 4
    drop: DropRule = "position"
    renormalize_after_drop: bool = True
    jitter: float = 0.0
    aux_loss: AuxLoss = "all_choices"
    z_loss_coef: float = 0.0
    bias_update_rate: float = field(default=0.0, metadata={"may_change": True})  # see `train.config`

    def __post_init__(self) -> None:
        if self.capacity_factor is not None and not 0 < self.capacity_factor < float("inf"):
            raise UserError(f"capacity_factor is {self.capacity_factor}, it must be above 0", "None drops nothing")
        if self.min_capacity < 0:
            raise UserError(f"min_capacity is {self.min_capacity}, it must be 0 or more")
        if not 0 <= self.jitter < 1:
            raise UserError(f"jitter is {self.jitter}, it must be at least 0 and below 1", "0.01 is usual")
        for name in ("z_loss_coef", "bias_update_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}, it must be 0 or more")
        for name, known in (("drop", get_args(DropRule)), ("aux_loss", get_args(AuxLoss))):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}", f"known: {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Route:
    """Where each token goes.

    `weights_Tk` are 0 where `kept_Tk` is False. `balance` and `z_loss` are scalars with gradient, not yet weighted.
    Without gradient: `load_E` the routes that each expert keeps, `demand_E` those that it was chosen for, `dropped` the
    difference of their sums, `entropy` of the router's distribution in nats, the tokens' mean.
    """

    chosen_Tk: Tensor
    weights_Tk: Tensor
    kept_Tk: Tensor
    logits_TE: Tensor
    balance: Tensor
    z_loss: Tensor
    load_E: Tensor
    demand_E: Tensor
    dropped: Tensor
    entropy: Tensor

    @property
    def stats(self) -> RouteStats:
        """What a log wants to know."""
        return RouteStats(self.load_E, self.demand_E, self.dropped, self.entropy)


class RouteStats(NamedTuple):
    """One layer's routing in numbers, without gradient (see `Route`)."""

    load_E: Tensor
    demand_E: Tensor
    dropped: Tensor
    entropy: Tensor


def route(
    logits_TE: Tensor,
    top_k: int,
    config: RoutingConfig,
    *,
    training: bool,
    bias_E: Tensor | None = None,
    generator: torch.Generator | None = None,
    total: Total | None = None,
) -> Route:
    """Choose, weigh, drop and count.

    `bias_E` is added to the probabilities for choosing, never for weighing. `generator` is for random dropping. `total` sums
    over processes what each expert was chosen for, so that the mean of the processes' balancing losses is that of one process
    with all tokens.
    """
    logits32_TE = logits_TE.float()
    probs_TE = recomputable(_Softmax.apply, logits32_TE)
    chosen_Tk = (probs_TE if bias_E is None else probs_TE + bias_E).topk(top_k, -1).indices
    probs_Tk = probs_TE.gather(1, chosen_Tk)
    num_tokens, num_experts = probs_TE.shape
    demand_E = count_routes(chosen_Tk, num_experts)
    if training and config.capacity_factor is not None:
        limit = capacity(num_tokens, num_experts, top_k, config.capacity_factor, config.min_capacity)
        kept_Tk = keep(chosen_Tk, wanted_order(probs_Tk.detach(), config.drop, generator), limit)
        load_E = count_routes(chosen_Tk, num_experts, kept_Tk)
    else:
        kept_Tk, load_E = torch.ones_like(chosen_Tk, dtype=torch.bool), demand_E
    log_sum_T = logits32_TE.logsumexp(-1)
    with torch.no_grad():
        entropy = (log_sum_T - (probs_TE * logits32_TE).sum(-1)).mean()
    return Route(
        chosen_Tk=chosen_Tk,
        weights_Tk=mixing_weights(probs_Tk, kept_Tk, config.renormalize_after_drop),
        kept_Tk=kept_Tk,
        logits_TE=logits_TE,
        balance=balance_loss(probs_TE, chosen_Tk if config.aux_loss == "all_choices" else chosen_Tk[:, :1], total),
        z_loss=log_sum_T.square().mean(),
        load_E=load_E,
        demand_E=demand_E,
        dropped=(demand_E - load_E).sum(),
        entropy=entropy,
    )


class _Softmax(torch.autograd.Function):
    """Softmax; a layer that recomputes keeps the logits, which are there anyway, instead of the result."""

    @staticmethod
    def forward(ctx: Any, logits_TE: Tensor) -> Tensor:
        probs_TE = logits_TE.softmax(-1)
        ctx.recomputes = recomputing()
        ctx.save_for_backward(logits_TE if ctx.recomputes else probs_TE)
        return probs_TE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dprobs_TE: Tensor) -> Tensor:
        (probs_TE,) = ctx.saved_tensors
        if ctx.recomputes:
            probs_TE = probs_TE.softmax(-1)
        return torch.ops.aten._softmax_backward_data(dprobs_TE, probs_TE, -1, probs_TE.dtype)


def count_routes(chosen_Tk: Tensor, num_experts: int, kept_Tk: Tensor | None = None) -> Tensor:
    """How many routes lead to each expert, int64 [E]."""
    ones = torch.ones_like(chosen_Tk) if kept_Tk is None else kept_Tk.to(torch.int64)
    return ones.new_zeros(num_experts).scatter_add_(0, chosen_Tk.flatten(), ones.flatten())


def capacity(num_tokens: int, num_experts: int, top_k: int, factor: float, min_capacity: int) -> int:
    """Routes that one expert takes: ceil(T / E * k * factor), in float32 as DeepSpeed computes it, at least `min_capacity`."""
    share = np.float32(num_tokens / num_experts) * np.float32(factor * top_k)
    return max(int(np.ceil(share)), min_capacity)


def wanted_order(probs_Tk: Tensor, rule: DropRule, generator: torch.Generator | None = None) -> Tensor:
    """Routes [R], those that should stay first; equal probabilities stay in order of position."""
    if rule == "position":
        return torch.arange(probs_Tk.numel(), device=probs_Tk.device)
    if rule == "probability":
        return probs_Tk.T.flatten().argsort(descending=True, stable=True)
    return torch.randperm(probs_Tk.numel(), generator=generator, device=probs_Tk.device)


def keep(chosen_Tk: Tensor, wanted_R: Tensor, capacity: int) -> Tensor:
    """bool [T, k]: of each expert's routes the first `capacity` in the order `wanted_R`."""
    experts_R = chosen_Tk.T.flatten()[wanted_R]
    by_expert_R = experts_R.argsort(stable=True)
    sorted_R = experts_R[by_expert_R]
    rank_R = torch.arange(len(sorted_R), device=sorted_R.device) - torch.searchsorted(sorted_R, sorted_R)
    kept_R = torch.empty_like(sorted_R, dtype=torch.bool)
    kept_R[wanted_R[by_expert_R]] = rank_R < capacity
    return kept_R.view(chosen_Tk.shape[::-1]).T


def keep_reference(chosen_Tk: Tensor, wanted: Iterable[tuple[int, int]], capacity: int) -> Tensor:
    """The readable form of `keep`: routes (token, choice) take a seat at their expert, one after the other."""
    taken: dict[int, int] = {}
    kept_Tk = torch.zeros_like(chosen_Tk, dtype=torch.bool)
    for token, choice in wanted:
        expert = int(chosen_Tk[token, choice])
        kept_Tk[token, choice] = taken.get(expert, 0) < capacity
        taken[expert] = taken.get(expert, 0) + 1
    return kept_Tk


def wanted_order_reference(probs_Tk: Tensor, rule: DropRule, generator: torch.Generator | None = None) -> list[tuple[int, int]]:
    """The readable form of `wanted_order`, as pairs (token, choice)."""
    tokens, choices = probs_Tk.shape
    order = [(token, choice) for choice in range(choices) for token in range(tokens)]
    if rule == "probability":
        order.sort(key=lambda route: -probs_Tk[route].item())  # Python's sort is stable
    if rule == "random":
        order = [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
    return order


def mixing_weights(probs_Tk: Tensor, kept_Tk: Tensor, renormalize_after_drop: bool) -> Tensor:
    """Weights of the routes, 0 where dropped: divided by their sum when there are several choices, else the bare probability."""
    stayed_Tk = probs_Tk * kept_Tk
    if probs_Tk.shape[1] == 1:
        return stayed_Tk
    whole_Tk = stayed_Tk if renormalize_after_drop else probs_Tk
    return stayed_Tk / whole_Tk.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)


def balance_loss(probs_TE: Tensor, chosen_Tk: Tensor, total: Total | None = None) -> Tensor:
    """E * sum_e f[e] * P[e]: f the routes per token that lead to e, without gradient, P its mean probability."""
    num_tokens, num_experts = probs_TE.shape
    counts_E = count_routes(chosen_Tk, num_experts).float()
    if total is not None:
        sums = total(torch.cat((counts_E, counts_E.new_tensor([num_tokens]))))
        share_E = sums[:-1] / sums[-1]
    else:
        share_E = counts_E / num_tokens
    return num_experts * (share_E * probs_TE.mean(0)).sum()


def jitter(x_TH: Tensor, amount: float, generator: torch.Generator | None = None) -> Tensor:
    """x times a random factor from 1 - amount to 1 + amount for every value."""
    noise = torch.empty_like(x_TH).uniform_(1 - amount, 1 + amount, generator=generator)
    return x_TH * noise


def updated_bias(bias_E: Tensor, demand_E: Tensor, rate: float) -> Tensor:
    """One step of balancing without a loss: experts chosen too often lose `rate`, those chosen too rarely gain it."""
    demand_E = demand_E.float()
    return bias_E + rate * (demand_E.mean() - demand_E).sign()
