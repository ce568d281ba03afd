"""The training pairs of arctic-nano: read, made and written ones, and the packs of each epoch."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from openarctic.config import write_text
from openarctic.copilot.described import read_described
from openarctic.copilot.examples import Databases, LinkedSchema, Pair, read_pairs
from openarctic.copilot.prompt import target_text, turned_text
from openarctic.copilot.question_writer import BATCH, QUESTIONS, QuestionWriter
from openarctic.copilot.synthesis import synthesise
from openarctic.copilot.transfer import transfer
from openarctic.copilot.variation import varied
from openarctic.copilot.wikisql import read_wikisql
from openarctic.engine import Engine
from openarctic.engine.engine import ASKS_KEY
from openarctic.errors import UserError
from openarctic.formats import GGUFFile
from openarctic.tokenizer import Tokenizer
from openarctic.train.packing import Pack, Segment
from openarctic.train.recipes import NanoRecipe
from openarctic.train.tune import make_packs

Log = Callable[[str], None]
TOLD_EVERY = 800  # queries


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
        self.written: list[Pair] = []
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
            (self.written, recipe.written_per_epoch),
        ):
            pairs += rng.sample(source, min(count, len(source)))
        pairs += _window(self.wikisql, recipe.wikisql_per_epoch, number)  # neighbours, that share schemas
        packs = self._packs(pairs, rng, recipe.turned_share)
        self.log(f"epoch {number}: {sum(len(p.segments) for p in packs)} examples in {len(packs)} packs")
        return packs

    def fingerprint(self) -> str:
        """SHA-256 of the pairs and schemas that were read; the recipe makes everything else of them."""
        phrased = [pair for ways in self.phrasings.values() for pair in ways]
        pairs = [
            (pair.database, pair.prompt, pair.sql) for pair in (*phrased, *self.others, *self.bird, *self.wikisql, *self.written)
        ]
        schemas = sorted((name, linked.text()) for name, linked in self.linked.items())
        return hashlib.sha256(json.dumps([pairs, schemas]).encode()).hexdigest()

    def validation(self) -> list[Pack]:
        """Some packs over the validation databases, the same ones every time."""
        return self._packs(self.held_out, random.Random(0))[: self.recipe.validation_packs]

    def _packs(self, pairs: Sequence[Pair], rng: random.Random, turned_share: float = 0.0) -> list[Pack]:
        recipe = self.recipe
        made = {*self.synthetic, *self.written} if turned_share else set()  # no person asked these
        segments: dict[str, list[Segment]] = {}
        for pair in pairs:
            is_turned = turned_share > 0 and pair not in made and rng.random() < turned_share
            segment = self.turned(pair) if is_turned else self.segment(pair)
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
        return self._segment(pair.prompt, target_text(pair.sql, self.recipe.target_form))

    def turned(self, pair: Pair) -> Segment:
        """SQL, question and end token."""
        return self._segment(turned_text(pair.sql), f" {pair.question}")

    def _segment(self, prompt: str, target: str) -> Segment:
        assert self.tokenizer.eos_id is not None
        return Segment(self.tokenizer.encode(prompt), [*self.tokenizer.encode(target), self.tokenizer.eos_id])


def written_pairs(recipe: NanoRecipe, pairs: NanoPairs, base: GGUFFile, path: Path, threads: int, log: Log) -> list[Pair]:
    """Questions that the base asks for queries carried over from other databases; read from `path` where a run has kept them.

    What was asked before a stop is kept beside it. Raises UserError for a base that was not trained to ask.
    """
    if not recipe.written_queries:
        return []
    if not path.exists():
        if not base.metadata.get(ASKS_KEY):
            raise UserError("the base was not trained to ask questions", "train one with --set turned_share=0.25")
        partial = path.with_name("written.partial.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(_write_pairs(recipe, pairs, base, partial, threads, log)))
        partial.unlink()
    read = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [pairs.linked[r["db_id"]].pair(r["db_id"], r["question"], r["query"]) for r in read]


def _write_pairs(recipe: NanoRecipe, pairs: NanoPairs, base: GGUFFile, partial: Path, threads: int, log: Log) -> list[str]:
    """One line a pair; `partial` keeps them after every batch, below a line that tells of how many of which queries they are."""
    sources = sorted(key for key in pairs.phrasings if key[0] in pairs.linked)
    files = {name: pairs.databases.path(name) for name, _ in sources}
    queries = sorted(transfer(sources, pairs.linked, files, recipe.written_queries, recipe.tune.seed))
    engine = Engine(base, threads=threads, max_sequences=BATCH * QUESTIONS)
    asked = hashlib.sha256(json.dumps([engine.fingerprint, queries]).encode()).hexdigest()
    head, *lines = partial.read_text(encoding="utf-8").splitlines(keepends=True) if partial.exists() else ["{}"]
    known = json.loads(head)
    done = known["done"] if known.get("asked") == asked else 0
    lines = lines if done else []
    log(f"asking questions for {len(queries) - done} queries")
    for batch in QuestionWriter(engine, pairs.linked, files).write(queries[done:]):
        lines += (json.dumps({"db_id": p.database, "question": p.question, "query": p.sql}) + "\n" for p in batch)
        done = min(done + BATCH, len(queries))
        write_text(partial, json.dumps({"asked": asked, "done": done}) + "\n" + "".join(lines))
        if done % TOLD_EVERY == 0 or done == len(queries):
            log(f"{done} of {len(queries)} queries, {len(lines)} questions were understood")
    return lines


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
