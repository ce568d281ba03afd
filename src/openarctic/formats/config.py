"""What a model is: the sizes and flags of a dense-MoE hybrid, checked, and independent of any runtime.

Field names are those of the Hugging Face `config.json`. Every runtime (torch, transformers, the engine, vLLM) and the
arithmetic of `planner` read this one description. A missing key is an error: the defaults of Arctic's own config class
describe another model in every field (spec/arctic-architecture.md, trap 1).

The same description covers the families of `families.py` (Qwen, OLMoE, ...). What Arctic's form cannot say of them is in
four fields, and `require_arctic` is for rooms that cannot compute it either. Two of the four, biases and a head width, are
extensions of ours in a parallel hybrid, as one that was upcycled from such a model keeps its attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from openarctic.config import read_object
from openarctic.errors import MissingError, UserError
from openarctic.formats.families import FAMILIES, Family, QKNorm, config_fields, find_family

# Keys of `config.json` that say the same for every model of this architecture.
FIXED = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], "hidden_act": "silu"}
_CLASSES = {"ArcticForCausalLM", "ArcticModel"}
# Keys of other models that change nothing at this value.
_COMMON = {"quantization": None, "partial_rotary_factor": 1}
_NEUTRAL = {"sliding_window": None, "attention_bias": False, "mlp_bias": False, "qk_norm": "none", **_COMMON}
MAX_MATRICES = 1 << 20  # of MLPs; the real 480B has 13,545. Keeps a damaged file from making lists without end.
# Fields that say what Arctic's own form cannot.
EXTENSIONS = ("explicit_head_dim", "qkv_bias", "qk_norm", "norm_topk_prob")
_OPTIONAL = frozenset(
    (
        "router_aux_loss_coef",
        "residual_intermediate_size",
        "dense_intermediate_size",
        "moe_layers",
        "bos_token_id",
        "eos_token_id",
        *EXTENSIONS,
    )
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
    parallel MoE layers (stock: hidden_size) and of the MLP in layers without experts (stock: intermediate_size). So does
    `moe_layers`, the 0-based layers that have experts, for those that no `moe_layer_frequency` says; that is 1 beside it.

    Beyond stock Arctic: `explicit_head_dim` (`head_dim` in a `config.json`; None: hidden_size / num_attention_heads), `qkv_bias`
    and `qk_norm` (see `Family`), and `norm_topk_prob`, whether the chosen experts' weights are divided by their sum (None: where
    there are several, as Arctic). The first and the last are None too where they say what None says, and so is `moe_layers`.
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
    moe_layers: tuple[int, ...] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    explicit_head_dim: int | None = None
    qkv_bias: bool = False
    qk_norm: QKNorm = "none"
    norm_topk_prob: bool | None = None

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
        for name in ("parallel_attn_mlp_res", "tie_word_embeddings", "qkv_bias"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}, it must be true or false")
        for name in ("bos_token_id", "eos_token_id"):
            _check_id(name, getattr(self, name), self.vocab_size)
        self._check_heads()
        self._check_experts()
        self._check_moe_layers()
        self._check_family()

    def _check_heads(self) -> None:
        if self.explicit_head_dim is not None:
            _check_size("head_dim", self.explicit_head_dim)
            if self.explicit_head_dim * self.num_attention_heads == self.hidden_size:
                object.__setattr__(self, "explicit_head_dim", None)
        elif self.hidden_size % self.num_attention_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(
                f"heads of width {self.head_dim} cannot be rotated", "head_dim (hidden_size / num_attention_heads) must be even"
            )

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

    def _check_moe_layers(self) -> None:
        layers = self.moe_layers
        if layers is None:
            return
        last = self.num_hidden_layers - 1
        is_list = isinstance(layers, list | tuple) and all(type(layer) is int and 0 <= layer <= last for layer in layers)
        if not is_list or not layers or list(layers) != sorted(set(layers)):
            raise UserError(f"moe_layers is {layers!r}, it must list layers of 0 to {last} in ascending order")
        if self.moe_layer_frequency != 1 or not self.num_local_experts:
            told = f"moe_layer_frequency {self.moe_layer_frequency} and num_local_experts {self.num_local_experts}"
            raise UserError(f"moe_layers beside {told}", "the frequency is 1 beside it, and there are experts")
        every = layers[0] + 1
        if list(layers) == list(range(layers[0], self.num_hidden_layers, every)):
            object.__setattr__(self, "moe_layers", None)
            object.__setattr__(self, "moe_layer_frequency", every)
        else:
            object.__setattr__(self, "moe_layers", tuple(layers))

    def _check_family(self) -> None:
        """One architecture must have all that is asked for together."""
        if self.qk_norm not in ("none", "head", "row"):
            raise UserError(f"qk_norm is {self.qk_norm!r}, it must be none, head or row")
        if not isinstance(self.norm_topk_prob, bool | None):
            raise UserError(f"norm_topk_prob is {self.norm_topk_prob!r}, it must be true or false")
        if not self.num_local_experts or self.norm_topk_prob == (self.num_experts_per_tok > 1):
            object.__setattr__(self, "norm_topk_prob", None)
        if self.is_arctic:
            return
        family, widths = self._find_family(), (self.residual_intermediate_size, self.dense_intermediate_size)
        is_known = family is not None and widths == (None, None)
        if self.num_local_experts:
            is_known &= not self.parallel_attn_mlp_res and self.moe_layer_frequency == 1
            is_known &= family is not None and (self.renormalizes == family.renormalizes or "norm_topk_prob" in family.requires)
        if not is_known:
            raise UserError(f"no known architecture has {', '.join(self.beyond_arctic)} in a model like this")

    @property
    def is_arctic(self) -> bool:
        """Whether Arctic's form says everything, with our extensions; a dense Llama or a Mixtral is such a model too."""
        return not self.beyond_arctic

    @property
    def is_hybrid(self) -> bool:
        """Whether experts stand beside the attention of a layer."""
        return self.parallel_attn_mlp_res and self.num_local_experts > 0

    @property
    def beyond_arctic(self) -> list[str]:
        """What Arctic has no way to say, by field and value."""
        is_asked = (
            self.explicit_head_dim is not None and not self.is_hybrid,
            self.qkv_bias and not self.is_hybrid,
            self.qk_norm != "none",
            self.norm_topk_prob is not None,
        )
        told = (f"{name.removeprefix('explicit_')} {getattr(self, name)}" for name in EXTENSIONS)
        return [text for text, asked in zip(told, is_asked, strict=True) if asked]

    def require_arctic(self, what: str) -> None:
        """Raise UserError for a model that `what` cannot compute, as it knows Arctic's form alone."""
        if not self.is_arctic:
            told = f"{what} cannot compute {', '.join(self.beyond_arctic)}, which this {self.model_type} model has"
            raise UserError(told, "the embedded engine runs its GGUF file")

    @property
    def model_type(self) -> str:
        """`arctic` where that form says everything, else the family's."""
        family = None if self.is_arctic else self._find_family()
        return family.model_type if family else "arctic"

    def _find_family(self) -> Family | None:
        return find_family(has_experts=self.num_local_experts > 0, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.explicit_head_dim or self.hidden_size // self.num_attention_heads

    @property
    def renormalizes(self) -> bool:
        """Whether the weights of the chosen experts are divided by their sum."""
        return self.num_experts_per_tok > 1 if self.norm_topk_prob is None else self.norm_topk_prob

    @property
    def q_width(self) -> int:
        """Rows of the query projection, columns of the output projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def bias_width(self) -> int:
        """Biases of a layer's projections."""
        return self.q_width + 2 * self.kv_width if self.qkv_bias else 0

    @property
    def qk_norm_width(self) -> int:
        """Weights of a layer's norms of queries and keys."""
        return {"none": 0, "head": 2 * self.head_dim, "row": self.q_width + self.kv_width}[self.qk_norm]

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
        """Whether 0-based `layer` has experts: `(layer + 1) % moe_layer_frequency == 0` (spec 1.1), or `moe_layers` says so."""
        if self.moe_layers is not None:
            return layer in self.moe_layers
        return self.num_local_experts > 0 and (layer + 1) % self.moe_layer_frequency == 0

    def is_parallel_layer(self, layer: int) -> bool:
        """Whether the layer's experts read the layer's input, beside attention and a residual MLP (spec 2.1)."""
        return self.parallel_attn_mlp_res and self.is_moe_layer(layer)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HybridConfig:
        """From a `config.json` of Arctic or of a family of `families.py`.

        Raises MissingError for an absent key, UserError for contradictions and what is unsupported.
        """
        family = _check_supported(values)
        said = config_fields(family, values) if family else values
        own = {*EXTENSIONS} - {"qkv_bias"} if not family else set()
        given = {f.name: said[f.name] for f in fields(cls) if f.name in said and f.name not in own}
        if said.get("head_dim") is not None:
            given["explicit_head_dim"] = said["head_dim"]
        flags = [values[k] for k in ("parallel_attn_mlp_res", "use_residual") if k in values and not family]
        if any(flag != flags[0] for flag in flags):
            raise UserError(
                "parallel_attn_mlp_res and use_residual contradict each other", "both say whether MoE layers are parallel"
            )
        if flags:
            given["parallel_attn_mlp_res"] = flags.pop()
        theta = (values.get("rope_parameters") or {}).get("rope_theta")
        if theta is not None and values.get("rope_theta", theta) != theta:
            raise UserError(f"rope_theta {values['rope_theta']!r} and rope_parameters.rope_theta {theta!r} contradict each other")
        given |= {} if theta is None else {"rope_theta": theta}
        ends = given.get("eos_token_id")
        if isinstance(ends, list):  # transformers' form of several; the tokenizer's reader keeps them all
            given["eos_token_id"] = ends[0] if ends else None
        required = {f.name for f in fields(cls)} - _OPTIONAL | set(family.requires if family else ())
        missing = sorted(required - set(given) - set(said))
        if missing:
            raise MissingError(f"config lacks {', '.join(missing)}", "class defaults would silently make another model")
        config = cls(**given)
        for id in ends if isinstance(ends, list) else ():
            _check_id("eos_token_id", id, config.vocab_size)
        if not family and not config.is_arctic:
            told = f"{', '.join(config.beyond_arctic)} is not supported"
            raise UserError(told, "an Arctic has such a thing only where experts stand beside attention")
        if not family and values.get("norm_topk_prob") not in (None, config.renormalizes):
            told = f"norm_topk_prob {values['norm_topk_prob']!r} is not supported"
            raise UserError(told, f"in this Arctic it must be {config.renormalizes}")
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> HybridConfig:
        """From a `config.json`, or the folder that holds one. Raises MissingError, CorruptError or UserError."""
        return cls.from_dict(read_config(path))

    def to_dict(self) -> dict[str, Any]:
        """As a `config.json` of its `model_type`; absent extensions stay absent."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        if self.moe_layers is not None:
            values["moe_layers"] = list(self.moe_layers)
        if self.is_arctic:
            own = {name: value for name, value in values.items() if name not in EXTENSIONS}
            extended = {"head_dim": self.explicit_head_dim, "qkv_bias": self.qkv_bias}
            own |= {name: value for name, value in extended.items() if value}
            return {**FIXED, "use_residual": self.parallel_attn_mlp_res, **own}
        family = FAMILIES[self.model_type]
        for name in ("parallel_attn_mlp_res", "qkv_bias", "qk_norm"):  # which the model_type says
            del values[name]
        values.pop("explicit_head_dim", None)
        values["head_dim"] = self.head_dim
        if family.has_experts:
            values["norm_topk_prob"] = self.renormalizes
        named = {keys[0]: values[name] for name, keys in family.keys.items()}
        return {**values, **named, "model_type": family.model_type, "architectures": [family.causal_lm], "hidden_act": "silu"}


def read_config(path: str | Path) -> dict[str, Any]:
    """A `config.json`, or that of a folder, as it is. Raises MissingError or CorruptError."""
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    if not path.exists():
        raise MissingError(f"no config at {path}", "a checkpoint folder has a config.json")
    return read_object(path)


def _check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} is {value!r}, it must be a whole number of at least 1")


def _check_id(name: str, value: Any, vocab_size: int) -> None:
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise UserError(f"{name} is {value!r}, it must be a whole number of 0 to {vocab_size - 1} (vocab_size - 1)")


def _check_supported(values: Mapping[str, Any]) -> Family | None:
    """The family of a `config.json`, None for Arctic. Raises UserError for what no runtime of ours computes."""
    kind = values.get("model_type", "arctic")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None and kind != "arctic":
        raise UserError(f"model_type {kind!r} is not supported", f"known: arctic, {', '.join(FAMILIES)}")
    activation = values.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"hidden_act {activation!r} is not supported, only silu")
    classes, known = values.get("architectures"), {family.causal_lm} if family else _CLASSES
    if classes is not None and (not isinstance(classes, list) or not known.intersection(map(str, classes))):
        raise UserError(f"architectures is {classes!r}, it must hold {min(known)}")
    for name, neutral in (_COMMON if family else _NEUTRAL).items():
        if values.get(name) not in (None, neutral):
            raise UserError(f"{name} {values[name]!r} is not supported", f"{kind} has no such thing")
    for name in ("rope_scaling", "rope_parameters"):
        scaling = values.get(name) or {}
        if not isinstance(scaling, Mapping):
            raise UserError(f"{name} is {scaling!r}, it must be an object")
        type_ = scaling.get("rope_type", scaling.get("type", "default"))
        if type_ != "default":
            raise UserError(f"{name} of type {type_!r} is not supported", "positions are rotated without scaling")
    return family
