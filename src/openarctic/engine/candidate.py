"""One text that is being written: its sampler, its place in the grammar, its detokenizer, and what it has so far.

Rows of logits go in, tokens come out. A row gives one chosen token and those that the grammar forces after it: the same as if
each had been chosen from a row of its own, since its mask would have left nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.detokenizer import Detokenizer
from openarctic.engine.sampler import Sampler, token_logprob
from openarctic.generator import Completion, Sampling, TokenLogprob
from openarctic.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openarctic.engine.constraint import Follower  # llguidance is loaded where there is a grammar


@dataclass(frozen=True, slots=True)
class Rows:
    """Logits [n, vocab] of a step, and of each row its first largest one and the log of the sum of exponentials [n, 2]."""

    logits: NDArray[np.float32]
    summaries: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.logits[part], self.summaries[part])


@dataclass(slots=True)
class Candidate:
    """Candidate number `index` of its request. `limit` is the number of tokens after which it ends."""

    index: int
    sampler: Sampler
    tokenizer: Tokenizer | None
    limit: int
    follower: Follower | None = None
    forces_tokens: bool = True
    writer: Detokenizer | None = None
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)  # with the token that ended the text
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    num_shown: int = 0  # tokens that were told to the caller
    unshown: str = ""  # released text that was not

    def __post_init__(self) -> None:
        if self.tokenizer:
            self.writer = Detokenizer(self.tokenizer, tuple(self.sampling.stop))

    @property
    def sampling(self) -> Sampling:
        """Its settings."""
        return self.sampler.sampling

    @property
    def is_scored(self) -> bool:
        """Whether the model's own log probability of every token is needed."""
        return self.sampling.logprobs is not None or self.sampling.num_candidates > self.sampling.n

    def take(self, rows: Rows, draft: list[int]) -> int:
        """Reads the row after its last token, then, as long as its own choices agree with `draft`, those after the draft's.

        Gives how many tokens of the draft it has chosen itself; what it wrote is the same without any draft.
        """
        agreed = 0
        while True:
            before = len(self.ids)
            self._choose(rows.logits[agreed], rows.summaries[agreed])
            new = self.ids[before:]
            same = _shared_length(new, draft[agreed:])
            agreed += same
            if self.finish_reason is not None or same < len(new):
                return agreed

    def finish(self, reason: str, stop_reason: int | str | None = None) -> None:
        """Ends it, unless it has ended; held back text is released."""
        if self.finish_reason is not None:
            return
        self.finish_reason, self.stop_reason = reason, stop_reason
        if self.writer:
            self.unshown += self.writer.finish()
            if self.writer.stopped_by is not None and stop_reason is None:
                self.finish_reason, self.stop_reason = "stop", self.writer.stopped_by

    def completion(self, prompt_logprobs: list[TokenLogprob | None] | None) -> Completion:
        """What it has, for the caller."""
        return Completion(
            text=self.writer.text if self.writer else "",
            ids=self.ids,
            logprob=self.logprob,
            finish_reason=self.finish_reason or "stop",
            stop_reason=self.stop_reason,
            logprobs=self.logprobs[: len(self.ids)] if self.sampling.logprobs is not None else None,
            prompt_logprobs=prompt_logprobs,
        )

    def mean_logprob(self) -> float:
        """What `best_of` compares: the mean over all tokens, the ending one included; what broke off comes last."""
        if self.finish_reason == "grammar" or not self.logprobs:
            return -np.inf
        return float(np.mean([token.logprob for token in self.logprobs]))

    def _choose(self, row_V: NDArray[np.float32], summary: NDArray[np.float32]) -> None:
        """The next token from its row of logits, and those that the grammar forces after it."""
        follower = self.follower
        bits = follower.bits(len(row_V)) if follower else b""
        if follower and follower.is_stuck:
            self.finish("grammar")
            return
        token, logprob = self.sampler.choose(row_V, bits, None if follower else (int(summary[0]), float(summary[1])))
        self.logprob += logprob
        if self.is_scored:  # then every token needs its row, and nothing is forced
            self.logprobs.append(token_logprob(row_V, token, self.sampling.logprobs or 0))
        self._append(token)
        if follower and self.forces_tokens and not self.is_scored:
            while self.finish_reason is None and (forced := follower.forced()) is not None:
                self.sampler.force(forced)
                self._append(forced)

    def _append(self, token: int) -> None:
        """Adds a chosen token, or ends the candidate."""
        if token in self.sampling.stop_token_ids:
            self.finish("stop", token)
            return
        if self.tokenizer and token in self.tokenizer.stop_ids and (self.follower or not self.sampling.ignore_eos):
            self.finish("stop")
            return
        self.ids.append(token)
        if self.follower:
            self.follower.advance(token)
        if self.writer:
            self.unshown += self.writer.add(token)
            if self.writer.stopped_by is not None:
                self.finish("stop", self.writer.stopped_by)
                return
        if self.follower and self.follower.is_complete:
            self.finish("grammar" if self.follower.is_stuck else "stop")
        elif len(self.ids) >= self.limit:
            self.finish("length")


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (mine, its) in enumerate(zip(a, b, strict=False)) if mine != its), min(len(a), len(b)))
