"""From a checked GGUF file to the native model: which tensor goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openarctic.errors import CorruptError, UserError
from openarctic.formats import GGUFFile, HybridConfig
from openarctic.formats.names import rotates_halves
from openarctic.formats.quants import TYPES
from openarctic.native._native import Model


def load_model(file: GGUFFile, config: HybridConfig, *, pages: int, threads: int, cache_type: str, kernels: str = "") -> Model:
    """A native model with room for `pages` of keys and values. `kernels` "" takes the fastest that the processor has."""
    model = Model(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        eps=config.rms_norm_eps,
        theta=config.rope_theta,
        threads=threads,
        pages=pages,
        cache_type=cache_type,
        rotates_halves=rotates_halves(config),
        renormalizes=config.renormalizes,
        kernels=kernels,
    )
    loader = _Loader(file, config, model)
    for layer in range(config.num_hidden_layers):
        loader.layer(layer)
    loader.ends()
    return model


@dataclass(frozen=True, slots=True)
class _Loader:
    """Hands the tensors of a checked file to the native model."""

    file: GGUFFile
    config: HybridConfig
    model: Model

    def layer(self, index: int) -> None:
        """Everything of one layer."""
        config, prefix = self.config, f"blk.{index}."
        for name in "qkv":
            self._set(index, name, [self._matrix(f"{prefix}attn_{name}")])
            if config.qkv_bias:
                self._vector(index, f"{name}_bias", f"{prefix}attn_{name}", "bias")
            if config.qk_norm != "none" and name != "v":
                self._vector(index, f"{name}_norm", f"{prefix}attn_{name}_norm")
        self._set(index, "o", [self._matrix(f"{prefix}attn_output")])
        self._vector(index, "attn_norm", f"{prefix}attn_norm")
        self._vector(index, "ffn_norm", f"{prefix}ffn_norm")
        if not config.is_moe_layer(index) or config.is_parallel_layer(index):
            pair = [self._matrix(f"{prefix}ffn_{name}") for name in ("gate", "up")]
            self._set(index, "gate_up", pair, interleave=True)
            self._set(index, "down", [self._matrix(f"{prefix}ffn_down")])
        if config.is_moe_layer(index):
            self._experts(index, prefix)

    def _experts(self, index: int, prefix: str) -> None:
        if self.config.is_parallel_layer(index):
            self._vector(index, "moe_norm", f"{prefix}ffn_norm_exps")
        self._vector(index, "router", f"{prefix}ffn_gate_inp")
        gate, up, down = (self._stacked(f"{prefix}ffn_{name}_exps") for name in ("gate", "up", "down"))
        self._check_width(gate[1])
        self.model.set_experts(index, "expert_gate_up", [gate, up], True)
        self.model.set_experts(index, "expert_down", [down], False)

    def ends(self) -> None:
        """Embedding, final norm and head."""
        embedding = self._matrix("token_embd")
        self.model.set_embedding(embedding)
        self._set(-1, "head", [embedding if self.config.tie_word_embeddings else self._matrix("output")])
        self._vector(-1, "output_norm", "output_norm")

    def _set(self, layer: int, name: str, matrices: list[tuple[int, int, int, Any]], interleave: bool = False) -> None:
        if interleave:
            self._check_width(matrices[0][1])
        self.model.set_matrix(layer, name, matrices, interleave)

    def _check_width(self, width: int) -> None:
        if width % 8:
            raise UserError(f"an MLP of width {width} is not supported", "it must be a multiple of 8")

    def _matrix(self, name: str) -> tuple[int, int, int, Any]:
        tensor = self.file.tensors[f"{name}.weight"]
        rows, cols = tensor.shape
        return TYPES[tensor.type].code, rows, cols, tensor.data

    def _stacked(self, name: str) -> tuple[int, int, int, Any]:
        """All experts' matrices, with the shape of one."""
        tensor = self.file.tensors[f"{name}.weight"]
        _, rows, cols = tensor.shape
        return TYPES[tensor.type].code, rows, cols, tensor.data

    def _vector(self, layer: int, name: str, tensor: str, kind: str = "weight") -> None:
        values = self.file.dequantize(f"{tensor}.{kind}").reshape(-1)
        if not np.isfinite(values).all():
            raise CorruptError(f"tensor {tensor}.{kind} holds values that are not finite")
        self.model.set_vector(layer, name, np.ascontiguousarray(values, np.float32))
