"""Upcycling: a dense Llama-family model becomes a hybrid that computes the very same logits, then trains on.

The old MLP becomes the residual MLP; each new expert starts from a slice of it, with an output matrix of zeros, so the
branch adds nothing until it has learned something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from openarctic.errors import UserError
from openarctic.model import ArcticConfig, ArcticForCausalLM


def upcycle(
    config: ArcticConfig,
    state: Mapping[str, Tensor],
    *,
    num_local_experts: int,
    num_experts_per_tok: int,
    intermediate_size: int,
    moe_layer_frequency: int,
    seed: int,
) -> ArcticForCausalLM:
    """A hybrid from a dense model given as Hugging Face tensors named as in `openarctic.model` (no experts).

    Every `moe_layer_frequency`-th layer gets `num_local_experts` experts of width `intermediate_size`.
    Raises UserError when the model has experts already, or experts would be wider than its MLP.
    """
    if config.num_local_experts:
        raise UserError("the model has experts already", "only a dense model can be upcycled")
    width = config.dense_width
    if intermediate_size > width:
        raise UserError(f"experts of width {intermediate_size} are wider than the MLP they start from ({width})")
    hybrid = replace(
        config.shape,
        num_local_experts=num_local_experts,
        num_experts_per_tok=num_experts_per_tok,
        intermediate_size=intermediate_size,
        moe_layer_frequency=moe_layer_frequency,
        parallel_attn_mlp_res=True,
        residual_intermediate_size=width,
        dense_intermediate_size=width,
    )
    model = ArcticForCausalLM(ArcticConfig.from_shape(hybrid))
    generator = torch.Generator().manual_seed(seed)
    model.load_state_dict(_hybrid_state(model, dict(state), generator))
    return model


def _hybrid_state(model: ArcticForCausalLM, state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    config = model.config
    for layer in filter(config.is_moe_layer, range(config.num_hidden_layers)):
        prefix = f"model.layers.{layer}."
        for w in ("w1", "w2", "w3"):
            state[f"{prefix}residual_mlp.{w}.weight"] = state.pop(f"{prefix}block_sparse_moe.mlp.{w}.weight")
        norm = state[f"{prefix}post_attention_layernorm.weight"]
        state[f"{prefix}residual_layernorm.weight"] = norm
        state[f"{prefix}post_attention_layernorm.weight"] = norm.clone()
        shape = (config.num_local_experts, config.hidden_size)
        state[f"{prefix}block_sparse_moe.gate.weight"] = 0.02 * torch.randn(shape, generator=generator)
        for e in range(config.num_local_experts):
            rows = torch.randperm(config.residual_width, generator=generator)[: config.intermediate_size]
            expert = f"{prefix}block_sparse_moe.experts.{e}."
            for w in ("w1", "w3"):
                state[f"{expert}{w}.weight"] = state[f"{prefix}residual_mlp.{w}.weight"][rows]
            state[f"{expert}w2.weight"] = torch.zeros(config.hidden_size, config.intermediate_size)
    return state
