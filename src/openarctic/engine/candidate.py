"""One text that is being written: its sampler, its detokenizer, and what it has so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.detokenizer import Detokenizer
from openarctic.engine.sampler import Sampler, token_logprob
from openarctic.generator import Completion, Sampling, TokenLogprob
from openarctic.tokenizer import Tokenizer


@dataclass(slots=True)
class Candidate:
    """Candidate number `index` of its request. `limit` is the number of tokens after which it ends."""

    index: int
    sampler: Sampler
    tokenizer: Tokenizer | None
    limit: int
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

    def choose(self, row_V: NDArray[np.float32], bits: bytes, summary: tuple[int, float]) -> int:
        """The token that comes next (see `Sampler.choose`); `append` adds it."""
        token, logprob = self.sampler.choose(row_V, bits, summary)
        self.logprob += logprob
        if self.is_scored:
            self.logprobs.append(token_logprob(row_V, token, self.sampling.logprobs or 0))
        return token

    def is_ended_by(self, token: int, has_grammar: bool) -> bool:
        """Whether that token is an end, and none of the text; then it is finished."""
        if token in self.sampling.stop_token_ids:
            self.finish("stop", token)
        elif self.tokenizer and token in self.tokenizer.stop_ids and (has_grammar or not self.sampling.ignore_eos):
            self.finish("stop")
        return self.finish_reason is not None

    def append(self, token: int) -> None:
        """Adds a token to the text, which a stop string may end."""
        self.ids.append(token)
        if self.writer:
            self.unshown += self.writer.add(token)
            if self.writer.stopped_by is not None:
                self.finish("stop", self.writer.stopped_by)

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
