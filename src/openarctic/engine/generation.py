"""The loop that turns one prompt into completions: prefill once, then all candidates advance together, a step at a time.

A candidate's `pending` tokens are chosen but not yet in the key-value cache: one as a rule, several where the grammar left no
choice (`Follower.forced`). The next step takes all of them, and the logits after the last give the next choice, so a forced token
costs no step of its own. The result is the same with and without: the same tokens stand at the same positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.detokenizer import Detokenizer
from openarctic.engine.sampler import Sampler, token_logprob
from openarctic.errors import CapacityError, UserError
from openarctic.generator import Completion, OnText, Sampling, TokenLogprob
from openarctic.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openarctic.engine.constraint import Follower  # llguidance is loaded where there is a grammar

Rows = NDArray[np.float32]  # [wanted tokens, vocab]


class Steps(Protocol):
    """What the loop needs of an engine; sequence 0 holds the prompt."""

    tokenizer: Tokenizer | None
    context: int
    max_candidates: int

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""

    def prefill(self, ids: list[int], every_row: bool) -> Iterator[tuple[int, Rows]]:
        """Computes the prompt; gives (position of the first row, rows): of all tokens, or of the last alone."""

    def fork(self, sequence: int, length: int) -> None:
        """`sequence` becomes a copy of the prompt's first `length` positions."""

    def step(self, tokens: Sequence[int], sequences: Sequence[int], positions: Iterable[int], wanted: Iterable[int]) -> Rows:
        """Runs the tokens and gives the rows of the wanted ones."""


def check_request(engine: Steps, ids: Sequence[int], settings: Sequence[Sampling], max_tokens: int) -> None:
    """Every reason to refuse, before anything is computed. Raises UserError, or CapacityError for a prompt that is too long."""
    count = sum(s.num_candidates for s in settings)
    if not 1 <= count <= engine.max_candidates:
        raise UserError(f"{count} candidates were asked for, it must be 1 to {engine.max_candidates}")
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}, it must be at least 1")
    if not ids:
        raise UserError("the prompt is empty")
    if len(ids) >= engine.context:
        raise CapacityError(f"the prompt has {len(ids)} tokens, the context {engine.context}", "shorten the prompt")
    for sampling in settings:
        for name in ("logit_bias", "stop_token_ids"):
            for id in getattr(sampling, name):
                if id >= engine.vocab_size:
                    raise UserError(f"{name} names token {id}, the vocabulary has 0 to {engine.vocab_size - 1}")
        if sampling.stop and engine.tokenizer is None:
            raise UserError("stop strings need a tokenizer, this model has none", "use stop_token_ids")


def generate(
    engine: Steps,
    ids: list[int],
    settings: Sequence[Sampling],
    *,
    max_tokens: int,
    follower: Follower | None = None,
    on_text: OnText | None = None,
    forces_tokens: bool = True,
) -> list[Completion]:
    """`n` completions for each of `settings`, in order. `follower` stands at the start of the grammar.

    Raises UserError where `on_text` cannot know yet which candidates `best_of` will keep, and what `check_request` raises.
    """
    check_request(engine, ids, settings, max_tokens)
    if on_text and any(s.num_candidates > s.n for s in settings):
        raise UserError("best_of is more than n, such completions cannot be streamed", "ask for no stream, or leave out best_of")
    run = _Run(engine, len(ids), min(max_tokens, engine.context - len(ids)), on_text, forces_tokens)
    groups = list(_candidates(engine, ids, settings, follower))
    run.candidates = [candidate for group in groups for candidate in group]
    prompt = run.prefill(ids, [s.prompt_logprobs for s in settings])
    run.decode()
    completions = []
    for sampling, group, prompt_logprobs in zip(settings, groups, prompt, strict=True):
        best = sorted(group, key=_Candidate.mean_logprob, reverse=True) if sampling.num_candidates > sampling.n else group
        completions += [candidate.completion(prompt_logprobs) for candidate in best[: sampling.n]]
    return completions


@dataclass(slots=True)
class _Candidate:
    index: int
    sequence: int
    sampler: Sampler
    follower: Follower | None
    writer: Detokenizer | None
    ids: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    logprob: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)  # with the token that ended the text
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def sampling(self) -> Sampling:
        return self.sampler.sampling

    @property
    def is_scored(self) -> bool:
        """Whether the model's own log probability of every token is needed."""
        return self.sampling.logprobs is not None or self.sampling.num_candidates > self.sampling.n

    def mean_logprob(self) -> float:
        """What `best_of` compares: the mean over all tokens, the ending one included; what broke off comes last."""
        if self.finish_reason == "grammar" or not self.logprobs:
            return -np.inf
        return float(np.mean([token.logprob for token in self.logprobs]))

    def completion(self, prompt_logprobs: list[TokenLogprob | None] | None) -> Completion:
        return Completion(
            text=self.writer.text if self.writer else "",
            ids=self.ids,
            logprob=self.logprob,
            finish_reason=self.finish_reason or "stop",
            stop_reason=self.stop_reason,
            logprobs=self.logprobs[: len(self.ids)] if self.sampling.logprobs is not None else None,
            prompt_logprobs=prompt_logprobs,
        )


