"""What the CPU build of vLLM 0.32.0 leaves out of its experts, supplied for the tests as plugins of vLLM's own kind.

They say nothing about our model but let it be tested further: expert parallelism crashes with a stock Mixtral too, and from
its source vLLM asks for Triton's experts with any adapter.
"""

from __future__ import annotations

from typing import Any

import torch


def local_experts() -> None:
    """Expert parallelism: the CPU kernel takes global expert ids for local ones and reads past its weights (a crash)."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    apply = CPUUnquantizedExperts.apply

    def apply_local(self: Any, *, topk_weights: Any, topk_ids: Any, expert_map: Any, **rest: Any) -> None:
        if expert_map is not None:
            local = expert_map[topk_ids.long()]
            topk_weights = torch.where(local >= 0, topk_weights, torch.zeros_like(topk_weights))
            topk_ids = local.clamp(min=0).to(topk_ids.dtype)
        apply(self, topk_weights=topk_weights, topk_ids=topk_ids, expert_map=expert_map, **rest)

    CPUUnquantizedExperts.apply = apply_local


def adapters_beside_experts() -> None:
    """Adapters: with LoRA on, vLLM asks for Triton's experts even where no adapter touches an expert; there are none on CPU."""
    from vllm.model_executor.layers.fused_moe import layer

    config = layer.FusedMoEConfig
    layer.FusedMoEConfig = lambda **fields: config(**{**fields, "is_lora_enabled": False})
