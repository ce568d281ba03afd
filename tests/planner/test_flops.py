"""FLOPs by formula against counting every product of every token."""

from __future__ import annotations

from math import prod

import pytest

from openarctic.formats import HybridConfig
from openarctic.formats.names import tensor_table
from openarctic.planner import PRESETS, flops_per_token
from tests.tiny import LAYOUTS


def counted(config: HybridConfig, position: int) -> int:
    """Operations of the token that sees `position` positions, itself included."""
    flops = 0
    for spec in tensor_table(config):
        if spec.part == "experts":
            flops += 2 * config.num_experts_per_tok * prod(spec.shape)
        elif spec.part not in ("norms", "biases", "embedding") or (spec.part == "embedding" and config.tie_word_embeddings):
            flops += 2 * prod(spec.shape)
    for _layer in range(config.num_hidden_layers):
        for _head in range(config.num_attention_heads):
            scores = weighted_values = 2 * config.head_dim * position
            flops += scores + weighted_values
    return flops


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("context", [1, 2, 17])
def test_formula_is_the_count_of_every_token(layout: str, context: int) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    flops = flops_per_token(config, context)
    tokens = [counted(config, position) for position in range(1, context + 1)]
    assert flops.decode == tokens[-1]
    assert flops.prefill == sum(tokens) / context
    assert flops.training == 3 * flops.prefill


def test_the_480b() -> None:
    """Dense 0.543 GFLOP and experts 0.418 GFLOP a layer and token (spec 6.3), scores and head beside them."""
    flops = flops_per_token(PRESETS["arctic-480b"], 4096)
    dense, experts = 2 * (117_440_512 + 154_140_672), 2 * 2 * 104_595_456
    assert (round(dense / 1e9, 3), round(experts / 1e9, 3)) == (0.543, 0.418)
    router, head, scores = 2 * 917_504, 2 * 32000 * 7168, 4 * 56 * 128 * 4096
    assert flops.decode == 35 * (dense + experts + router + scores) + head
