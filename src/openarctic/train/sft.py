"""The recipe `sft`: supervised tuning of a model on prompts and responses.

A line of the data has `prompt` and `response`, or `messages` (`role` and `content` each), of which every assistant's turn is
learned. Examples whose prompts begin alike are laid into packs, where what they share is computed once (`packing.py`); the others
are laid one after the other into sequences, where none sees another.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openarctic.data import IGNORED, Batch
from openarctic.errors import MissingError, UserError
from openarctic.model import ArcticForCausalLM
from openarctic.model.routing import RoutingConfig
from openarctic.tokenizer import Tokenizer
from openarctic.train.base import identify_base, load_base, note_frozen, read_tokenizer
from openarctic.train.config import TrainConfig, may_change
from openarctic.train.export import check_export_type, export_model, exported_bytes, note_balancing
from openarctic.train.job import Job
from openarctic.train.objectives import SupervisedTuning, check_context
from openarctic.train.packing import Pack, Segment
from openarctic.train.trainer import Progress
from openarctic.train.tune import EpochSource, TuneConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SftRecipe:
    """Supervised tuning. `frozen` are patterns of parameters that do not learn, such as `model.embed_tokens.*`.

    Prompts that share at least `min_shared_tokens` from their begin on make packs of at most `max_pack_tokens`.
    """

    name: str = "tuned"
    epochs: float = 2.0
    max_tokens: int = 1024  # of an example, prompt and response
    long_examples: Literal["error", "drop"] = "error"
    batch_tokens: int = 4096  # of a batch of examples that share nothing
    min_shared_tokens: int = 32
    max_pack_tokens: int = 2048
    validation_share: float = 0.0
    frozen: tuple[str, ...] = ()
    export_type: str = may_change("F16")
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    train: TrainConfig = field(default_factory=lambda: TuneConfig(lr=2e-4, expert_lr=None, validate_every=100))

    def __post_init__(self) -> None:
        if self.min_shared_tokens < 1:
            raise UserError(f"min_shared_tokens is {self.min_shared_tokens}", "a pack has a prefix of at least one token")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"validation_share is {self.validation_share}", "give a part of 1, as 0.05")
        if not self.epochs > 0:
            raise UserError(f"epochs is {self.epochs}", "it must be greater than 0")


@dataclass(frozen=True, slots=True)
class Example:
    """What is given, and what is to be learned."""

    prompt: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def sft_job(recipe: SftRecipe, files: Sequence[Path], base: Path, out: Path) -> Job:
    """The run on the examples in `files` from the model `base` (checkpoint folder or GGUF file, which has a tokenizer).

    Raises MissingError, UserError or CorruptError for what they have wrong.
    """
    tokenizer = read_tokenizer(base)
    examples = [example for file in files for example in read_examples(file, tokenizer)]
    examples, too_long = _fitting(recipe, examples)
    if not examples:
        raise UserError(f"there is no example in {', '.join(map(str, files)) or 'no file'}", "give JSONL files with --data")
    random.Random(recipe.train.seed).shuffle(examples)
    held_out = round(len(examples) * recipe.validation_share)
    epochs = Epochs(recipe, examples[held_out:])
    steps = max(1, round(recipe.epochs * len(epochs(0)) / recipe.train.accumulate))
    config = replace(recipe.train, steps=recipe.train.steps or steps)
    recipe = replace(recipe, train=config)
    model = load_base(base)
    check_export_type(model.config.shape, recipe.export_type)
    hint = f"set max_tokens={model.config.max_position_embeddings} and long_examples=drop"
    check_context(model.config.shape, max(map(len, examples)), "an example", hint)
    model.set_routing(recipe.routing)
    for name, parameter in model.named_parameters():
        if any(fnmatch(name, pattern) for pattern in recipe.frozen):
            parameter.requires_grad_(False)
    dropped = (f"{too_long} examples of more than {recipe.max_tokens} tokens are left out",) if too_long else ()
    return Job(
        recipe=recipe,
        config=config,
        model=model,
        objective=SupervisedTuning(),
        source=EpochSource(epochs, _fingerprint(examples), identify_base(base)),
        finish=partial(_finish, recipe, tokenizer, out),
        validation={"held out": Epochs(recipe, examples[:held_out])(0)} if held_out else {},
        largest_batch=(1, max(recipe.batch_tokens, recipe.max_pack_tokens if epochs.groups else 0)),
        exported_bytes=exported_bytes(model.config.shape, recipe.export_type),
        notes=(*dropped, *note_frozen(model), *note_balancing(recipe.routing, config)),
    )


def _finish(recipe: SftRecipe, tokenizer: Tokenizer, out: Path, model: ArcticForCausalLM, progress: Progress) -> tuple[Path, ...]:
    return export_model(model, tokenizer, out, recipe.name, recipe.export_type)


def _fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of all examples in their order."""
    told = json.dumps([(example.prompt, example.target) for example in examples])
    return hashlib.sha256(told.encode()).hexdigest()


