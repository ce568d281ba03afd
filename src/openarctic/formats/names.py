"""Hugging Face names and GGUF names of the same tensors, for the `arctic` and `llama` architectures (spec 3.1, 3.4).

Two traps: in GGUF the q and k rows are permuted for interleaved rotary positions, and in an MoE layer `ffn_norm` is the
*residual* norm while Hugging Face's `post_attention_layernorm` is `ffn_norm_exps`.

Three keys of ours extend `arctic` files; stock runtimes can read a file only when they are absent:
`arctic.residual_feed_forward_length`, `arctic.dense_feed_forward_length`, `arctic.moe_layer_frequency`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from openarctic.errors import CorruptError, UserError
from openarctic.formats.gguf import GGUFFile, TensorData
from openarctic.formats.quants import F32Array, quantize

# Hugging Face key -> GGUF key without the architecture.
_KEYS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_EXPERT_KEYS = {"num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
_EXTENSIONS = {
    "residual_intermediate_size": "residual_feed_forward_length",
    "dense_intermediate_size": "dense_feed_forward_length",
}
_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
_MLP = {"w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"}
_FLOATS = {"rms_norm_eps", "rope_theta"}

ChooseType = Callable[[str, tuple[int, ...]], str]


def permute(weight: F32Array, heads: int) -> F32Array:
    """Rows of q or k from "rotate half" order to interleaved order."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def unpermute(weight: F32Array, heads: int) -> F32Array:
    """The inverse of `permute`."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def is_moe_layer(config: Mapping[str, Any], layer: int) -> bool:
    """Whether the 0-based layer has experts (spec 1.1)."""
    return bool(config["num_local_experts"]) and (layer + 1) % config["moe_layer_frequency"] == 0


def _layer_names(config: Mapping[str, Any], layer: int) -> Iterator[tuple[str, str]]:
    """(GGUF name, Hugging Face name) of a layer's unstacked tensors, both without `.weight`."""
    ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
    yield ours + "attn_norm", theirs + "input_layernorm"
    for hf, gguf in _ATTENTION.items():
        yield ours + gguf, f"{theirs}self_attn.{hf}"
    if is_moe_layer(config, layer):
        yield ours + "ffn_norm", theirs + "residual_layernorm"
        yield ours + "ffn_norm_exps", theirs + "post_attention_layernorm"
        yield ours + "ffn_gate_inp", theirs + "block_sparse_moe.gate"
        mlp = "residual_mlp"
    else:
        yield ours + "ffn_norm", theirs + "post_attention_layernorm"
        mlp = "block_sparse_moe.mlp"
    for hf, gguf in _MLP.items():
        yield ours + gguf, f"{theirs}{mlp}.{hf}"


def to_gguf(
    config: Mapping[str, Any],
    state: Mapping[str, F32Array],
    choose_type: ChooseType,
    extra_metadata: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, TensorData]]:
    """Metadata and tensors of an `arctic` file from a Hugging Face config and float32 tensors.

    `choose_type(gguf_name, shape)` picks each matrix's type; vectors and routers stay F32. Raises UserError for a layout
    that GGUF cannot say (sequential MoE layers), KeyError for a missing tensor.
    """
    if config["num_local_experts"] and not config["parallel_attn_mlp_res"]:
        raise UserError("GGUF cannot hold sequential MoE layers", "parallel_attn_mlp_res must be true")
    tensors: dict[str, TensorData] = {}

    def add(name: str, values: F32Array) -> None:
        keep = values.ndim == 1 or name.endswith("ffn_gate_inp")
        full = name + ".weight"
        type_ = "F32" if keep else choose_type(full, values.shape)
        tensors[full] = (type_, values.shape, quantize(values, type_))

    add("token_embd", state["model.embed_tokens.weight"])
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in _layer_names(config, layer):
            values = state[theirs + ".weight"]
            if ours.endswith(("attn_q", "attn_k")):
                values = permute(values, _heads(config, ours))
            add(ours, values)
        if is_moe_layer(config, layer):
            for hf, gguf in _MLP.items():
                names = [
                    f"model.layers.{layer}.block_sparse_moe.experts.{e}.{hf}.weight" for e in range(config["num_local_experts"])
                ]
                add(f"blk.{layer}.{gguf}_exps", np.stack([state[n] for n in names]))
    add("output_norm", state["model.norm.weight"])
    if not config["tie_word_embeddings"]:
        add("output", state["lm_head.weight"])
    return {**_metadata(config), **extra_metadata}, tensors


def _heads(config: Mapping[str, Any], name: str) -> int:
    return int(config["num_attention_heads" if name.endswith("q") else "num_key_value_heads"])


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = {**_KEYS, **_EXPERT_KEYS, **{k: v for k, v in _EXTENSIONS.items() if config.get(k)}}
    metadata: dict[str, Any] = {"general.architecture": "arctic", "general.type": "model"}
    for hf, gguf in keys.items():
        metadata[f"arctic.{gguf}"] = float(config[hf]) if hf in _FLOATS else int(config[hf])
    metadata["arctic.rope.dimension_count"] = config["hidden_size"] // config["num_attention_heads"]
    if config["moe_layer_frequency"] != 1:
        metadata["arctic.moe_layer_frequency"] = config["moe_layer_frequency"]
    return metadata


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """The Hugging Face config of an `arctic` or `llama` file; a `llama` model is a hybrid without experts.

    Raises CorruptError for a missing key, UserError for another architecture.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in ("arctic", "llama"):
        raise UserError(f"architecture {architecture!r} is not supported", "arctic and llama are")

    def get(key: str, default: Any = None) -> Any:
        value = file.metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise CorruptError(f"{file.paths[0]} lacks the key {architecture}.{key}")
        return value

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CorruptError(f"{file.paths[0]} has no tensor token_embd.weight")
    defaults = {"vocab_size": embedding.shape[0], "rope_theta": 10000.0}
    config = {hf: get(gguf, defaults.get(hf)) for hf, gguf in _KEYS.items()}
    experts = get("expert_count", 0)
    config.update(
        num_local_experts=experts,
        num_experts_per_tok=get("expert_used_count", 0),
        moe_layer_frequency=get("moe_layer_frequency", 1),
        parallel_attn_mlp_res=architecture == "arctic",
        tie_word_embeddings="output.weight" not in file.tensors,
    )
    for hf, gguf in _EXTENSIONS.items():
        if width := file.metadata.get(f"{architecture}.{gguf}"):
            config[hf] = width
    for hf, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        config[hf] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    return config


def from_gguf(file: GGUFFile) -> tuple[dict[str, Any], dict[str, F32Array]]:
    """Config and float32 tensors under Hugging Face Arctic names. Raises CorruptError for a missing tensor."""
    config = config_from_gguf(file)
    state = {"model.embed_tokens.weight": file.dequantize("token_embd.weight")}
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in _layer_names(config, layer):
            values = file.dequantize(ours + ".weight")
            if ours.endswith(("attn_q", "attn_k")):
                values = unpermute(values, _heads(config, ours))
            state[theirs + ".weight"] = values
        if is_moe_layer(config, layer):
            for hf, gguf in _MLP.items():
                stacked = file.dequantize(f"blk.{layer}.{gguf}_exps.weight")
                for e, values in enumerate(stacked):
                    state[f"model.layers.{layer}.block_sparse_moe.experts.{e}.{hf}.weight"] = values
    state["model.norm.weight"] = file.dequantize("output_norm.weight")
    state["lm_head.weight"] = (
        state["model.embed_tokens.weight"] if config["tie_word_embeddings"] else file.dequantize("output.weight")
    )
    return config, state
