"""What a model is: the sizes and flags of a dense-MoE hybrid, checked, and independent of any runtime.

Field names are those of the Hugging Face `config.json`. Every runtime (torch, transformers, the engine, vLLM) and the
arithmetic of `planner` read this one description. A missing key is an error: the defaults of Arctic's own config class
describe another model in every field (spec/arctic-architecture.md, trap 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from openarctic.config import read_object
from openarctic.errors import MissingError, UserError

# Keys of `config.json` that say the same for every model of this architecture.
FIXED = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], "hidden_act": "silu"}
_CLASSES = {"ArcticForCausalLM", "ArcticModel"}
# Keys of other models that change nothing at this value.
_NEUTRAL = {"sliding_window": None, "attention_bias": False, "mlp_bias": False, "quantization": None, "partial_rotary_factor": 1}
MAX_MATRICES = 1 << 20  # of MLPs; the real 480B has 13,545. Keeps a damaged file from making lists without end.
_OPTIONAL = frozenset(
    ("router_aux_loss_coef", "residual_intermediate_size", "dense_intermediate_size", "bos_token_id", "eos_token_id")
)
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "moe_layer_frequency",
    "max_position_embeddings",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig:
    """Sizes of the model. `num_local_experts = 0` is a plain dense Llama-style model.

    `residual_intermediate_size` and `dense_intermediate_size` extend the stock format: the width of the residual MLP in
    parallel MoE layers (stock: hidden_size) and of the MLP in layers without experts (stock: intermediate_size).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_local_experts: int
    num_experts_per_tok: int
    moe_layer_frequency: int
    parallel_attn_mlp_res: bool
    rope_theta: float
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    router_aux_loss_coef: float = 0.001
    residual_intermediate_size: int | None = None
    dense_intermediate_size: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            _check_size(name, getattr(self, name))
        for name in ("residual_intermediate_size", "dense_intermediate_size"):
            if getattr(self, name) is not None:
                _check_size(name, getattr(self, name))
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise UserError(f"{name} is {value!r}, it must be a number above 0")
        for name in ("parallel_attn_mlp_res", "tie_word_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}, it must be true or false")
        for name in ("bos_token_id", "eos_token_id"):
            _check_id(name, getattr(self, name), self.vocab_size)
        self._check_heads()
        self._check_experts()

    def _check_heads(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"heads of width {self.head_dim} cannot be rotated", "hidden_size / num_attention_heads must be even")

    def _check_experts(self) -> None:
        for name in ("num_local_experts", "num_experts_per_tok"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UserError(f"{name} is {value!r}, it must be a whole number of at least 0")
        matrices = 3 * self.num_hidden_layers * max(1, self.num_local_experts)
        if matrices > MAX_MATRICES:
            told = f"num_hidden_layers {self.num_hidden_layers} with num_local_experts {self.num_local_experts}"
            raise UserError(f"{told} makes {matrices} MLP matrices, more than {MAX_MATRICES}")
        if self.num_local_experts and not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            raise UserError(
                f"num_experts_per_tok {self.num_experts_per_tok} must be 1 to num_local_experts {self.num_local_experts}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_width(self) -> int:
        """Rows of the key and of the value projection."""
        return self.num_key_value_heads * self.head_dim

    @property
    def residual_width(self) -> int:
        """Width of the residual MLP of parallel layers."""
        return self.residual_intermediate_size or self.hidden_size

    @property
    def dense_width(self) -> int:
        """Width of the MLP in layers without experts."""
        return self.dense_intermediate_size or self.intermediate_size

    def is_moe_layer(self, layer: int) -> bool:
        """Whether 0-based `layer` has experts: `(layer + 1) % moe_layer_frequency == 0` (spec 1.1)."""
        return self.num_local_experts > 0 and (layer + 1) % self.moe_layer_frequency == 0

    def is_parallel_layer(self, layer: int) -> bool:
        """Whether the layer's experts read the layer's input, beside attention and a residual MLP (spec 2.1)."""
        return self.parallel_attn_mlp_res and self.is_moe_layer(layer)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HybridConfig:
        """From a `config.json`. Raises MissingError for an absent key, UserError for contradictions and what is unsupported."""
        _check_supported(values)
        given = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        flags = [values[k] for k in ("parallel_attn_mlp_res", "use_residual") if k in values]
        if any(flag != flags[0] for flag in flags):
            raise UserError(
                "parallel_attn_mlp_res and use_residual contradict each other", "both say whether MoE layers are parallel"
            )
        if flags:
            given["parallel_attn_mlp_res"] = flags.pop()
        theta = (values.get("rope_parameters") or {}).get("rope_theta")
        if theta is not None and given.setdefault("rope_theta", theta) != theta:
            raise UserError(f"rope_theta {given['rope_theta']!r} and rope_parameters.rope_theta {theta!r} contradict each other")
        ends = given.get("eos_token_id")
        if isinstance(ends, list):  # transformers' form of several; the tokenizer's reader keeps them all
            given["eos_token_id"] = ends[0] if ends else None
        missing = sorted({f.name for f in fields(cls)} - set(given) - _OPTIONAL)
        if missing:
            raise MissingError(f"config lacks {', '.join(missing)}", "class defaults would silently make another model")
        config = cls(**given)
        for id in ends if isinstance(ends, list) else ():
            _check_id("eos_token_id", id, config.vocab_size)
        if values.get("head_dim") not in (None, config.head_dim):
            told = f"head_dim {values['head_dim']!r} is not hidden_size / num_attention_heads = {config.head_dim}"
            raise UserError(told, "heads of another width are not supported")
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> HybridConfig:
        """From a `config.json`, or the folder that holds one. Raises MissingError, CorruptError or UserError."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        if not path.exists():
            raise MissingError(f"no config at {path}", "a checkpoint folder has a config.json")
        return cls.from_dict(read_object(path))

    def to_dict(self) -> dict[str, Any]:
        """As a `config.json`; absent extensions stay absent."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**FIXED, "use_residual": self.parallel_attn_mlp_res, **values}


def _check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} is {value!r}, it must be a whole number of at least 1")


def _check_id(name: str, value: Any, vocab_size: int) -> None:
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise UserError(f"{name} is {value!r}, it must be a whole number of 0 to {vocab_size - 1} (vocab_size - 1)")


def _check_supported(values: Mapping[str, Any]) -> None:
    """What a `config.json` may ask for and no runtime of ours computes."""
    kind = values.get("model_type", "arctic")
    if kind != "arctic":
        raise UserError(f"model_type {kind!r} is not arctic")
    activation = values.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"hidden_act {activation!r} is not supported, only silu")
    classes = values.get("architectures")
    if classes is not None and (not isinstance(classes, list) or not _CLASSES.intersection(map(str, classes))):
        raise UserError(f"architectures is {classes!r}, it must hold ArcticForCausalLM")
    for name, neutral in _NEUTRAL.items():
        if values.get(name) not in (None, neutral):
            raise UserError(f"{name} {values[name]!r} is not supported", "Arctic has no such thing")
    for name in ("rope_scaling", "rope_parameters"):
        scaling = values.get(name) or {}
        if not isinstance(scaling, Mapping):
            raise UserError(f"{name} is {scaling!r}, it must be an object")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise UserError(f"{name} of type {kind!r} is not supported", "Arctic rotates without scaling")
