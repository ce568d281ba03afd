"""The tensors of a model, once: their Hugging Face names, their GGUF names, shapes and parts (spec 3.1, 3.4).

Two traps: in GGUF the q and k rows are permuted for interleaved rotary positions, and in a parallel layer `ffn_norm` is the
*residual* norm while Hugging Face's `post_attention_layernorm` is `ffn_norm_exps`. The first holds for `arctic` and `llama`
files alone: those of Qwen and OLMoE keep the rows as they are, and their runtimes rotate halves. So do `arctic` files with
biases, which would have to be permuted along.

A GGUF file of a model without experts, or of sequential MoE layers throughout (Mixtral's form), has the architecture
`llama`; what Arctic cannot say, that of its family (`families.py`); every other is `arctic`. Keys of ours extend `arctic`
files, and stock runtimes can read a file only when they are absent: `arctic.residual_feed_forward_length`,
`arctic.dense_feed_forward_length`, `arctic.moe_layer_frequency`, `arctic.moe_layers`, `arctic.parallel_attn_mlp_res`,
`arctic.attention.qkv_bias`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import CorruptError, UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.families import ARCHITECTURES, FAMILIES, Family
from openarctic.formats.gguf import GGUFFile, TensorData
from openarctic.formats.quants import F32Array, quantize

Part = Literal["embedding", "attention", "dense_mlp", "residual_mlp", "router", "experts", "norms", "biases", "head"]

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
_MLP = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
_FLOATS = {"rms_norm_eps", "rope_theta"}
# Keys of other models that change nothing at these values (0 is llama.cpp's "not set"); at any other we would compute wrongly.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "rope.scale_linear": (0, 1),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.causal": (True,),
    "attn_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
    "leading_dense_block_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_gating_func": (0, 1),  # 1 is softmax
}
# Keys that say something about scaled rotary positions, which `rope.scaling.type` refuses, and nothing by themselves.
_WITHOUT_EFFECT = frozenset(("rope.scaling.finetuned", "rope.scaling.original_context_length"))

Item = TypeVar("Item", bound=np.generic)
ChooseType = Callable[[str, tuple[int, ...]], str]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One GGUF tensor and the Hugging Face tensors that it holds: one, or one an expert, in order.

    Hugging Face names are Arctic's whatever the family (`families.stored_name` has the others). `shape` is that of one Hugging
    Face tensor; `heads` says over how many heads GGUF permutes the rows (0: not at all).
    """

    gguf: str
    hf: tuple[str, ...]
    shape: tuple[int, ...]
    part: Part
    heads: int = 0

    @property
    def gguf_shape(self) -> tuple[int, ...]:
        """Row-major shape in a GGUF file: experts are stacked."""
        return (len(self.hf), *self.shape) if self.part == "experts" else self.shape

    @property
    def is_kept_f32(self) -> bool:
        """Norms, biases and routers, which GGUF files keep in full."""
        return self.part in ("norms", "biases", "router")


def tensor_table(config: HybridConfig) -> Iterator[TensorSpec]:
    """Every tensor of the model, in the order of a GGUF file."""
    hidden = config.hidden_size
    yield TensorSpec("token_embd.weight", ("model.embed_tokens.weight",), (config.vocab_size, hidden), "embedding")
    for layer in range(config.num_hidden_layers):
        yield from _layer_table(config, layer)
    yield TensorSpec("output_norm.weight", ("model.norm.weight",), (hidden,), "norms")
    if not config.tie_word_embeddings:
        yield TensorSpec("output.weight", ("lm_head.weight",), (config.vocab_size, hidden), "head")


