"""Architectures of others that are Arctic's block without its parallel branch, and how their `config.json` says so.

A family differs from a dense or sequential Arctic model by what stands in `Family`, and by the names in its `config.json` and
of its MLP tensors. Everything above `formats` sees `HybridConfig` and official (Arctic's) tensor names alone. Facts are those
of transformers' classes (5.24) and of llama.cpp's graphs of the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openarctic.errors import UserError

QKNorm = Literal["none", "head", "row"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What a `model_type` computes.

    `qkv_bias`: the projections to q, k and v have biases. `qk_norm`: q and k pass an RMS norm before they are rotated, over
    each head ("head") or over all heads at once ("row"). `renormalizes`: the weights of the chosen experts are divided by
    their sum in every program that reads its GGUF form; `norm_topk_prob` says it in a `config.json`, where `requires` has it.

    Of its `config.json`: `keys` are names that differ from `HybridConfig`'s (any of them will do), `requires` what it must say
    beyond what every model must, `assumed` what its class takes for a key that published files leave out, `inactive` the values
    besides null at which a key changes nothing.
    """

    model_type: str
    causal_lm: str
    architecture: str
    has_experts: bool = False
    qkv_bias: bool = False
    qk_norm: QKNorm = "none"
    renormalizes: bool = True
    rotates_halves: bool = True
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)
    inactive: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_NO_WINDOW = {"use_sliding_window": (False,)}
_NO_BIAS = {"attention_bias": (False,)}
_EXPERTS = ("num_experts", "num_local_experts")
_ALL = (
    Family(
        model_type="llama",
        causal_lm="LlamaForCausalLM",
        architecture="llama",
        rotates_halves=False,
        assumed={"rope_theta": 10000.0},
        inactive={**_NO_BIAS, "mlp_bias": (False,), "sliding_window": ()},
    ),
    Family(
        model_type="qwen2",
        causal_lm="Qwen2ForCausalLM",
        architecture="qwen2",
        qkv_bias=True,
        inactive=_NO_WINDOW,
    ),
    Family(
        model_type="qwen3",
        causal_lm="Qwen3ForCausalLM",
        architecture="qwen3",
        qk_norm="head",
        requires=("head_dim",),
        inactive={**_NO_BIAS, **_NO_WINDOW},
    ),
    Family(
        model_type="mixtral",
        causal_lm="MixtralForCausalLM",
        architecture="llama",
        has_experts=True,
        rotates_halves=False,
        inactive={"sliding_window": ()},
    ),
    Family(
        model_type="olmoe",
        causal_lm="OlmoeForCausalLM",
        architecture="olmoe",
        has_experts=True,
        qk_norm="row",
        renormalizes=False,
        keys={"num_local_experts": _EXPERTS},
        requires=("norm_topk_prob",),
        inactive={**_NO_BIAS, "clip_qkv": (), "sliding_window": ()},
    ),
    Family(
        model_type="qwen3_moe",
        causal_lm="Qwen3MoeForCausalLM",
        architecture="qwen3moe",
        has_experts=True,
        qk_norm="head",
        keys={"num_local_experts": _EXPERTS, "intermediate_size": ("moe_intermediate_size",)},
        requires=("norm_topk_prob",),
        inactive={**_NO_BIAS, **_NO_WINDOW, "mlp_only_layers": ([],), "decoder_sparse_step": (1,)},
    ),
)
_ARCTICS_OWN: Mapping[str, tuple[Any, ...]] = {
    "parallel_attn_mlp_res": (False,),
    "use_residual": (False,),
    "moe_layer_frequency": (1,),
    "residual_intermediate_size": (),
    "dense_intermediate_size": (),
    "moe_layers": (),
}
_SEQUENTIAL = {"parallel_attn_mlp_res": False, "moe_layer_frequency": 1}
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ALL}
# In GGUF a Mixtral is a `llama` with experts: their families differ in nothing that a file's architecture has to tell.
ARCHITECTURES: Mapping[str, Family] = {family.architecture: family for family in reversed(_ALL)}


def find_family(*, has_experts: bool, qkv_bias: bool, qk_norm: QKNorm) -> Family | None:
    """The family that computes this, if there is one."""
    wanted = (has_experts, qkv_bias, qk_norm)
    return next((f for f in _ALL if (f.has_experts, f.qkv_bias, f.qk_norm) == wanted), None)


def config_fields(family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a family's `config.json` under `HybridConfig`'s names, as far as they are there; what is not said stays away.

    Raises UserError for what asks for another computation.
    """
    for name, neutral in {**family.inactive, **_ARCTICS_OWN, "layer_types": ()}.items():
        value = values.get(name)
        is_full = name == "layer_types" and isinstance(value, list) and set(map(str, value)) <= {"full_attention"}
        if value is not None and value not in neutral and not is_full:
            raise UserError(f"{name} {value!r} is not supported in a {family.model_type}", "it changes what the model computes")
    given = {**family.assumed, "tie_word_embeddings": False, **values}
    for name, keys in family.keys.items():
        said = {key: values[key] for key in keys if key in values}
        if len(set(map(repr, said.values()))) > 1:
            raise UserError(" and ".join(f"{key} {value!r}" for key, value in said.items()) + " contradict each other")
        given.pop(name, None)
        if said:
            given[name] = next(iter(said.values()))
    if given.get("num_key_value_heads") is None and family.model_type in ("llama", "olmoe"):
        given["num_key_value_heads"] = given.get("num_attention_heads")
    if not family.has_experts:
        given |= {"num_local_experts": 0, "num_experts_per_tok": 0}
        given.pop("norm_topk_prob", None)
    elif given.get("num_local_experts") == 0:
        raise UserError(f"a {family.model_type} has experts, and num_experts is 0", "a model without them is of another family")
    elif "norm_topk_prob" not in family.requires:
        given["norm_topk_prob"] = family.renormalizes
    given |= {**_SEQUENTIAL, "qkv_bias": family.qkv_bias, "qk_norm": family.qk_norm}
    return {name: value for name, value in given.items() if value is not None}


_TO_STORED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_MATRIX = re.compile(r"\.block_sparse_moe\.(mlp\.|experts\.\d+\.)(w[123])\.weight$")


def stored_name(official: str, model_type: str) -> str:
    """How a checkpoint of `model_type` names a tensor that Arctic names `official`."""
    if model_type in ("arctic", "mixtral"):
        return official
    match = _MATRIX.search(official)
    if match is None:
        return official.replace(".block_sparse_moe.gate.", ".mlp.gate.")
    inner = match[1].removeprefix("mlp.")
    return f"{official[: match.start()]}.mlp.{inner}{_TO_STORED[match[2]]}.weight"
