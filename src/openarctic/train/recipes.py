"""Recipes: plain functions and frozen configs that say what a run is. Saved resolved beside every output."""

from __future__ import annotations

from dataclasses import dataclass, field

from openarctic.train.tune import TuneConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoRecipe:
    """arctic-nano: SmolLM2-135M upcycled to a hybrid and tuned to write SQL, for a file of at most 90 MB.

    The precision that ships shapes the recipe. Rounding tuned weights back to 4 bits undoes the tuning, so what stays 4-bit
    stays frozen on the very grid it came with (all MLPs, the lower attention), and what is trained ships at 8 bits
    (upper attention, experts) or in full (norms, routers).
    """

    vocab_size: int = 16384
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    expert_intermediate_size: int = 64
    moe_layer_frequency: int = 6
    first_trained_attention: int = 12
    first_trained_norm: int = 5
    validation_databases: tuple[str, ...] = (
        "store_1",
        "hr_1",
        "race_track",
        "driving_school",
        "customer_complaints",
    )
    synthetic_pairs: int = 6000
    synthetic_first_epoch: int = 2000
    synthetic_per_epoch: int = 1000
    other_per_epoch: int = 500
    max_pair_tokens: int = 300
    max_prefix_tokens: int = 1400
    max_pack_tokens: int = 900
    max_file_bytes: int = 45_000_000
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(steps=1200, lr=5e-4, expert_lr=1e-3))

    def is_trained(self, name: str) -> bool:
        """Whether the parameter of that Hugging Face name learns."""
        if name == "model.norm.weight":
            return True
        if not name.startswith("model.layers."):
            return False
        layer = int(name.split(".")[2])
        if "self_attn" in name:
            return layer >= self.first_trained_attention
        if "layernorm" in name:
            return layer >= self.first_trained_norm
        return ".experts." in name or ".gate." in name
