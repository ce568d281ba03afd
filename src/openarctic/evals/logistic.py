"""Logistic regression by Newton's method, in numpy: few numbers, few rows, no other package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openarctic.copilot.confidence import FARTHEST, Linear

Floats = NDArray[np.float64]

MAX_STEPS = 50
TOLERANCE = 1e-8
CLOSE = 1e-4


def fit_logistic(
    rows: Sequence[Mapping[str, float]],
    events: Sequence[bool],
    names: Sequence[str],
    *,
    penalty: float,
    weights: Sequence[float] | None = None,
    against: frozenset[str] | None = None,
) -> Linear:
    """The most probable `Linear` for `events`, each row counting `weights` times (default 1), with `penalty` / 2 times the sum of
    squared weights of the standardised numbers (the bias is free) taken off the log likelihood. A number that never varies is
    left out. With `against` (the names that can only speak against the event; all others only for it) a number whose weight comes
    out the other way is left out, the farthest first, and the rest is fitted anew. Raises ValueError without both outcomes.
    """
    if all(events) or not any(events):
        raise ValueError("all outcomes are the same")
    count_N = np.ones(len(rows)) if weights is None else np.asarray(weights, float)

    def fitted(x_NF: Floats, _: Floats) -> tuple[float, Floats]:
        w_F = _newton(np.column_stack([np.ones(len(rows)), x_NF]), np.asarray(events, float), count_N, penalty)
        return float(w_F[0]), w_F[1:]

    return _signed(rows, names, against, fitted)


def fit_choice(
    questions: Sequence[Sequence[tuple[Mapping[str, float], bool]]],
    names: Sequence[str],
    *,
    penalty: float,
    against: frozenset[str] | None = None,
) -> Linear:
    """The most probable `Linear` (without bias) for which rows of each question are right, where the probability of a row is its
    part of the exponentials of all log odds of its question (McFadden's conditional logit, 1974; several right ones are added).
    Questions of which all or no rows are right say nothing. Penalty, signs and errors are those of `fit_logistic`.
    """
    telling = [question for question in questions if len({is_right for _, is_right in question}) == 2]
    if not telling:
        raise ValueError("all outcomes are the same")
    rows = [row for question in telling for row, _ in question]
    shape, at = (len(telling), max(map(len, telling))), 0
    places_QC, right_QC = np.full(shape, -1), np.zeros(shape, bool)
    for i, question in enumerate(telling):
        places_QC[i, : len(question)] = range(at, at + len(question))
        right_QC[i, : len(question)] = [is_right for _, is_right in question]
        at += len(question)
    return _signed(rows, names, against, lambda x_NF, start_F: (0.0, _choice(x_NF, right_QC, places_QC, start_F, penalty)))


def _signed(
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    against: frozenset[str] | None,
    fit: Callable[[Floats, Floats], tuple[float, Floats]],
) -> Linear:
    """`fit` on the standardised numbers, again without the one whose sign is the most wrong until none is."""
    known = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    values_NF = np.array([[row.get(name, np.nan) for name in known] for row in rows]).reshape(len(rows), len(known))
    mean_F, scale_F = np.nanmean(values_NF, 0), np.nanstd(values_NF, 0)
    x_NF = np.clip(np.nan_to_num((values_NF - mean_F) / scale_F), -FARTHEST, FARTHEST)
    kept, weights = list(range(len(known))), np.zeros(len(known))
    while True:
        bias, weights = fit(x_NF[:, kept], weights)
        wrong = [
            (abs(w), i)
            for i, w in zip(kept, weights, strict=True)
            if against is not None and abs(w) > TOLERANCE and (w > 0) == (known[i] in against)
        ]
        if not wrong:
            break
        place = kept.index(max(wrong)[1])
        del kept[place]
        weights = np.delete(weights, place)
    terms = {known[i]: (float(mean_F[i]), float(scale_F[i]), float(w)) for i, w in zip(kept, weights, strict=True)}
    return Linear(bias, terms)


def _choice(x_NF: Floats, right_QC: NDArray[np.bool_], places_QC: NDArray[np.int64], start_F: Floats, penalty: float) -> Floats:
    """Newton's steps toward the parts that the right rows have now (expectation, maximisation). Questions are padded to the
    longest: `places_QC` has each row's number, or -1."""
    is_row_QC = places_QC >= 0
    x_QCF = x_NF[places_QC] * is_row_QC[..., None]
    x_RF, w_F = x_QCF.reshape(-1, x_NF.shape[1]), start_F
    for _ in range(MAX_STEPS):
        z_QC = np.where(is_row_QC, x_QCF @ w_F, -np.inf)
        p_QC = np.exp(z_QC - z_QC.max(1, keepdims=True))
        p_QC /= p_QC.sum(1, keepdims=True)
        target_QC = p_QC * right_QC
        target_QC /= target_QC.sum(1, keepdims=True)
        slope_F = x_RF.T @ (p_QC - target_QC).ravel() + penalty * w_F
        mean_QF = np.einsum("qc,qcf->qf", p_QC, x_QCF)
        curvature_FF = (x_RF.T * p_QC.ravel()) @ x_RF - mean_QF.T @ mean_QF + penalty * np.eye(len(w_F))
        step_F = np.linalg.solve(curvature_FF, slope_F)
        farthest = float(np.abs(step_F).max(initial=0.0))
        w_F = w_F - step_F * min(1.0, 1.0 / max(farthest, TOLERANCE))
        if farthest <= CLOSE:
            break
    return w_F


def _newton(x_NF: Floats, y_N: Floats, count_N: Floats, penalty: float) -> Floats:
    """Where the penalised log likelihood has no slope; steps are halved until they help."""
    decay_F = np.full(x_NF.shape[1], penalty)
    decay_F[0] = 1e-6  # the bias is all but free
    w_F = np.zeros(x_NF.shape[1])
    loss = _loss(w_F, x_NF, y_N, count_N, decay_F)
    for _ in range(MAX_STEPS):
        p_N = 1 / (1 + np.exp(-np.clip(x_NF @ w_F, -50, 50)))
        slope_F = x_NF.T @ (count_N * (p_N - y_N)) + decay_F * w_F
        curvature_FF = (x_NF.T * (count_N * p_N * (1 - p_N))) @ x_NF + np.diag(decay_F)
        step_F = np.linalg.solve(curvature_FF, slope_F)
        while (new := _loss(w_F - step_F, x_NF, y_N, count_N, decay_F)) > loss and np.abs(step_F).max() > TOLERANCE:
            step_F /= 2
        w_F, loss = w_F - step_F, new
        if np.abs(step_F).max() <= TOLERANCE:
            break
    return w_F


def _loss(w_F: Floats, x_NF: Floats, y_N: Floats, count_N: Floats, decay_F: Floats) -> float:
    z_N = x_NF @ w_F
    return float((count_N * (np.logaddexp(0, z_N) - y_N * z_N)).sum() + (decay_F * w_F**2).sum() / 2)


def folds(groups: Sequence[str], count: int) -> Iterator[tuple[list[int], list[int]]]:
    """(rows to fit on, rows to test on) for each of at most `count` parts, so that no group stands on both sides. Groups go, the
    largest first, to the part that has the fewest rows."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    parts: list[list[int]] = [[] for _ in range(min(count, len(members)))]
    for group in sorted(members, key=lambda g: (-len(members[g]), g)):
        min(parts, key=len).extend(members[group])
    for part in parts:
        held = set(part)
        yield [i for i in range(len(groups)) if i not in held], sorted(part)
