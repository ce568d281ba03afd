"""Drafts of a smaller model with the same vocabulary, greedy, through the same native steps with pages of its own.

A line's `computed` tokens have keys and values at positions 0, 1, ...; what of them still agrees with the committed tokens is
right, and the rest is overwritten: that is all there is to rolling back. A call computes what is committed since, up to a chunk
of tokens, and then one token a step for all sequences together. Full pages of prompts stand in the pool's prefix tree, so that a
prompt of several sequences is computed once. A sequence for which there are no pages has no drafts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.pages import PagePool, common_prefix
from openarctic.engine.runner import Runner
from openarctic.engine.suffix import FLOOR, Draft
from openarctic.errors import UserError
from openarctic.formats import GGUFFile, config_from_gguf
from openarctic.formats.names import check_tensors

CHUNK = 512  # committed tokens that a call computes at most
TRUSTED = 64  # match length of a draft: a model's probability needs no discount (see `Acceptance`)
TOKENS = "tokenizer.ggml.tokens"

Rows = NDArray[np.float32]


class DraftModel(Protocol):
    """What drafting needs of a model: V numbers a wanted token, and pages."""

    page_size: int
    num_pages: int
    context: int

    def step(
        self,
        tokens: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        tables: NDArray[np.int32],
        wanted: Sequence[int],
    ) -> Rows:
        """Logits [wanted, V]; token i stands at positions[i] of the sequence whose pages are tables[rows[i]]."""


@dataclass(slots=True, eq=False)
class _Line:
    tenant: str
    prompt_length: int
    tokens: list[int]  # committed
    computed: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    num_known: int = 0  # first pages that stand in the prefix tree
    num_right: int = 0  # first computed tokens that are known to be those committed

    def missing(self) -> list[int]:
        """Committed tokens to compute; at least the last, whose logits start a draft. `computed` loses what is wrong."""
        right = self.num_right
        right += common_prefix(self.computed[right:], self.tokens[right:])
        self.num_right = min(right, len(self.tokens) - 1)
        del self.computed[self.num_right :]
        return self.tokens[self.num_right :]


class ModelDrafter:
    """A `Drafter` (drafts.py) over a model; a draft ends before its probability falls below `floor`."""

    def __init__(self, model: DraftModel, *, floor: float = FLOOR) -> None:
        self._model = model
        self._floor = floor
        self._pool = PagePool(model.num_pages, model.page_size)
        self._lines: dict[int, _Line] = {}

    def tick(self, now: float) -> None:
        """Nothing here has an age."""

    def start(self, sequence_id: int, tenant: str, prompt_ids: Sequence[int]) -> None:
        """A new sequence; nothing is computed yet."""
        assert sequence_id not in self._lines and prompt_ids
        self._lines[sequence_id] = _Line(tenant, len(prompt_ids), list(prompt_ids))

    def append(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Committed tokens."""
        self._lines[sequence_id].tokens += tokens

    def finish(self, sequence_id: int, keep: bool) -> None:
        """The sequence's pages are free; those of its prompt may be used again within the tenant."""
        self._pool.release(self._lines.pop(sequence_id).pages)

    def draft(self, limits: Mapping[int, int]) -> dict[int, Draft]:
        """Greedy continuations; those that are still behind their prompt after a chunk have none this time."""
        budget, ready = CHUNK, {}
        for sequence_id, limit in limits.items():
            line = self._lines[sequence_id]
            if limit > 0 and budget > 0 and self._has_room(line, limit):
                budget -= self._catch_up(line, budget)
                if len(line.missing()) <= self._model.page_size:
                    ready[sequence_id] = line
        drafts = {sequence_id: Draft([], [], TRUSTED) for sequence_id in ready}
        going, inputs = ready, {sequence_id: line.missing() for sequence_id, line in ready.items()}
        while going:
            rows = self._step([(line, inputs[id]) for id, line in going.items()])
            for id, (token, p) in zip(list(going), _best(rows), strict=True):
                draft = drafts[id]
                p *= draft.probabilities[-1] if draft.tokens else 1.0
                if p >= self._floor:
                    draft.tokens.append(token)
                    draft.probabilities.append(p)
                    inputs[id] = [token]
                if not p >= self._floor or len(draft.tokens) >= limits[id]:  # not: nor where p is no number
                    going = {other: line for other, line in going.items() if other != id}
        return {id: draft for id, draft in drafts.items() if draft.tokens}

    def _has_room(self, line: _Line, limit: int) -> bool:
        """Whether the line has pages for its tokens and a draft; takes them."""
        if not line.pages:
            line.pages = self._pool.match(line.tokens[: line.prompt_length], line.tenant).pages
            self._pool.hold(line.pages)
            line.num_known = len(line.pages)
            line.num_right = len(line.pages) * self._model.page_size
            line.computed = line.tokens[: line.num_right]
        length = len(line.tokens) + limit
        num_more = max(self._pool.pages_for(length) - len(line.pages), 0)
        more = self._pool.try_allocate(num_more) if length <= self._model.context else None
        if more is None:
            return False
        line.pages += more
        return True

    def _catch_up(self, line: _Line, budget: int) -> int:
        """Computes up to `budget` tokens of a line that is more than a page behind; gives how many it were."""
        missing = line.missing()
        if len(missing) <= self._model.page_size:
            return 0
        chunk = missing[: min(budget, len(missing) - 1)]
        self._step([(line, chunk)])
        size = self._model.page_size
        while (line.num_known + 1) * size <= min(len(line.computed), line.prompt_length):
            at, after = line.num_known, line.pages[line.num_known - 1] if line.num_known else None
            tokens = line.computed[at * size : (at + 1) * size]
            line.pages[at] = self._pool.insert(line.pages[at], tokens, after=after, salt=line.tenant)
            line.num_known += 1
        return len(chunk)

    def _step(self, parts: Sequence[tuple[_Line, list[int]]]) -> Rows:
        """Computes further tokens of several lines; gives the logits after the last of each."""
        tables = np.zeros((len(parts), max(len(line.pages) for line, _ in parts)), np.int32)
        tokens: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for row, (line, more) in enumerate(parts):
            tables[row, : len(line.pages)] = line.pages
            tokens += more
            rows += [row] * len(more)
            positions += range(len(line.computed), len(line.computed) + len(more))
            wanted.append(len(tokens) - 1)
            line.computed += more
        return self._model.step(tokens, rows, positions, tables, wanted)


