"""Recipes: plain functions and frozen configs that say what a run is. Saved resolved beside every output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openarctic.train.tune import TuneConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoRecipe:
    """arctic-nano: SmolLM2-135M upcycled to a hybrid and tuned to write SQL, for a file of at most 90 MB.

    The base is SmolLM2-135M, or an earlier arctic-nano to go on from. The precision that ships shapes the recipe: what stays
    frozen keeps the very bytes it came with; what is trained is tuned through the rounding to `trained_type` (rounding to few
    bits after tuning undoes it), norms and routers in full.

    Layers from `first_trained_*` on are trained; the number of layers means none. Epochs count from `first_epoch`, which
    decides what phrasing of a query comes next. Every `validation_databases` question is kept out of training; packs of them
    are the validation batches.

    Three settings are for comparisons: `from_scratch` keeps the base's shape, tokenizer and experts but not its weights, and
    trains everything; `num_local_experts` 0 leaves a dense base dense; `target_form` is direct SQL or the plan of
    `copilot.plan`.
    """

    vocab_size: int = 16384
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    expert_intermediate_size: int = 64
    moe_layer_frequency: int = 6
    first_trained_attention: int = 12
    first_trained_mlp: int = 12
    first_trained_experts: int = 12
    first_trained_norm: int = 12
    trained_type: str = "Q5_1"
    from_scratch: bool = False
    target_form: Literal["sql", "plan"] = "sql"
    first_epoch: int = 0
    validation_databases: tuple[str, ...] = (
        "store_1",
        "hr_1",
        "race_track",
        "driving_school",
        "customer_complaints",
    )
    synthetic_pairs: int = 8000
    synthetic_per_epoch: int = 1500
    other_per_epoch: int = 500
    bird_per_epoch: int = 1200
    wikisql_pairs: int = 6000
    wikisql_per_epoch: int = 1500
    written_queries: int = 0  # training queries carried to other databases (copilot.transfer); the base asks questions for them
    written_per_epoch: int = 0
    turned_share: float = 0.0  # of the pairs that people wrote: the SQL is given, and the question is learned
    bird_skipped: tuple[str, ...] = ("world", "cars")  # the report set has world_1
    shuffle_share: float = 0.7  # of packs: tables and columns in another order
    vary_share: float = 0.7  # of those: other tables and columns beside what is asked for (copilot.variation)
    max_pair_tokens: int = 300
    max_prefix_tokens: int = 500
    max_pack_tokens: int = 900
    max_pack_segments: int = 20
    validation_packs: int = 6
    base_share: float = 0.0  # of the exported weights: those that the run began with (arXiv:2109.01903)
    max_file_bytes: int = 45_000_000
    tune: TuneConfig = field(default_factory=lambda: TuneConfig(steps=1200, lr=5e-4, expert_lr=1e-3, validate_every=200))

    def is_trained(self, name: str) -> bool:
        """Whether the parameter of that Hugging Face name learns."""
        if self.from_scratch or name == "model.norm.weight":
            return True
        return name.startswith("model.layers.") and int(name.split(".")[2]) >= self._first_trained(name)

    def _first_trained(self, name: str) -> int:
        if "layernorm" in name:
            return self.first_trained_norm
        if "self_attn" in name:
            return self.first_trained_attention
        is_mlp = ".residual_mlp." in name or ".block_sparse_moe.mlp." in name
        return self.first_trained_mlp if is_mlp else self.first_trained_experts
