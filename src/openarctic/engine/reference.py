"""The model in plain numpy and float64, slow and short: what every runtime is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openarctic.formats import GGUFFile, HybridConfig, from_gguf
from openarctic.formats.quants import F32Array

Array = NDArray[np.float64]


def reference_logits(file: GGUFFile, ids: Sequence[int]) -> Array:
    """Logits [len(ids), vocab] of one sequence through the numbers of a GGUF file."""
    return PlainModel(*from_gguf(file)).logits(ids)


class PlainModel:
    """A model from float32 tensors under Hugging Face names (spec/arctic-architecture.md section 2), or of a family."""

    def __init__(self, config: HybridConfig, state: Mapping[str, F32Array]) -> None:
        self.config = config
        self._state = {name: values.astype(np.float64) for name, values in state.items()}

    def logits(self, ids: Sequence[int]) -> Array:
        """Logits [len(ids), vocab] of one sequence."""
        x = self._weight("model.embed_tokens")[list(ids)]
        for layer in range(self.config.num_hidden_layers):
            x = self._layer(x, layer)
        head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        return self._norm(x, "model.norm") @ self._weight(head).T

    def _layer(self, x: Array, layer: int) -> Array:
        prefix = f"model.layers.{layer}."
        h = x + self._attention(self._norm(x, prefix + "input_layernorm"), prefix + "self_attn")
        if self.config.is_parallel_layer(layer):
            residual = self._mlp(self._norm(h, prefix + "residual_layernorm"), prefix + "residual_mlp")
            experts = self._experts(self._norm(x, prefix + "post_attention_layernorm"), prefix + "block_sparse_moe")
            return h + residual + experts
        normed = self._norm(h, prefix + "post_attention_layernorm")
        if self.config.is_moe_layer(layer):
            return h + self._experts(normed, prefix + "block_sparse_moe")
        return h + self._mlp(normed, prefix + "block_sparse_moe.mlp")

    def _weight(self, name: str) -> Array:
        return self._state[name + ".weight"]

    def _norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.config.rms_norm_eps) * self._weight(name)

    def _mlp(self, x: Array, name: str) -> Array:
        gate = x @ self._weight(name + ".w1").T
        return (gate / (1 + np.exp(-gate)) * (x @ self._weight(name + ".w3").T)) @ self._weight(name + ".w2").T

    def _attention(self, x: Array, name: str) -> Array:
        count, heads, kv_heads, dim = len(x), *self._heads()
        q, k, v = (self._project(x, name, p).reshape(count, -1, dim) for p in "qkv")
        if self.config.qk_norm == "head":
            q, k = self._norm(q, f"{name}.q_norm"), self._norm(k, f"{name}.k_norm")
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (self._rotate(k), v))
        hidden_future = np.triu(np.full((count, count), -np.inf), 1)
        scores = np.einsum("iad,jad->aij", self._rotate(q), k, optimize=True) / np.sqrt(dim) + hidden_future
        probs = _softmax(scores)
        mixed = np.einsum("aij,jad->iad", probs, v, optimize=True).reshape(count, -1)
        return mixed @ self._weight(f"{name}.o_proj").T

    def _project(self, x: Array, name: str, part: str) -> Array:
        rows = x @ self._weight(f"{name}.{part}_proj").T
        if self.config.qkv_bias:
            rows = rows + self._state[f"{name}.{part}_proj.bias"]
        return self._norm(rows, f"{name}.{part}_norm") if self.config.qk_norm == "row" and part != "v" else rows

    def _heads(self) -> tuple[int, int, int]:
        return self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim

    def _rotate(self, x: Array) -> Array:
        dim = x.shape[-1]
        angles = np.arange(len(x))[:, None] * self.config.rope_theta ** (-np.arange(0, dim, 2) / dim)
        cos, sin = np.tile(np.cos(angles), 2)[:, None], np.tile(np.sin(angles), 2)[:, None]
        first, second = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate((-second, first), -1) * sin

    def _experts(self, x: Array, name: str) -> Array:
        out = np.zeros_like(x)
        for i, row in enumerate(_softmax(x @ self._weight(f"{name}.gate").T)):
            best = np.argsort(-row, kind="stable")[: self.config.num_experts_per_tok]
            total = row[best].sum() if self.config.renormalizes else 1.0
            out[i] = sum(row[e] / total * self._mlp(x[i], f"{name}.experts.{e}") for e in best)
        return out


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
