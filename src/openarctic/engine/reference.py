"""The same step in plain numpy, slow and short: what the native engine is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openarctic.formats import GGUFFile, from_gguf

Array = NDArray[np.float64]


def reference_logits(file: GGUFFile, ids: Sequence[int]) -> Array:
    """Logits [len(ids), vocab] of one sequence, in float64 (spec/arctic-architecture.md section 2)."""
    config, loaded = from_gguf(file)
    state = {name: values.astype(np.float64) for name, values in loaded.items()}
    eps, heads, kv_heads = config.rms_norm_eps, config.num_attention_heads, config.num_key_value_heads
    count, dim = len(ids), config.head_dim
    angles = np.arange(count)[:, None] * config.rope_theta ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.tile(np.cos(angles), 2)[:, None], np.tile(np.sin(angles), 2)[:, None]
    hidden_future = np.triu(np.full((count, count), -np.inf), 1)

    def weight(name: str) -> Array:
        return state[name + ".weight"]

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight(name)

    def mlp(x: Array, name: str) -> Array:
        gate = x @ weight(name + ".w1").T
        return (gate / (1 + np.exp(-gate)) * (x @ weight(name + ".w3").T)) @ weight(name + ".w2").T

    def rotate(x: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate((-second, first), -1) * sin

    def attention(x: Array, name: str) -> Array:
        q, k, v = (
            (x @ weight(f"{name}.{p}_proj").T).reshape(count, n, dim) for p, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (rotate(k), v))
        scores = np.einsum("iad,jad->aij", rotate(q), k) / np.sqrt(dim) + hidden_future
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        return np.einsum("aij,jad->iad", probs, v).reshape(count, -1) @ weight(f"{name}.o_proj").T

    def experts(x: Array, name: str) -> Array:
        logits = x @ weight(f"{name}.gate").T
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for i, row in enumerate(probs):
            best = np.argsort(-row, kind="stable")[: config.num_experts_per_tok]
            total = row[best].sum() if len(best) > 1 else 1.0
            out[i] = sum(row[e] / total * mlp(x[i], f"{name}.experts.{e}") for e in best)
        return out

    x = weight("model.embed_tokens")[list(ids)]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        h = x + attention(norm(x, prefix + "input_layernorm"), prefix + "self_attn")
        if config.is_parallel_layer(layer):
            residual = mlp(norm(h, prefix + "residual_layernorm"), prefix + "residual_mlp")
            x = h + residual + experts(norm(x, prefix + "post_attention_layernorm"), prefix + "block_sparse_moe")
        elif config.is_moe_layer(layer):
            x = h + experts(norm(h, prefix + "post_attention_layernorm"), prefix + "block_sparse_moe")
        else:
            x = h + mlp(norm(h, prefix + "post_attention_layernorm"), prefix + "block_sparse_moe.mlp")
    return norm(x, "model.norm") @ weight("lm_head").T
