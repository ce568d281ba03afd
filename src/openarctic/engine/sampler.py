"""From logits to the next token: plain numpy, a seed, no state but the random generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openarctic.generator import Sampling

Logits = NDArray[np.float32]


class Sampler:
    """Draws tokens for one candidate."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)

    def choose(self, logits_V: Logits) -> tuple[int, float]:
        """The token, and its log probability under the model (masked, temperature 1). -inf marks what is not allowed."""
        if self.sampling.temperature == 0:
            token = int(logits_V.argmax())
        else:
            token = int(self._rng.choice(len(logits_V), p=probabilities(logits_V, self.sampling)))
        return token, float(logits_V[token] - _log_sum_exp(logits_V))


def probabilities(logits_V: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """The distribution that is drawn from: temperature, then top-k, then top-p."""
    scaled = logits_V.astype(np.float64) / sampling.temperature
    if sampling.top_k and sampling.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    if sampling.top_p < 1:
        order = probs.argsort()[::-1]
        before = probs[order].cumsum() - probs[order]
        probs[order[before >= sampling.top_p]] = 0
        probs /= probs.sum()
    return probs


def _log_sum_exp(logits_V: Logits) -> float:
    top = float(logits_V.max())
    return top + float(np.log(np.exp(logits_V - top).sum()))