def _best(rows: Rows) -> Iterable[tuple[int, float]]:
    """The most probable token of each row, and its probability."""
    for row in rows:
        token = int(row.argmax())
        yield token, float(1 / np.exp(row - row[token], dtype=np.float64).sum())


class NativeDraftModel:
    """A GGUF file as a `DraftModel`."""

    def __init__(self, file: GGUFFile, *, num_pages: int, threads: int | None = None, kernels: str = "") -> None:
        from openarctic.engine.loader import load_model
        from openarctic.native._native import PAGE_SIZE

        config = config_from_gguf(file)
        check_tensors(config, file)
        self.page_size, self.num_pages, self.context = PAGE_SIZE, num_pages, config.max_position_embeddings
        vocab_size = config.vocab_size if TOKENS not in file.metadata else len(file.metadata[TOKENS])
        model = load_model(file, config, pages=num_pages, threads=threads, cache_type="f16", kernels=kernels)
        self._runner = Runner(model, vocab_size)

    def step(
        self,
        tokens: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        tables: NDArray[np.int32],
        wanted: Sequence[int],
    ) -> Rows:
        """One native step."""
        return self._runner.run(tokens, rows, positions, tables, wanted).logits


def load_draft_model(
    file: GGUFFile, target: GGUFFile, *, num_pages: int, threads: int | None = None, kernels: str = ""
) -> NativeDraftModel:
    """A smaller GGUF file that drafts for `target`. Raises CorruptError, or UserError where vocabularies differ."""
    check_same_vocabulary(file, target)
    return NativeDraftModel(file, num_pages=num_pages, threads=threads, kernels=kernels)


def check_same_vocabulary(draft: GGUFFile, target: GGUFFile) -> None:
    """Raises UserError unless every id means the same token in both files."""
    hint = "a draft model must have the vocabulary of the model that it drafts for"
    ours, theirs = (list(file.metadata.get(TOKENS) or ()) for file in (draft, target))
    if not ours or not theirs:
        sizes = [config_from_gguf(file).vocab_size for file in (draft, target)]
        if bool(ours) != bool(theirs) or sizes[0] != sizes[1]:
            raise UserError(f"the draft model has {sizes[0]} tokens{_named(ours)}, the model {sizes[1]}{_named(theirs)}", hint)
    elif len(ours) != len(theirs):
        raise UserError(f"the draft model has {len(ours)} tokens, the model {len(theirs)}", hint)
    elif ours != theirs:
        id = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        raise UserError(f"token {id} is {ours[id]!r} in the draft model and {theirs[id]!r} in the model", hint)


def _named(tokens: list[str]) -> str:
    return "" if tokens else " without names"
