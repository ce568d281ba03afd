"""An independent hybrid: spec/arctic-architecture.md section 2 word for word, one token and one head at a time, in float64.

It shares no code with the product, takes Hugging Face names, and is slow on purpose: the truth that all else is held to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class PlainHybrid:
    """Logits of one sequence; `config` is a `config.json` as a dict."""

    def __init__(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.config = config
        self.state = {name: np.asarray(values, dtype=np.float64) for name, values in state.items()}

    def logits(self, ids: Sequence[int]) -> Vector:
        """[len(ids), vocab_size]"""
        stream = [self.state["model.embed_tokens.weight"][i] for i in ids]
        for layer in range(self.config["num_hidden_layers"]):
            stream = self._layer(layer, stream)
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        return np.stack([self._weight(head) @ self._norm(x, "model.norm") for x in stream])

    def _layer(self, layer: int, stream: list[Vector]) -> list[Vector]:
        name = f"model.layers.{layer}"
        is_turn = (layer + 1) % self.config["moe_layer_frequency"] == 0
        has_experts = self.config["num_local_experts"] and layer in self.config.get("moe_layers", [layer] if is_turn else [])
        attended = self._attention([self._norm(x, f"{name}.input_layernorm") for x in stream], f"{name}.self_attn")
        out = []
        for x, a in zip(stream, attended, strict=True):
            h = x + a
            if has_experts and self.config["parallel_attn_mlp_res"]:
                r = self._mlp(self._norm(h, f"{name}.residual_layernorm"), f"{name}.residual_mlp")
                m = self._experts(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.block_sparse_moe")
                out.append(h + r + m)
                continue
            normed = self._norm(h, f"{name}.post_attention_layernorm")
            if has_experts:
                out.append(h + self._experts(normed, f"{name}.block_sparse_moe"))
            else:
                out.append(h + self._mlp(normed, f"{name}.block_sparse_moe.mlp"))
        return out

    def _weight(self, name: str) -> Vector:
        return self.state[name + ".weight"]

    def _bias(self, name: str) -> Vector:
        return self.state[name + ".bias"] if self.config.get("qkv_bias") else np.zeros(1)

    def _norm(self, x: Vector, name: str) -> Vector:
        mean_square = sum(v * v for v in x) / len(x)
        return self._weight(name) * (x / math.sqrt(mean_square + self.config["rms_norm_eps"]))

    def _mlp(self, x: Vector, name: str) -> Vector:
        gate, up = self._weight(f"{name}.w1") @ x, self._weight(f"{name}.w3") @ x
        silu = np.array([g / (1 + math.exp(-g)) for g in gate])
        return self._weight(f"{name}.w2") @ (silu * up)

    def _experts(self, x: Vector, name: str) -> Vector:
        scores = [math.exp(v) for v in self._weight(f"{name}.gate") @ x]
        ranked = sorted(range(len(scores)), key=lambda e: -scores[e])[: self.config["num_experts_per_tok"]]
        total = sum(scores[e] for e in ranked) if len(ranked) > 1 else sum(scores)
        out = np.zeros_like(x)
        for e in ranked:
            out += scores[e] / total * self._mlp(x, f"{name}.experts.{e}")
        return out

    def _attention(self, stream: list[Vector], name: str) -> list[Vector]:
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        width = self.config.get("head_dim", self.config["hidden_size"] // heads)
        queries, keys, values = (
            [(self._weight(f"{name}.{kind}_proj") @ x + self._bias(f"{name}.{kind}_proj")).reshape(-1, width) for x in stream]
            for kind in ("q", "k", "v")
        )
        out = []
        for i, query in enumerate(queries):
            mixed = []
            for head in range(heads):
                shared = head // (heads // kv_heads)
                turned = self._rotate(query[head], i)
                scores = [turned @ self._rotate(keys[j][shared], j) / math.sqrt(width) for j in range(i + 1)]
                weights = np.exp(np.array(scores) - max(scores))
                mixed.append(sum(w * values[j][shared] for j, w in enumerate(weights / weights.sum())))
            out.append(self._weight(f"{name}.o_proj") @ np.concatenate(mixed))
        return out

    def _rotate(self, v: Vector, position: int) -> Vector:
        """Pairs (i, i + width / 2) turn by position * theta^(-2i / width)."""
        half = len(v) // 2
        out = np.empty_like(v)
        for i in range(half):
            angle = position * self.config["rope_theta"] ** (-2 * i / len(v))
            out[i] = v[i] * math.cos(angle) - v[i + half] * math.sin(angle)
            out[i + half] = v[i + half] * math.cos(angle) + v[i] * math.sin(angle)
        return out