def _layer_table(config: HybridConfig, layer: int) -> Iterator[TensorSpec]:
    ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
    moe = theirs + "block_sparse_moe."
    hidden = config.hidden_size

    def norm(gguf: str, hf: str) -> TensorSpec:
        return TensorSpec(f"{ours}{gguf}.weight", (f"{theirs}{hf}.weight",), (hidden,), "norms")

    def mlp(prefix: str, width: int, part: Part) -> Iterator[TensorSpec]:
        for hf, gguf in _MLP.items():
            shape = (hidden, width) if hf == "w2" else (width, hidden)
            yield TensorSpec(f"{ours}{gguf}.weight", (f"{prefix}.{hf}.weight",), shape, part)

    yield norm("attn_norm", "input_layernorm")
    yield from _attention_table(config, layer)
    if config.is_parallel_layer(layer):
        yield norm("ffn_norm", "residual_layernorm")
        yield norm("ffn_norm_exps", "post_attention_layernorm")
        yield from mlp(theirs + "residual_mlp", config.residual_width, "residual_mlp")
    else:
        yield norm("ffn_norm", "post_attention_layernorm")
    if not config.is_moe_layer(layer):
        yield from mlp(moe + "mlp", config.dense_width, "dense_mlp")
        return
    experts, width = config.num_local_experts, config.intermediate_size
    yield TensorSpec(f"{ours}ffn_gate_inp.weight", (moe + "gate.weight",), (experts, hidden), "router")
    for hf, gguf in _MLP.items():
        names = tuple(f"{moe}experts.{e}.{hf}.weight" for e in range(experts))
        shape = (hidden, width) if hf == "w2" else (width, hidden)
        yield TensorSpec(f"{ours}{gguf}_exps.weight", names, shape, "experts")


def _attention_table(config: HybridConfig, layer: int) -> Iterator[TensorSpec]:
    ours, theirs = f"blk.{layer}.", f"model.layers.{layer}.self_attn."
    rows = {"q_proj": config.q_width, "k_proj": config.kv_width, "v_proj": config.kv_width, "o_proj": config.hidden_size}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for hf, gguf in _ATTENTION.items():
        shape = (rows[hf], config.q_width if hf == "o_proj" else config.hidden_size)
        permuted = 0 if rotates_halves(config) else heads.get(hf, 0)
        yield TensorSpec(f"{ours}{gguf}.weight", (f"{theirs}{hf}.weight",), shape, "attention", permuted)
        if config.qkv_bias and hf != "o_proj":
            yield TensorSpec(f"{ours}{gguf}.bias", (f"{theirs}{hf}.bias",), (rows[hf],), "biases")
        if config.qk_norm != "none" and hf in heads:
            width = config.head_dim if config.qk_norm == "head" else rows[hf]
            yield TensorSpec(f"{ours}{gguf}_norm.weight", (f"{theirs}{hf[0]}_norm.weight",), (width,), "norms")


def rotates_halves(config: HybridConfig) -> bool:
    """Whether the model's GGUF form rotates pairs (d, d + head_dim / 2), as Hugging Face does, and not (2d, 2d + 1)."""
    return config.qkv_bias or (not config.is_arctic and FAMILIES[config.model_type].rotates_halves)


