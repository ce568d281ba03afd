"""Floating-point operations per token; a multiply-add counts as two, everything smaller than a matrix is left out.

Matrices: 2 x every weight that the token is multiplied with (attention, MLPs, router, top-k experts, head). The embedding is a
lookup and costs nothing. Attention: 2 x 2 x heads x head_dim a layer (scores, and their sum over values) for every position seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from openarctic.formats.config import HybridConfig
from openarctic.planner.parameters import parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """FLOPs of one token at a context: `decode` for the token that sees all of it, `prefill` averaged over its tokens."""

    context: int
    prefill: int
    decode: int

    @property
    def training(self) -> int:
        """Forward and backward: every forward product has two of the same size behind it. Nothing is recomputed."""
        return 3 * self.prefill


def flops_per_token(config: HybridConfig, context: int) -> Flops:
    """FLOPs of one token; the head is counted at every position, as training and scoring need it.

    Causal prefill of n tokens sees 1 + 2 + ... + n positions, so (n + 1) / 2 on average.
    """
    matrices = 2 * parameters(config).active_matrices
    each_position = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return Flops(
        context=context,
        prefill=matrices + each_position * (context + 1) // 2,
        decode=matrices + each_position * context,
    )
