"""A router fitted to what it will read: every expert gets a direction of its own, and about as many tokens as the others.

Arctic's router is a matrix without offsets. Offsets are what balances load, so they ride on a direction `v` on which nearly every
input has the coordinate 1: inputs that come out of a norm with weights have a strong common part, and least squares finds it.

T tokens, H hidden, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openarctic.errors import UserError
from openarctic.formats.clusters import spherical_kmeans
from openarctic.formats.quants import F32Array

ROUNDS = 300
TOKENS_PER_EXPERT = 8


@dataclass(frozen=True, slots=True)
class WarmRouter:
    """The matrix [E, H], and how even it is on the tokens that it was not fitted to: the fullest expert's share of the tokens
    over the mean share (1: perfectly even), and the same for the emptiest.
    """

    weight_EH: F32Array
    fullest: float
    emptiest: float


def fit_router(inputs_TH: F32Array, num_experts: int, top_k: int, seed: int) -> WarmRouter:
    """Fit to every second token, measure on the others.

    Directions are the centres of spherical k-means over the inputs less their mean, scaled so that logits have variance 1;
    offsets are moved until the top-k choices are even. Raises UserError for fewer than `TOKENS_PER_EXPERT` tokens an expert.
    """
    if len(inputs_TH) < 2 * TOKENS_PER_EXPERT * num_experts:
        needed = 2 * TOKENS_PER_EXPERT * num_experts
        raise UserError(
            f"{len(inputs_TH)} tokens are too few to fit a router of {num_experts} experts", f"give at least {needed}"
        )
    fitted_TH, unseen_TH = inputs_TH[::2], inputs_TH[1::2]
    mean_H = fitted_TH.mean(0)
    centers_EH = spherical_kmeans(fitted_TH - mean_H, num_experts, np.random.default_rng(seed))
    scores_TE = (fitted_TH - mean_H) @ centers_EH.T
    scale = np.float32(1 / max(scores_TE.std(), 1e-6))
    constant_H = _constant_direction(fitted_TH)
    plain_EH = scale * (centers_EH - np.outer(centers_EH @ mean_H, constant_H))
    offsets_E = _balancing_offsets(fitted_TH @ plain_EH.T, fitted_TH @ constant_H, top_k)
    weight_EH = np.asarray(plain_EH + np.outer(offsets_E, constant_H), np.float32)
    load_E = load(unseen_TH @ weight_EH.T, top_k)
    return WarmRouter(weight_EH, float(load_E.max() / load_E.mean()), float(load_E.min() / load_E.mean()))


def load(logits_TE: F32Array, top_k: int) -> F32Array:
    """How many tokens choose each expert."""
    chosen_Tk = np.argpartition(-logits_TE, top_k - 1, axis=1)[:, :top_k]
    return np.bincount(chosen_Tk.reshape(-1), minlength=logits_TE.shape[1]).astype(np.float32)


def _constant_direction(x_TH: F32Array) -> F32Array:
    """The v for which x v is nearest 1 on average, by least squares with a little ridge."""
    x = x_TH.astype(np.float64)
    gram_HH = x.T @ x / len(x)
    ridge = 1e-3 * np.trace(gram_HH) / len(gram_HH)
    return np.linalg.solve(gram_HH + ridge * np.eye(len(gram_HH)), x.mean(0)).astype(np.float32)


def _balancing_offsets(logits_TE: F32Array, constant_T: F32Array, top_k: int) -> F32Array:
    """Offsets under which loads are most even: lowered where an expert is too full, in ever smaller steps."""
    offsets_E = np.zeros(logits_TE.shape[1], np.float32)
    best_E, least = offsets_E, np.inf
    for round_ in range(ROUNDS):
        load_E = load(logits_TE + np.outer(constant_T, offsets_E), top_k)
        excess_E = load_E / load_E.mean() - 1
        if np.abs(excess_E).max() < least:
            best_E, least = offsets_E, np.abs(excess_E).max()
        offsets_E = offsets_E - np.float32(0.3 * (1 - round_ / ROUNDS)) * np.clip(excess_E, -1, 1)
    return best_E