def state_dict_shapes(config: HybridConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape, in the order of the official checkpoints (spec 3.1)."""
    shapes = {name: spec.shape for spec in tensor_table(config) for name in spec.hf}

    def place(name: str) -> tuple[int, ...]:
        if not name.startswith("model.layers."):
            return ({"model.embed_tokens.weight": 0, "model.norm.weight": 2, "lm_head.weight": 3}[name],)
        _, _, layer, module, *rest = name.split(".")
        inner = [int(r) if r.isdigit() else _ORDER.get(r, 0) for r in rest]
        return (1, int(layer), _ORDER[module], *inner)

    return {name: shapes[name] for name in sorted(shapes, key=place)}


_ORDER = {
    name: i
    for names in (
        (
            "self_attn",
            "block_sparse_moe",
            "input_layernorm",
            "post_attention_layernorm",
            "residual_layernorm",
            "residual_mlp",
        ),
        ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"),
        ("gate", "experts"),
        ("w1", "w2", "w3"),
    )
    for i, name in enumerate(names)
}


def permute(weight: NDArray[Item], heads: int) -> NDArray[Item]:
    """Rows of q or k from "rotate half" order to interleaved order; rows may be numbers or raw bytes."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def unpermute(weight: NDArray[Item], heads: int) -> NDArray[Item]:
    """The inverse of `permute`."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def gguf_architecture(config: HybridConfig) -> str:
    """`llama` where that form says everything, a family's own for what Arctic's does not, else `arctic`."""
    if not config.is_arctic:
        return FAMILIES[config.model_type].architecture
    is_everywhere = config.moe_layer_frequency == 1 and config.moe_layers is None
    is_mixtral = not config.parallel_attn_mlp_res and is_everywhere and config.num_experts_per_tok > 1
    return "llama" if is_mixtral or not config.num_local_experts else "arctic"


def stock_obstacles(config: HybridConfig, form: Literal["gguf", "huggingface"] = "gguf") -> list[str]:
    """Why stock code cannot run this model: llama.cpp for `gguf`, the published modelling code for `huggingface`.

    Empty if it can. Stock GGUF `arctic` has a residual MLP as wide as the hidden state, experts in every layer, and always
    renormalises (spec 3.4). The published code knows every frequency, sequential layers and top-1, but no width of its own for
    residual and dense MLPs (spec 2.1), and puts experts into every n-th layer even if there are none (spec 1.1).
    """
    if not config.is_arctic:
        return _family_obstacles(config) if form == "gguf" else []
    layers = range(config.num_hidden_layers)
    obstacles: list[str] = []
    if form == "gguf" and gguf_architecture(config) == "llama":
        return []
    obstacles += _own_obstacles(config)
    if any(map(config.is_parallel_layer, layers)) and config.residual_width != config.hidden_size:
        obstacles.append(f"residual_intermediate_size is {config.residual_width}, stock is hidden_size {config.hidden_size}")
    if form == "huggingface":
        if not config.num_local_experts and config.moe_layer_frequency <= config.num_hidden_layers:
            obstacles.append("num_local_experts is 0, and stock code puts experts into every n-th layer")
        if not all(map(config.is_moe_layer, layers)) and config.dense_width != config.intermediate_size:
            told = f"dense_intermediate_size is {config.dense_width}"
            obstacles.append(f"{told}, stock is intermediate_size {config.intermediate_size}")
        return obstacles
    if config.moe_layer_frequency != 1:
        obstacles.append(f"moe_layer_frequency is {config.moe_layer_frequency}, stock GGUF has experts in every layer")
    if config.num_experts_per_tok == 1:
        obstacles.append("num_experts_per_tok is 1, and stock GGUF runtimes renormalise a single weight to 1")
    if not config.parallel_attn_mlp_res:
        obstacles.append("parallel_attn_mlp_res is false, stock arctic is parallel")
    return obstacles


def _own_obstacles(config: HybridConfig) -> Iterator[str]:
    """Extensions of ours that no stock form of Arctic has."""
    if config.qkv_bias:
        yield "qkv_bias is True, stock arctic has no biases"
    if config.explicit_head_dim:
        yield f"head_dim is {config.head_dim}, stock is hidden_size / num_attention_heads"
    if config.moe_layers is not None:
        yield f"moe_layers is {list(config.moe_layers)}, stock has experts in every n-th layer"


def _family_obstacles(config: HybridConfig) -> list[str]:
    architecture, obstacles = gguf_architecture(config), []
    if _breaks_rule(config):
        told = f"norm_topk_prob is {config.renormalizes}"
        obstacles.append(f"{told}, stock {architecture} runtimes compute it as {not config.renormalizes}")
    if config.qk_norm == "row" and config.kv_width != config.hidden_size:
        told = f"num_key_value_heads is {config.num_key_value_heads}"
        obstacles.append(f"{told}, stock {architecture} has the norm of keys as wide as the hidden state")
    return obstacles


def _breaks_rule(config: HybridConfig) -> bool:
    """Whether a family's experts are weighted otherwise than runtimes of its GGUF form assume."""
    family = None if config.is_arctic else FAMILIES[config.model_type]
    return family is not None and config.num_local_experts > 0 and config.renormalizes != family.renormalizes


def to_gguf(
    config: HybridConfig,
    state: Mapping[str, F32Array],
    choose_type: ChooseType,
    extra_metadata: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, TensorData]]:
    """Metadata and tensors of a GGUF file from float32 tensors under Hugging Face names, all in memory.

    `choose_type(gguf_name, shape)` picks each matrix's type; vectors and routers stay F32. Raises KeyError for a missing
    tensor.
    """
    tensors: dict[str, TensorData] = {}
    for spec in tensor_table(config):
        values = np.stack([state[n] for n in spec.hf]) if spec.part == "experts" else state[spec.hf[0]]
        if spec.heads:
            values = permute(values, spec.heads)
        type_ = "F32" if spec.is_kept_f32 else choose_type(spec.gguf, values.shape)
        tensors[spec.gguf] = (type_, values.shape, quantize(values, type_))
    return {**gguf_metadata(config), **extra_metadata}, tensors


