"""From logits to the next token: plain numpy, a seed, and the counts of what was written. V is the vocabulary.

The order of operations is vLLM's (`vllm.v1.sample.sampler`, 0.32): what stands in the logits' own space first (bias, penalties),
then temperature, min_p, top_k and top_p. What a grammar does not allow is left out of all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openarctic.generator import Sampling, TokenLogprob
from openarctic.native._native import available_kernels, summarize

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float64]
KERNELS = available_kernels()[0]


class Sampler:
    """Draws the tokens of one candidate: number `index` of those that share `sampling`, each with draws of its own."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), index: int = 0) -> None:
        self.sampling = sampling
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._counts: dict[int, int] = {}
        self._rng = np.random.default_rng(np.random.SeedSequence(sampling.seed, spawn_key=(index,) if index else ()))

    def choose(self, logits_V: Logits, bits: bytes = b"", summary: tuple[int, float] | None = None) -> tuple[int, float]:
        """The token, and its log probability among what is allowed (before bias, penalties and temperature).

        `bits` has one bit a token (`Follower.bits`), none: all are allowed. `summary` is the first largest allowed logit's token
        and the log of the sum of their exponentials, where that is known. Raises ValueError when no token is allowed.
        """
        best, log_sum = summary or summarize(KERNELS, logits_V, bits)
        if best < 0:
            raise ValueError("no token is allowed")
        adjusted = adjust(logits_V, self.sampling, self._seen, self._counts)
        if not self.sampling.is_greedy:
            token = self._draw(adjusted, bits)
        else:
            token = best if adjusted is logits_V else summarize(KERNELS, adjusted, bits)[0]
        self._count(token)
        return token, float(logits_V[token]) - log_sum

    def _draw(self, adjusted_V: Logits, bits: bytes) -> int:
        if not bits:
            return draw(probabilities(adjusted_V, self.sampling), self._rng.random())
        ids = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[: len(adjusted_V)])
        return int(ids[draw(probabilities(adjusted_V[ids], self.sampling), self._rng.random())])

    def force(self, token: int) -> None:
        """`token` was the only one allowed; what is drawn after it is the same as if it had been chosen."""
        if not self.sampling.is_greedy:
            self._rng.random()
        self._count(token)

    def _count(self, token: int) -> None:
        self._counts[token] = self._counts.get(token, 0) + 1


def adjust(logits_V: Logits, sampling: Sampling, seen: set[int], counts: dict[int, int]) -> Logits:
    """Bias, then penalties: `seen` are the prompt's tokens, `counts` how often each stands in the output."""
    has_penalty = sampling.repetition_penalty != 1 or sampling.frequency_penalty or sampling.presence_penalty
    if not (sampling.logit_bias or (has_penalty and (seen or counts))):
        return logits_V
    out = logits_V.copy()
    for token, bias in sampling.logit_bias.items():
        out[token] += bias
    if sampling.repetition_penalty != 1:
        tokens = np.fromiter(seen.union(counts), np.int64)
        values = out[tokens]
        factor = np.float32(sampling.repetition_penalty)
        out[tokens] = np.where(values > 0, values / factor, values * factor)
    if counts:
        tokens, times = np.fromiter(counts, np.int64), np.fromiter(counts.values(), np.float32)
        out[tokens] -= np.float32(sampling.frequency_penalty) * times
        out[tokens] -= np.float32(sampling.presence_penalty)
    return out


def probabilities(logits_V: Logits, sampling: Sampling) -> Probabilities:
    """The distribution that is drawn from: temperature, min_p, top_k, top_p."""
    scaled = logits_V.astype(np.float64) / sampling.temperature
    if sampling.min_p:
        scaled[scaled < scaled.max() + np.log(sampling.min_p)] = -np.inf
    if sampling.top_k and sampling.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    if sampling.top_p < 1:
        order = _most_probable(probs, sampling.top_p)
        before = probs[order].cumsum() - probs[order]
        kept = order[before < sampling.top_p]
        nucleus = np.zeros_like(probs)
        nucleus[kept] = probs[kept] / probs[kept].sum()
        return nucleus
    return probs


def _most_probable(probs_V: Probabilities, top_p: float) -> NDArray[np.int64]:
    """Ids of the tokens that top_p may keep, the most probable first and at equality the lower id.

    Tokens of at most (1 - top_p) / V have at most 1 - top_p together, so what stands before them reaches top_p already; sorting
    the few others takes a tenth of the time of sorting a vocabulary.
    """
    likely = np.flatnonzero(probs_V >= min((1 - top_p) / len(probs_V), probs_V.max()))
    return likely[np.argsort(-probs_V[likely], kind="stable")]


def draw(probs_V: Probabilities, uniform: float) -> int:
    """The token at `uniform`, 0 to 1 without 1, of the cumulative distribution."""
    cumulative = probs_V.cumsum()
    return int((cumulative / cumulative[-1]).searchsorted(uniform, side="right"))


def token_logprob(logits_V: Logits, token: int, top: int) -> TokenLogprob:
    """The token's log probability, rank, and the `top` most probable tokens; at equality the lower id comes first."""
    logprobs = logits_V.astype(np.float64) - _log_sum_exp(logits_V.astype(np.float64))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        top = min(top, len(logprobs))
        near = np.flatnonzero(logprobs >= np.partition(logprobs, -top)[-top])
        best = tuple((int(i), float(logprobs[i])) for i in near[np.argsort(-logprobs[near], kind="stable")][:top])
    return TokenLogprob(token, float(logprobs[token]), int((logprobs > logprobs[token]).sum()) + 1, best)


def _log_sum_exp(logits_V: NDArray[np.floating]) -> float:
    top = float(logits_V.max())
    return top + float(np.log(np.exp(logits_V - top).sum()))