def _fitting(recipe: SftRecipe, examples: list[Example]) -> tuple[list[Example], int]:
    kept = [example for example in examples if len(example) <= recipe.max_tokens]
    if len(kept) < len(examples) and recipe.long_examples == "error":
        longest = max(map(len, examples))
        told = (
            f"{len(examples) - len(kept)} of {len(examples)} examples are longer than {recipe.max_tokens} tokens, up to {longest}"
        )
        raise UserError(told, "raise max_tokens, or set long_examples=drop")
    return kept, len(examples) - len(kept)


def read_examples(path: Path, tokenizer: Tokenizer) -> Iterator[Example]:
    """The examples of a JSONL file in order. Raises MissingError, or UserError naming the line and what is wrong with it."""
    if not path.is_file():
        raise MissingError(f"no file at {path}", "give a JSONL file of prompts and responses, or of messages")
    with path.open(encoding="utf-8", errors="strict") as file:
        for number, line in enumerate(_decoded(file, path), 1):
            if line.strip():
                place = f"{path}:{number}"
                yield from _examples(_parsed(line, place), tokenizer, place)


def _decoded(file: Any, path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error


def _parsed(line: str, place: str) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise UserError(f"{place}: {text} is not a value that JSON has", "a number or text is missing where the data were made")

    try:
        record = json.loads(line, parse_constant=refuse)
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{place} is not a JSON object")
    return record


def _examples(record: dict[str, Any], tokenizer: Tokenizer, place: str) -> Iterator[Example]:
    if "messages" in record:
        yield from _turns(record["messages"], tokenizer, place)
        return
    for name in ("prompt", "response"):
        if not isinstance(record.get(name), str) or not record[name]:
            raise UserError(f"{place}: {name} is {record.get(name)!r}", "each line needs prompt and response, or messages")
    begin = [tokenizer.bos_id] if tokenizer.bos_id is not None and tokenizer.adds_bos else []
    prompt = begin + tokenizer.encode(record["prompt"])
    yield Example(prompt, tokenizer.encode(record["response"]) + _end(tokenizer))


def _turns(messages: Any, tokenizer: Tokenizer, place: str) -> Iterator[Example]:
    """Every assistant's turn, after all that was said before."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        raise UserError(f"{place}: messages must be a list of objects with role and content")
    turns = [i for i, message in enumerate(messages) if i and message.get("role") == "assistant"]
    if not turns:
        raise UserError(f"{place}: no message is the assistant's", "what the assistant says after others is what is learned")
    for turn in turns:
        prompt = tokenizer.encode_chat(messages[:turn])
        whole = tokenizer.encode_chat(messages[: turn + 1], add_generation_prompt=False)
        continues = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
        yield Example(
            prompt, whole[len(prompt) :] if continues else tokenizer.encode(messages[turn]["content"]) + _end(tokenizer)
        )


def _end(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.eos_id is None else [tokenizer.eos_id]


class Epochs:
    """The batches of each epoch, the same ones every time: packs of examples that share a beginning, sequences of the others."""

    def __init__(self, recipe: SftRecipe, examples: Sequence[Example]) -> None:
        self.recipe = recipe
        self.groups, self.single = share_beginnings(examples, recipe.min_shared_tokens)

    def __call__(self, number: int) -> list[Pack | Batch]:
        """In an order of its own."""
        recipe, rng = self.recipe, random.Random(recipe_key(self.recipe, number))
        batches: list[Pack | Batch] = []
        for group in self.groups:
            batches += packs_of(rng.sample(group, len(group)), recipe.max_pack_tokens)
        batches += sequences_of(rng.sample(self.single, len(self.single)), recipe.batch_tokens)
        rng.shuffle(batches)
        return batches


def recipe_key(recipe: SftRecipe, number: int) -> str:
    """What the order of an epoch is drawn by."""
    return f"{recipe.train.seed} epoch {number}"


def share_beginnings(examples: Sequence[Example], min_shared: int) -> tuple[list[list[Example]], list[Example]]:
    """Groups of at least two examples whose prompts all begin with the same `min_shared` tokens or more, and the rest.

    A group's prompts share at least half of the shorter neighbour's, so that packing them saves something.
    """
    groups: list[list[Example]] = []
    shared = 0
    for example in sorted(examples, key=lambda e: e.prompt):
        last = groups[-1][-1].prompt if groups else []
        common = _common(last, example.prompt)
        # Neighbours in sorted order: what the first and the last share, all share.
        together = min(shared, common) if groups and len(groups[-1]) > 1 else common
        if groups and together >= max(min_shared, min(len(last), len(example.prompt)) // 2):
            groups[-1].append(example)
            shared = together
        else:
            groups.append([example])
            shared = len(example.prompt)
    return [group for group in groups if len(group) > 1], [group[0] for group in groups if len(group) == 1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two lists begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def packs_of(group: Sequence[Example], max_tokens: int) -> Iterator[Pack]:
    """Packs of examples that begin alike, of at most `max_tokens` where more than one is in them."""
    # The prefix ends before a prompt's last token, whose output predicts the first target.
    prefix = min(min(_common(group[0].prompt, e.prompt), len(e.prompt) - 1) for e in group)
    segments: list[Segment] = []
    used = prefix
    for example in group:
        segment = Segment(example.prompt[prefix:], example.target)
        if segments and used + len(segment) > max_tokens:
            yield Pack(group[0].prompt[:prefix], segments)
            segments, used = [], prefix
        segments.append(segment)
        used += len(segment)
    yield Pack(group[0].prompt[:prefix], segments)


def sequences_of(examples: Sequence[Example], batch_tokens: int) -> Iterator[Batch]:
    """Batches of one sequence of whole examples each, at most `batch_tokens` long unless a single example is longer."""
    waiting: list[Example] = []
    for example in examples:
        if waiting and sum(map(len, waiting)) + len(example) > batch_tokens:
            yield _sequence(waiting)
            waiting = []
        waiting.append(example)
    if waiting:
        yield _sequence(waiting)


def _sequence(examples: Sequence[Example]) -> Batch:
    ids = np.concatenate([[*e.prompt, *e.target] for e in examples])
    labels = np.concatenate([[*[IGNORED] * len(e.prompt), *e.target] for e in examples])
    documents = np.repeat(np.arange(len(examples)), [len(e) for e in examples])
    positions = np.concatenate([np.arange(len(e)) for e in examples])
    labels[positions == 0] = IGNORED  # nothing stands before it
    return Batch(
        ids.astype(np.int64)[None],
        labels.astype(np.int64)[None],
        documents.astype(np.int32)[None],
        positions.astype(np.int32)[None],
        np.zeros(1, np.int32),
    )