def _candidates(
    engine: Steps, ids: Sequence[int], settings: Sequence[Sampling], follower: Follower | None
) -> Iterator[list[_Candidate]]:
    """The candidates of each setting; `index` counts over all of them."""
    index = 0
    for sampling in settings:
        group = []
        for number in range(sampling.num_candidates):
            writer = Detokenizer(engine.tokenizer, tuple(sampling.stop)) if engine.tokenizer else None
            place = follower.copy() if follower else None
            group.append(_Candidate(index, index + 1, Sampler(sampling, ids, number), place, writer))
            index += 1
        yield group


@dataclass(slots=True)
class _Run:
    """One `generate` call."""

    engine: Steps
    prompt_length: int
    max_tokens: int
    on_text: OnText | None
    forces_tokens: bool
    candidates: list[_Candidate] = field(default_factory=list)

    def prefill(self, ids: list[int], wanted: Sequence[int | None]) -> list[list[TokenLogprob | None] | None]:
        """Computes the prompt and makes the first choices; gives the prompt's log probabilities with `wanted` others beside."""
        every_row = any(count is not None for count in wanted)
        scores: list[list[TokenLogprob | None] | None] = [None if count is None else [None] for count in wanted]
        last: Rows = np.empty((1, 0), np.float32)
        for start, rows in self.engine.prefill(ids, every_row):
            last = rows[-1:]
            for score, count in zip(scores, wanted, strict=True):
                if score is not None and count is not None:
                    score += [token_logprob(row, t, count) for row, t in zip(rows, ids[start + 1 :], strict=False)]
        for candidate in self.candidates:
            self.engine.fork(candidate.sequence, len(ids))
            self._choose(candidate, last[0])
        return scores

    def decode(self) -> None:
        """Steps until every candidate has ended."""
        while active := [c for c in self.candidates if c.finish_reason is None]:
            tokens: list[int] = []
            sequences: list[int] = []
            positions: list[int] = []
            wanted: list[int] = []
            for c in active:
                tokens += c.pending
                sequences += [c.sequence] * len(c.pending)
                end = self.prompt_length + len(c.ids)
                positions += range(end - len(c.pending), end)
                wanted.append(len(tokens) - 1)
                c.pending = []
            for c, row in zip(active, self.engine.step(tokens, sequences, positions, wanted), strict=True):
                self._choose(c, row)

    def _choose(self, candidate: _Candidate, row_V: NDArray[np.float32]) -> None:
        """The next token from its row of logits, and those that the grammar forces after it."""
        follower = candidate.follower
        allowed = follower.mask(row_V) if follower else row_V
        if follower and follower.is_stuck:
            self._finish(candidate, "grammar")
            return
        token, logprob = candidate.sampler.choose(allowed)
        candidate.logprob += logprob
        if candidate.is_scored:  # then every token needs its row, and nothing is forced
            candidate.logprobs.append(token_logprob(row_V, token, candidate.sampling.logprobs or 0))
        self._append(candidate, token)
        if follower and self.forces_tokens and not candidate.is_scored:
            while candidate.finish_reason is None and (forced := follower.forced()) is not None:
                candidate.sampler.force(forced)
                self._append(candidate, forced)

    def _append(self, candidate: _Candidate, token: int) -> None:
        """Adds a chosen token, or ends the candidate."""
        sampling, tokenizer, follower = candidate.sampling, self.engine.tokenizer, candidate.follower
        if token in sampling.stop_token_ids:
            self._finish(candidate, "stop", token)
            return
        if tokenizer and token in tokenizer.stop_ids and (follower or not sampling.ignore_eos):
            self._finish(candidate, "stop")
            return
        candidate.ids.append(token)
        candidate.pending.append(token)
        if follower:
            follower.advance(token)
        if candidate.writer:
            self._show(candidate, candidate.writer.add(token))
            if candidate.writer.stopped_by is not None:
                self._finish(candidate, "stop", candidate.writer.stopped_by)
                return
        if follower and follower.is_complete:
            self._finish(candidate, "grammar" if follower.is_stuck else "stop")
        elif len(candidate.ids) >= self.max_tokens:
            self._finish(candidate, "length")

    def _finish(self, candidate: _Candidate, reason: str, stop_reason: int | str | None = None) -> None:
        candidate.finish_reason, candidate.stop_reason = reason, stop_reason
        if candidate.writer:
            self._show(candidate, candidate.writer.finish())
            if candidate.writer.stopped_by is not None and stop_reason is None:
                candidate.finish_reason, candidate.stop_reason = "stop", candidate.writer.stopped_by

    def _show(self, candidate: _Candidate, text: str) -> None:
        if self.on_text and text:
            self.on_text(candidate.index, text)
