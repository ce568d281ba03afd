"""The tiny world of the tests: small random hybrids of every layout, as configs, Hugging Face tensors and GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openarctic.formats import HybridConfig, to_gguf, write_gguf
from openarctic.formats.names import state_dict_shapes

IDS = [1, 5, 9, 60, 33, 2, 17, 48, 5, 63, 21, 8]


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of a parallel hybrid with experts in every layer."""
    return {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "moe_layer_frequency": 1,
        "parallel_attn_mlp_res": True,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        **changes,
    }


LAYOUTS = {
    "parallel": tiny_config(),
    "dense": tiny_config(num_local_experts=0, num_experts_per_tok=0, intermediate_size=96),
    "every second layer, top-1, tied": tiny_config(
        moe_layer_frequency=2, num_experts_per_tok=1, tie_word_embeddings=True, dense_intermediate_size=96
    ),
    "every third layer, MHA": tiny_config(moe_layer_frequency=3, num_key_value_heads=4),
    "top-3, wide residual MLP": tiny_config(num_experts_per_tok=3, residual_intermediate_size=160),
    "one kv head, all experts": tiny_config(num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=4),
    "sequential": tiny_config(parallel_attn_mlp_res=False),
    "sequential, every second layer, top-1": tiny_config(
        parallel_attn_mlp_res=False, moe_layer_frequency=2, num_experts_per_tok=1, dense_intermediate_size=96
    ),
    "biases, own head_dim, chosen layers": tiny_config(qkv_bias=True, head_dim=24, moe_layers=[0, 1]),
}


_FAMILY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}
# A `config.json` of each family of `formats/families.py` that Arctic's own form cannot say.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_FAMILY, "model_type": "llama", "head_dim": 24},
    "qwen2": {**_FAMILY, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**_FAMILY, "model_type": "qwen3", "head_dim": 32},
    "mixtral": {**_FAMILY, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1},
    "olmoe": {**_FAMILY, **_EXPERTS, "model_type": "olmoe", "num_key_value_heads": 4, "norm_topk_prob": False},
    "qwen3_moe": {
        **{**_FAMILY, **_EXPERTS, "model_type": "qwen3_moe", "head_dim": 32, "norm_topk_prob": True},
        "moe_intermediate_size": 32,
    },
}


def random_state(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors under Hugging Face names: norms near 1, matrices that keep the scale of what passes through."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in state_dict_shapes(HybridConfig.from_dict(config)).items():
        values = rng.standard_normal(shape)
        if len(shape) == 1:
            values = 1 + 0.2 * values
        elif "embed_tokens" not in name or config["tie_word_embeddings"]:
            values *= 1.2 / np.sqrt(shape[1])
        state[name] = values.astype(np.float32)
    return state


def write_model(path: Path, config: dict[str, Any], type_: str, seed: int = 0) -> Path:
    """A GGUF file of a random model with every matrix in one type."""
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config, seed), lambda *_: type_, {})
    return write_gguf(path, metadata, tensors)[0]