def gguf_metadata(config: HybridConfig) -> dict[str, Any]:
    """The keys of a GGUF file that describe the model."""
    architecture = gguf_architecture(config)
    keys = {**_KEYS, **(_EXPERT_KEYS if config.num_local_experts else {})}
    metadata: dict[str, Any] = {"general.architecture": architecture, "general.type": "model"}
    for hf, gguf in keys.items():
        value = getattr(config, hf)
        metadata[f"{architecture}.{gguf}"] = float(value) if hf in _FLOATS else int(value)
    metadata[f"{architecture}.rope.dimension_count"] = config.head_dim
    if config.explicit_head_dim or config.qk_norm == "head":
        metadata |= {f"{architecture}.attention.{part}_length": config.head_dim for part in ("key", "value")}
    if architecture == "qwen3moe":
        metadata["qwen3moe.expert_feed_forward_length"] = config.intermediate_size
    if _breaks_rule(config):
        metadata[f"{architecture}.expert_weights_norm"] = config.renormalizes
    if architecture != "arctic":
        if not config.num_local_experts:
            metadata[f"{architecture}.feed_forward_length"] = config.dense_width
        return metadata
    return {**metadata, **_own_metadata(config)}


def _own_metadata(config: HybridConfig) -> dict[str, Any]:
    """Keys of ours in an `arctic` file, as far as they say anything."""
    metadata: dict[str, Any] = {f"arctic.{gguf}": getattr(config, hf) for hf, gguf in _EXTENSIONS.items() if getattr(config, hf)}
    if config.moe_layer_frequency != 1:
        metadata["arctic.moe_layer_frequency"] = config.moe_layer_frequency
    if config.moe_layers is not None:
        metadata["arctic.moe_layers"] = list(config.moe_layers)
    if config.qkv_bias:
        metadata["arctic.attention.qkv_bias"] = True
    if not config.parallel_attn_mlp_res:
        metadata["arctic.parallel_attn_mlp_res"] = False
    return metadata


def config_from_gguf(file: GGUFFile) -> HybridConfig:
    """The config of an `arctic` file or one of a family; `llama` is a hybrid without experts or with sequential ones.

    Raises CorruptError for a missing key, UserError for another architecture and for a key that asks for what we do not compute.
    """
    architecture = file.metadata.get("general.architecture")
    family = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if family is None and architecture != "arctic":
        raise UserError(f"architecture {architecture!r} is not supported", f"known: arctic, {', '.join(sorted(ARCHITECTURES))}")

    def get(key: str, default: Any = None) -> Any:
        value = file.metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise CorruptError(f"{file.paths[0]} lacks the key {architecture}.{key}")
        return value

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CorruptError(f"{file.paths[0]} has no tensor token_embd.weight")
    defaults = {"vocab_size": embedding.shape[0], "rope_theta": 10000.0}
    values = {hf: get(gguf, defaults.get(hf)) for hf, gguf in _KEYS.items()}
    values.update(
        num_local_experts=get("expert_count", 0),
        num_experts_per_tok=get("expert_used_count", 0),
        moe_layer_frequency=get("moe_layer_frequency", 1),
        parallel_attn_mlp_res=get("parallel_attn_mlp_res", family is None),
        tie_word_embeddings="output.weight" not in file.tensors,
    )
    for hf, gguf in _EXTENSIONS.items():
        values[hf] = file.metadata.get(f"{architecture}.{gguf}")
    if family is None:
        values["moe_layers"] = file.metadata.get("arctic.moe_layers")
        values["qkv_bias"] = get("attention.qkv_bias", False)
        values["explicit_head_dim"] = file.metadata.get("arctic.attention.key_length")
    for hf, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        values[hf] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    if family:
        values.update(_family_values(file, family))
    try:
        config = HybridConfig(**values)
    except UserError as error:
        raise CorruptError(f"{file.paths[0]}: {error.message}", error.hint) from error
    _check_computation(file, str(architecture), config)
    return config


