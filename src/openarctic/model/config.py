"""The configuration in transformers' form.

What it holds and what it refuses is `formats.HybridConfig`: a key that says what the model computes has no default here, as
the published class defaults describe another model. Keys that we do not know are kept, so that a `config.json` survives.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedConfig

from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.formats.config import EXTENSIONS


class ArcticConfig(PreTrainedConfig):
    """Sizes and flags of a dense-MoE hybrid; the fields are those of `HybridConfig`.

    Raises MissingError for an absent key, UserError for a contradiction or something unsupported.
    """

    model_type = "arctic"
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ("cache", "past_key_values", "aux_loss", "z_loss", "routes", "cross_entropy", "correct")
    attribute_map = {"num_experts": "num_local_experts"}  # noqa: RUF012 - the base class declares a plain dict

    def __init__(self, **values: Any) -> None:
        kind = values.get("model_type", "arctic")
        if kind != "arctic":
            raise UserError(f"model_type {kind!r} is not arctic", "transformers has a class of its own for it")
        shape = HybridConfig.from_dict(values)
        fields = {k: v for k, v in asdict(shape).items() if k not in EXTENSIONS}
        fields["moe_layers"] = shape.moe_layers and list(shape.moe_layers)
        fields |= {"head_dim": shape.explicit_head_dim, "qkv_bias": shape.qkv_bias or None}
        own = {k: v for k, v in fields.items() if v is not None or k in ("bos_token_id", "eos_token_id")}
        rest = {k: v for k, v in values.items() if k not in ("model_type", "head_dim", "rope_parameters", *asdict(shape))}
        if isinstance(values.get("eos_token_id"), list):  # generation stops at each of them
            own["eos_token_id"] = values["eos_token_id"]
        defaults = {"hidden_act": "silu", "use_cache": True, "initializer_range": 0.02, "output_router_logits": False}
        super().__init__(**{**defaults, **rest, **own, "use_residual": shape.parallel_attn_mlp_res})

    @classmethod
    def from_shape(cls, shape: HybridConfig) -> ArcticConfig:
        """From the description that every runtime shares. Raises UserError for what Arctic's form cannot say."""
        shape.require_arctic("the torch model")
        return cls(**shape.to_dict())

    @property
    def shape(self) -> HybridConfig:
        """The description that every runtime shares; checked anew, as attributes may have been set."""
        return HybridConfig.from_dict({k: v for k, v in self.__dict__.items() if not k.startswith("_")})

    @property
    def head_dim(self) -> int:
        """Width of one attention head; only one that was set stands in a `config.json`."""
        return int(self.__dict__.get("head_dim") or self.hidden_size // self.num_attention_heads)

    @head_dim.setter
    def head_dim(self, width: int) -> None:
        self.__dict__["head_dim"] = width

    @property
    def residual_width(self) -> int:
        """Width of the residual MLP."""
        return int(getattr(self, "residual_intermediate_size", None) or self.hidden_size)

    @property
    def dense_width(self) -> int:
        """Width of the MLP in layers without experts."""
        return int(getattr(self, "dense_intermediate_size", None) or self.intermediate_size)

    def is_moe_layer(self, layer: int) -> bool:
        """Whether 0-based `layer` has experts."""
        chosen = getattr(self, "moe_layers", None)
        if chosen is not None:
            return layer in chosen
        return self.num_local_experts > 0 and (layer + 1) % self.moe_layer_frequency == 0

    def is_parallel_layer(self, layer: int) -> bool:
        """Whether the layer's experts read the layer's input, beside attention and a residual MLP."""
        return bool(self.parallel_attn_mlp_res) and self.is_moe_layer(layer)
