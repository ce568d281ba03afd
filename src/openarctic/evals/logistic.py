"""Logistic regression by Newton's method, in numpy: few numbers, few rows, no other package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openarctic.copilot.confidence import FARTHEST, Linear

MAX_STEPS = 50
TOLERANCE = 1e-8


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
    linear = _fitted(rows, events, names, penalty, weights)
    while against is not None:
        wrong = {name: abs(w) for name, (_, _, w) in linear.terms.items() if (w > 0) == (name in against) and w}
        if not wrong:
            break
        names = [name for name in names if name != max(wrong, key=lambda n: wrong[n])]
        linear = _fitted(rows, events, names, penalty, weights)
    return linear


def _fitted(
    rows: Sequence[Mapping[str, float]],
    events: Sequence[bool],
    names: Sequence[str],
    penalty: float,
    weights: Sequence[float] | None,
) -> Linear:
    if all(events) or not any(events):
        raise ValueError("all outcomes are the same")
    known = [name for name in names if len({row[name] for row in rows if name in row}) > 1]
    values_NF = np.array([[row.get(name, np.nan) for name in known] for row in rows]).reshape(len(rows), len(known))
    mean_F, scale_F = np.nanmean(values_NF, 0), np.nanstd(values_NF, 0)
    standard_NF = np.clip(np.nan_to_num((values_NF - mean_F) / scale_F), -FARTHEST, FARTHEST)
    count_N = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    solution = _newton(np.column_stack([np.ones(len(rows)), standard_NF]), np.asarray(events, float), count_N, penalty)
    terms = zip(known, mean_F, scale_F, solution[1:], strict=True)
    return Linear(float(solution[0]), {name: (float(mean), float(scale), float(w)) for name, mean, scale, w in terms})


def _newton(x_NF: NDArray, y_N: NDArray, count_N: NDArray, penalty: float) -> NDArray:
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


def _loss(w_F: NDArray, x_NF: NDArray, y_N: NDArray, count_N: NDArray, decay_F: NDArray) -> float:
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
