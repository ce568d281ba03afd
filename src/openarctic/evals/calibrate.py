"""From questions with known answers to a `Calibration`: what speaks for a right candidate, and how sure to be of a winner.

Nothing is measured on what it was fitted on: folds never have a database on both sides (questions, where there is one database),
and the curve of a calibration is that of the folds' held-out parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openarctic.copilot.confidence import LEAD, Calibration, Linear, certainty, elect_by, fingerprint_of
from openarctic.copilot.features import AGAINST, CORE, FEATURES
from openarctic.copilot.vote import Candidate
from openarctic.errors import UserError
from openarctic.evals.curve import Judged, risk_coverage
from openarctic.evals.logistic import fit_choice, fit_logistic, folds
from openarctic.generator import Generator

PARTS = 8
PENALTY = 5.0
# The vote as it is without a calibration: the model's own probability, half of it for no rows.
VOTE = Linear(0.0, {"logprob": (0.0, 5.0, 5.0), "is_empty": (0.0, 1.0, math.log(0.5))})
LEAST = 20  # questions: with fewer, nothing can be fitted
LEAST_FOR_ALL = 120  # with fewer, only `features.CORE` are weighed


@dataclass(frozen=True, slots=True)
class Case:
    """One question that was asked: its candidates, which of them are right, and where it belongs (`part`: a database, say)."""

    part: str
    candidates: tuple[Candidate, ...]
    right: tuple[bool, ...]

    def is_right(self, winner: Candidate) -> bool:
        """Whether that candidate is."""
        return next(right for c, right in zip(self.candidates, self.right, strict=True) if c is winner)


def unfitted(model: Generator) -> Calibration:
    """What to ask with for a fit: the vote as it is, but every candidate and every feature that a calibration weighs."""
    weighed = {**VOTE.terms, "asked_logprob": (0.0, 1.0, 0.0)}
    return Calibration(
        model=model.name,
        fingerprint=fingerprint_of(model),
        questions=0,
        correct=Linear(VOTE.bias, weighed),
        sure=Linear(0.0, {}),
        curve=(),
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration, and how its method did on questions that were held out of the fit. `judged` has a pair for each case; a
    question without candidates counts as wrong, with confidence 0."""

    calibration: Calibration
    judged: tuple[Judged, ...]

    @property
    def accuracy(self) -> float:
        """Of all cases, elected by weights that were fitted without them."""
        return sum(right for _, right in self.judged) / len(self.judged)


def calibrate(
    cases: Sequence[Case], model: str, fingerprint: str, base: Calibration | None = None, alone: Sequence[Case] = ()
) -> Fit:
    """Fit on all of `cases`; measure by cross-validation. With `base`, its weights of candidates are kept, and only the
    probability of winners and the curve are made anew. `alone` are the same questions, asked for the greedy candidate only: where
    there are several databases, the weights of candidates are fitted on both, and serve whoever asks for few.

    Raises UserError for fewer than `LEAST` cases, or where all or none are right.
    """
    standing = [case for case in cases if case.candidates]
    if len(standing) < LEAST:
        raise UserError(f"{len(standing)} questions have candidates, a calibration needs at least {LEAST}", "add questions")
    names = list(FEATURES) if len(standing) >= LEAST_FOR_ALL else list(CORE)
    try:
        return _fitted(cases, standing, names, model, fingerprint, base, alone)
    except ValueError as error:
        raise UserError(
            f"nothing can be fitted: {error}", "take questions of which some are answered right, and some wrong"
        ) from error


def _fitted(
    cases: Sequence[Case],
    standing: list[Case],
    names: list[str],
    model: str,
    fingerprint: str,
    base: Calibration | None,
    alone: Sequence[Case],
) -> Fit:
    elected: list[tuple[dict[str, float], bool]] = [({}, False)] * len(standing)
    parts = [case.part for case in standing]
    if len(set(parts)) == 1:
        parts, alone = [str(i) for i in range(len(standing))], ()

    def correct_of(own: Sequence[Case]) -> Linear:
        there = {case.part for case in own}
        return base.correct if base is not None else fit_correct([*own, *(c for c in alone if c.part in there)], names)

    for fit_on, held in folds(parts, PARTS):
        correct = correct_of([standing[i] for i in fit_on])
        for i in held:
            election = elect_by(correct, standing[i].candidates)
            elected[i] = (certainty(election), standing[i].is_right(election.winner))
    confidences = [0.0] * len(standing)
    for fit_on, held in folds(parts, PARTS):
        sure = fit_sure([elected[i] for i in fit_on], names)
        for i in held:
            confidences[i] = sure.probability(elected[i][0])
    judged = [(confidence, right) for confidence, (_, right) in zip(confidences, elected, strict=True)]
    judged += [(0.0, False)] * (len(cases) - len(standing))
    calibration = Calibration(
        model=model,
        fingerprint=fingerprint,
        questions=len(cases),
        correct=correct_of(standing),
        sure=fit_sure(elected, names),
        curve=risk_coverage(judged),
    )
    return Fit(calibration, tuple(judged))


def fit_correct(cases: Sequence[Case], names: Sequence[str]) -> Linear:
    """Which of a question's candidates is right, by their features; `VOTE` where no question has a right one and a wrong one."""
    rows = [[(c.features, right) for c, right in zip(case.candidates, case.right, strict=True)] for case in cases]
    try:
        return fit_choice(rows, names, penalty=PENALTY, against=AGAINST)
    except ValueError:
        return VOTE


def fit_sure(elected: Sequence[tuple[dict[str, float], bool]], names: Sequence[str]) -> Linear:
    """Which winners are right, by their features and their leads."""
    rows, right = [row for row, _ in elected], [right for _, right in elected]
    return fit_logistic(rows, right, [*names, LEAD], penalty=PENALTY, against=AGAINST)
