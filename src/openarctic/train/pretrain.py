"""The recipe `pretrain`: a hybrid from scratch, on token shards mixed in stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from openarctic.data import (
    VALIDATION,
    Batch,
    Curriculum,
    MixtureSource,
    TokenShards,
    arctic_curriculum,
    single_stage,
    validation_batches,
)
from openarctic.data.curriculum import read_curriculum
from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.model.routing import RoutingConfig
from openarctic.tokenizer import Tokenizer
from openarctic.train.base import load_base, note_frozen
from openarctic.train.config import MAY_CHANGE, TrainConfig, may_change
from openarctic.train.export import check_export_type, export_model, exported_bytes, note_balancing
from openarctic.train.job import Job
from openarctic.train.objectives import LanguageModelling, check_context
from openarctic.train.parallel.config import ParallelConfig
from openarctic.train.processes import ALONE, Processes
from openarctic.train.room import check_weights
from openarctic.train.trainer import Progress

SMALL_HYBRID = HybridConfig(
    vocab_size=32,  # replaced by the tokenizer's
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=2,
    num_local_experts=16,
    num_experts_per_tok=2,
    moe_layer_frequency=1,
    parallel_attn_mlp_res=True,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """A hybrid from scratch, or with `base` (checkpoint folder or GGUF file) the further training of one, whose shape is then the
    model's. `curriculum` is `even` (every domain by its tokens), `arctic` (its three stages, for the domains
    that are given), or a JSON file, which has lengths and budget of its own.

    The run ends with its budget of `tokens`, or earlier with `train.steps`. A step takes `batch_tokens` times `train.accumulate`.
    """

    name: str = "hybrid"
    model: HybridConfig = SMALL_HYBRID
    base: str | None = None
    curriculum: str = "even"
    tokens: int = 20_000_000
    sequence_length: int = 512
    batch_tokens: int = 8192
    max_epochs: float | None = 4.0
    on_excess: Literal["error", "reweight"] = may_change("error")  # of max_epochs; the source itself compares what comes of it
    validation_sequences: int = 64  # at most, of each domain
    export_type: str = may_change("F16")
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig, metadata=MAY_CHANGE)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3, validate_every=200, spike_sigmas=10.0))


def pretrain_job(
    recipe: PretrainRecipe, folders: Sequence[Path], tokenizer: Tokenizer, out: Path, processes: Processes = ALONE
) -> Job:
    """The run on the shards in `folders` (one a domain, as `openarctic data prepare` writes them), which `tokenizer` must have
    made. Raises UserError, MissingError or CorruptError for data that are not so."""
    shards = _open(folders, tokenizer)
    source = MixtureSource(
        curriculum_of(recipe, shards),
        shards,
        batch_tokens=recipe.batch_tokens,
        seed=recipe.train.seed,
        rank=processes.rank,
        world_size=processes.count,
    )
    steps = math.ceil(source.num_batches / recipe.train.accumulate)
    config = replace(recipe.train, steps=min(steps, recipe.train.steps or steps))
    longest = max(stage.sequence_length for stage in source.curriculum.stages)
    torch.manual_seed(config.seed)
    model = load_base(Path(recipe.base)) if recipe.base else _from_scratch(recipe.model, tokenizer)
    for own in shards.values():
        own.check_vocab(model.config.vocab_size)
    recipe = replace(recipe, model=model.config.shape, train=config)
    check_export_type(recipe.model, recipe.export_type)
    hint = "set a shorter sequence_length, or for a model from scratch a larger model.max_position_embeddings"
    check_context(recipe.model, longest, "a sequence", hint)
    model.set_routing(recipe.routing)
    return Job(
        recipe=recipe,
        config=config,
        model=model,
        objective=LanguageModelling(),
        source=source,
        finish=partial(_finish, recipe, tokenizer, out),
        validation=_held_out(recipe, shards),
        largest_batch=(recipe.batch_tokens // processes.count // longest, longest),
        exported_bytes=exported_bytes(recipe.model, recipe.export_type),
        notes=(*source.changes, *note_frozen(model), *note_balancing(recipe.routing, config)),
        processes=processes,
    )


def _from_scratch(shape: HybridConfig, tokenizer: Tokenizer) -> ArcticForCausalLM:
    """Random weights; the vocabulary is the tokenizer's."""
    shape = replace(shape, vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id)
    check_weights(shape)
    model = ArcticForCausalLM(ArcticConfig.from_shape(shape))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _finish(
    recipe: PretrainRecipe, tokenizer: Tokenizer, out: Path, model: ArcticForCausalLM, progress: Progress
) -> tuple[Path, ...]:
    return export_model(model, tokenizer, out, recipe.name, recipe.export_type)


def _open(folders: Sequence[Path], tokenizer: Tokenizer) -> dict[str, TokenShards]:
    if not folders:
        raise UserError("no training data were given", "openarctic data prepare makes them; give each folder with --data")
    shards: dict[str, TokenShards] = {}
    for folder in folders:
        own = TokenShards(folder)
        own.check_fits(tokenizer)
        if own.manifest.domain in shards:
            raise UserError(
                f"two folders are of domain {own.manifest.domain}", f"they are {shards[own.manifest.domain].folder}, {folder}"
            )
        shards[own.manifest.domain] = own
    return shards


def curriculum_of(recipe: PretrainRecipe, shards: Mapping[str, TokenShards]) -> Curriculum:
    """The stages that the recipe names, for the domains that there are."""
    settings: dict[str, Any] = {"max_epochs": recipe.max_epochs, "on_excess": recipe.on_excess}
    if recipe.curriculum == "even":
        sizes = {name: own.num_tokens for name, own in shards.items()}
        total = sum(sizes.values())
        shares = {name: size / total for name, size in sizes.items()}
        return single_stage(shares, recipe.tokens, recipe.sequence_length, **settings)
    if recipe.curriculum == "arctic":
        return arctic_curriculum(recipe.tokens, recipe.sequence_length, **settings).only(shards)
    return read_curriculum(Path(recipe.curriculum))


def _held_out(recipe: PretrainRecipe, shards: Mapping[str, TokenShards]) -> dict[str, list[Batch]]:
    """Batches of the documents that were held out, of each domain that has some."""
    batch_size = max(1, recipe.batch_tokens // recipe.sequence_length)
    held_out = {}
    for index, (name, own) in enumerate(shards.items()):
        if own.manifest.documents(VALIDATION):
            validation = TokenShards(own.folder, VALIDATION)
            held_out[name] = list(
                validation_batches(
                    validation, recipe.sequence_length, batch_size, domain=index, max_sequences=recipe.validation_sequences
                )
            )
    return held_out
