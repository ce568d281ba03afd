"""The configuration of a dense-MoE hybrid, with the keys of a Hugging Face Arctic `config.json`.

Stock class defaults describe another model than the real 480B (spec section 7, trap 1), so every key that decides the
computation must be there: a missing one is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from openarctic.errors import MissingError, UserError

# Keys of the format that say nothing about the computation, so they may be absent or anything.
_FIXED = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], "hidden_act": "silu"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ArcticConfig:
    """Sizes of the model. `num_local_experts = 0` is a plain dense Llama-style model.

    `residual_intermediate_size` and `dense_intermediate_size` extend the stock format: the width of the residual MLP in
    MoE layers (stock: hidden_size) and of the MLP in layers without experts (stock: intermediate_size).
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
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.num_local_experts and not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            raise UserError(
                f"num_experts_per_tok {self.num_experts_per_tok} must be 1 to num_local_experts {self.num_local_experts}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def residual_width(self) -> int:
        """Width of the residual MLP."""
        return self.residual_intermediate_size or self.hidden_size

    @property
    def dense_width(self) -> int:
        """Width of the MLP in layers without experts."""
        return self.dense_intermediate_size or self.intermediate_size

    def is_moe_layer(self, layer: int) -> bool:
        """Whether 0-based `layer` has experts: `(layer + 1) % moe_layer_frequency == 0` (spec 1.1)."""
        return self.num_local_experts > 0 and (layer + 1) % self.moe_layer_frequency == 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArcticConfig:
        """From a `config.json`. Raises MissingError for an absent key, UserError for contradictions."""
        kind = values.get("model_type", "arctic")
        if kind != "arctic":
            raise UserError(f"model_type {kind!r} is not arctic")
        activation = values.get("hidden_act", "silu")
        if activation != "silu":
            raise UserError(f"hidden_act {activation!r} is not supported, only silu")
        flags = {values[k] for k in ("parallel_attn_mlp_res", "use_residual") if k in values}
        if len(flags) > 1:
            raise UserError("parallel_attn_mlp_res and use_residual contradict each other")
        known = {f.name: f for f in fields(cls)}
        given = {name: values[name] for name in known if name in values}
        if flags:
            given["parallel_attn_mlp_res"] = flags.pop()
        required = {"residual_intermediate_size", "dense_intermediate_size", "bos_token_id", "eos_token_id"}
        missing = sorted(set(known) - set(given) - required - {"router_aux_loss_coef"})
        if missing:
            raise MissingError(f"config lacks {', '.join(missing)}", "class defaults would silently make another model")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As a `config.json`; absent extensions stay absent."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**_FIXED, "use_residual": self.parallel_attn_mlp_res, **values}
