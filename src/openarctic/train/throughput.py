"""How much a step computes, and how fast this machine multiplies matrices: together the share of the peak that a run reaches."""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass

import torch

from openarctic.model import ArcticForCausalLM
from openarctic.train.objectives import BatchSize

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of training: of every token, of every target (the head) and of every position that a token sees."""

    token: float
    target: float
    seen: float

    def of(self, size: BatchSize) -> float:
        """Of a batch."""
        return self.token * size.tokens + self.target * size.targets + self.seen * size.seen


def step_flops(model: ArcticForCausalLM) -> StepFlops:
    """Counted on the model itself, as frozen parts cost less; a multiply-add is two, what is no product of matrices is left out.

    A weight's product costs 2 forward, 2 for its own gradient where it learns, and 2 for its input's gradient where something
    below it learns. Experts count by the share that a token uses. Recomputed products are not counted.
    """
    config = model.config
    lowest = _lowest_trained_layer(model)
    held = held_experts(model)
    share = config.num_experts_per_tok / held if held else 0.0
    token = 0.0
    for name, parameter in model.named_parameters():
        found = _LAYER.search(name)
        if found and parameter.ndim == 2:
            each = parameter.numel() * (share if ".experts." in name else 1.0)
            token += each * (2 + 2 * parameter.requires_grad + 2 * (int(found[1]) >= lowest))
    head = model.lm_head.weight
    target = head.numel() * (2 + 2 * head.requires_grad + 2)
    backward_layers = max(0, config.num_hidden_layers - lowest)
    seen = 4 * config.num_attention_heads * config.head_dim * (config.num_hidden_layers + 2 * backward_layers)
    return StepFlops(token, target, seen)


def held_experts(model: ArcticForCausalLM) -> int:
    """How many of a layer's experts this process holds; all of them where they are not spread."""
    return len({match[1] for name, _ in model.named_parameters() if (match := _EXPERT.search(name))})


def _lowest_trained_layer(model: ArcticForCausalLM) -> int:
    """The first layer whose output has a gradient: 0 when the embedding learns."""
    layers = [model.config.num_hidden_layers]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found = _LAYER.search(name)
            if found:
                layers.append(int(found[1]))
            elif "embed_tokens" in name:
                return 0
    return min(layers)


@functools.cache
def gemm_flops(dtype: torch.dtype, device: torch.device, seconds: float = 0.1) -> float:
    """FLOPs a second of square products, the best of the rounds done in `seconds`; measured once a process."""
    side, count = _round(device)
    a = torch.randn(side, side, device=device).to(dtype)
    out = torch.matmul(a, a)
    best = float("inf")
    stop = time.perf_counter() + seconds
    while True:
        _finish(device)
        start = time.perf_counter()
        for _ in range(count):
            torch.matmul(a, a, out=out)
        _finish(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= stop:
            return 2 * side**3 * count / best


def _round(device: torch.device) -> tuple[int, int]:
    """Rows of a product, and products of a round. To an accelerator a product of a CPU's size takes less time than being told of
    it, and waiting for it."""
    return (4096, 8) if device.type == "cuda" else (1024, 1)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bytes(device: torch.device) -> int:
    """The most memory held so far: of the accelerator, else resident memory of this process (0 where nobody tells)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