def _family_values(file: GGUFFile, family: Family) -> dict[str, Any]:
    """What a file says beyond Arctic's form, most of it by its architecture."""
    keys = ("attention.key_length", "expert_weights_norm", "expert_feed_forward_length")
    head_dim, is_normed, expert = (file.metadata.get(f"{family.architecture}.{key}") for key in keys)
    has_rule = is_normed is not None and "norm_topk_prob" in family.requires
    return {
        "explicit_head_dim": head_dim,
        "qkv_bias": family.qkv_bias,
        "qk_norm": family.qk_norm,
        "norm_topk_prob": is_normed if has_rule else family.renormalizes,
        **({"intermediate_size": expert} if expert is not None and family.has_experts else {}),
    }


def _check_computation(file: GGUFFile, architecture: str, config: HybridConfig) -> None:
    """Raise UserError for a key that changes what stock runtimes compute, and not what we do."""
    names = [f"{architecture}.attention.{part}_length" for part in ("key", "value")]
    key, value = (file.metadata.get(name, config.hidden_size // config.num_attention_heads) for name in names)
    if key != value:
        told = f"{file.paths[0]}: {names[0]} is {key!r} and {names[1]} is {value!r}"
        raise UserError(told, "keys and values of different widths are not supported")
    head = (config.head_dim,)
    allowed: dict[str, tuple[Any, ...]] = {
        **_NEUTRAL,
        "rope.dimension_count": head,
        "attention.key_length": head,
        "attention.value_length": head,
        "expert_feed_forward_length": (config.intermediate_size,),
        "expert_weights_norm": (config.renormalizes,),
        "attention.qkv_bias": (config.qkv_bias,),
    }
    read = {*_KEYS.values(), *_EXPERT_KEYS.values(), *_WITHOUT_EFFECT}
    for full, value in file.metadata.items():
        key = full.removeprefix(f"{architecture}.")
        if key == full or key in read:
            continue
        if key in allowed:
            if value not in allowed[key]:
                told = " or ".join(map(str, allowed[key]))
                raise UserError(f"{file.paths[0]}: {full} is {value!r}, which is not supported", f"supported: {told}")
        elif key.startswith(("attention.", "rope.", "expert_")):
            raise UserError(f"{file.paths[0]}: {full} = {value!r} is not supported", "it may change what the model computes")


def check_tensors(config: HybridConfig, file: GGUFFile) -> None:
    """Raise CorruptError unless the file has the tensors of the config's model: all, no others, in their shapes."""
    if config.num_hidden_layers > len(file.tensors):  # before the table is made: a damaged count may ask for a million layers
        raise CorruptError(f"{file.paths[0]} has {len(file.tensors)} tensors for {config.num_hidden_layers} layers")
    path, wanted = file.paths[0], {spec.gguf: spec.gguf_shape for spec in tensor_table(config)}
    missing = [name for name in wanted if name not in file.tensors]
    extra = [name for name in file.tensors if name not in wanted]
    if missing:
        raise CorruptError(f"{path} lacks {len(missing)} of {len(wanted)} tensors: {', '.join(missing[:3])}")
    if extra:
        raise CorruptError(
            f"{path} has {len(extra)} tensors that its keys do not know: {', '.join(extra[:3])}",
            "the model computes something that is not supported, such as biases or scaled rotary positions",
        )
    for name, shape in wanted.items():
        if file.tensors[name].shape != shape:
            raise CorruptError(f"{path}: tensor {name} has shape {file.tensors[name].shape}, the config says {shape}")


def from_gguf(file: GGUFFile) -> tuple[HybridConfig, dict[str, F32Array]]:
    """Config and float32 tensors under Hugging Face names. Raises what `config_from_gguf` and `check_tensors` raise."""
    config = config_from_gguf(file)
    check_tensors(config, file)
    state: dict[str, F32Array] = {}
    for spec in tensor_table(config):
        values = file.dequantize(spec.gguf)
        if spec.heads:
            values = unpermute(values, spec.heads)
        state.update(zip(spec.hf, values if spec.part == "experts" else (values,), strict=True))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return config, state
