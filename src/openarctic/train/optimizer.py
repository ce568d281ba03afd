"""Optimisers: AdamW in its fused form, and Muon for the hidden matrices with AdamW for the rest.

Which parameter goes where: matrices of layers are Muon's; embedding, head, routers and norms are AdamW's. Norms and biases do
not decay. Experts and routers have a learning rate of their own where the config gives one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from openarctic.train.boxes import local_part, own_part, whole
from openarctic.train.config import TrainConfig

# Coefficients of the quintic whose iteration drives singular values towards 1 (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """Optimisers of all parameters that require a gradient; every group has its `peak_lr`."""
    groups: dict[tuple[bool, float, float, Any], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_muon = config.optimizer == "muon" and is_hidden_matrix(name, parameter)
            lr = config.expert_lr if config.expert_lr is not None and _is_sparse(name) else config.lr
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            # Shards over different processes cannot be updated in one call.
            mesh = getattr(parameter, "device_mesh", None)
            groups.setdefault((is_muon, lr, decay, mesh), []).append(parameter)

    def grouped(wants_muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
            for (is_muon, lr, decay, _), parameters in groups.items()
            if is_muon == wants_muon
        ]

    optimizers: list[Optimizer] = []
    if adamw := grouped(False):
        optimizers.append(torch.optim.AdamW(adamw, betas=(config.beta1, config.beta2), fused=True))
    if muon := grouped(True):
        optimizers.append(Muon(muon, momentum=config.muon_momentum))
    return optimizers


def _is_sparse(name: str) -> bool:
    return "block_sparse_moe.experts" in name or ".gate." in name


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether the parameter is a matrix inside a layer, routers aside: they are small, and one row is one expert's."""
    return ".layers." in name and parameter.ndim >= 2 and ".gate." not in name


def set_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Give every group `rate` times its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix [..., R, C] with its singular values driven to about 1 (0.7 to 1.2), its singular vectors kept.

    Newton-Schulz iteration of Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks"); products in the
    given dtype on a CPU, in bf16 on an accelerator.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(Optimizer):
    """Momentum whose update is made orthogonal: w -= lr * (decay * w + 0.2 * sqrt(max(R, C)) * orthogonalised(m)).

    The factor gives updates the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"), so both share learning
    rate and decay. Momentum is Nesterov's. Matrices of one shape are made orthogonal in one batch, so that many small experts
    cost few products. `torch.optim.Muon` computes the same one by one and in bf16, which is slow on most CPUs.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            # A matrix in shards is gathered: its singular vectors run through all of them.
            directions.append(whole(parameter.grad.lerp(state["momentum"], momentum)))
        size = 0.2 * math.sqrt(max(parameters[0].shape[-2:]))
        for parameter, update in zip(parameters, orthogonalised(torch.stack(directions)), strict=True):
            held = local_part(parameter)
            held.mul_(1 - lr * group["weight_decay"]).add_(own_part(update, parameter), alpha=-lr * size)
