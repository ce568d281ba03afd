"""Configurations by name: the published 480B (spec 1.1) in both its exports, and shapes that tests and benchmarks use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from openarctic.formats.config import HybridConfig

_ARCTIC_480B = HybridConfig(
    vocab_size=32000,
    hidden_size=7168,
    intermediate_size=4864,
    num_hidden_layers=35,
    num_attention_heads=56,
    num_key_value_heads=8,
    num_local_experts=128,
    num_experts_per_tok=2,
    moe_layer_frequency=1,
    parallel_attn_mlp_res=True,
    rope_theta=10000.0,
    rms_norm_eps=1e-5,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
    bos_token_id=31998,
    eos_token_id=31999,
)
_HYBRID_145M = replace(
    _ARCTIC_480B,
    hidden_size=512,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=2,
    num_local_experts=16,
    bos_token_id=1,
    eos_token_id=2,
)

PRESETS: Mapping[str, HybridConfig] = {
    "arctic-480b": _ARCTIC_480B,
    # Early exports repeat each of the 8 key-value heads seven times; the base model was published only so.
    "arctic-480b-kv56": replace(_ARCTIC_480B, num_key_value_heads=56, bos_token_id=1, eos_token_id=2),
    "hybrid-145m": _HYBRID_145M,
    "hybrid-1.4b": replace(
        _HYBRID_145M,
        hidden_size=1024,
        intermediate_size=768,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=4,
        num_local_experts=32,
    ),
    # The golden case of the specification (2.6): small enough for every test.
    "tiny": replace(
        _HYBRID_145M,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_local_experts=8,
    ),
}
