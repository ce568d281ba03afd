"""A user's own questions over their own database: how often is the answer right, and how well does confidence tell?

The question file is YAML, a list of `question` and `sql` (the query whose rows are right). Both are asked through the same door:
gold queries pass the guard and run under the same limits as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.confidence import Calibration, fingerprint_of
from openarctic.copilot.execute import Result
from openarctic.copilot.yaml_file import read_yaml
from openarctic.errors import OpenArcticError, UserError
from openarctic.evals.calibrate import Fit, calibrate
from openarctic.evals.curve import SHOWN, Judged, accuracy_at, area, calibration_error, curve_rows
from openarctic.evals.spider import Outcome, Question, Rows, outcomes


@dataclass(frozen=True, slots=True)
class Mined:
    """What became of the questions, and the calibration that they make (`fit` None: too few, or all alike; `why` says it).

    Confidences are those of the cross-validated fit, where there is one, else those of the answers as they were given.
    """

    outcomes: tuple[Outcome, ...]
    fit: Fit | None
    why: str = ""

    @property
    def judged(self) -> tuple[Judged, ...]:
        """A pair for each question."""
        return self.fit.judged if self.fit is not None else tuple(o.judged for o in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, and the curve at round coverages."""
        judged = self.judged
        accuracy = sum(right for _, right in judged) / len(judged)
        return {
            "total": len(self.outcomes),
            "correct": sum(o.kind == "correct" for o in self.outcomes),
            "accuracy": round(accuracy, 4),
            "surest_70_accuracy": round(accuracy_at(SHOWN, judged), 4),
            "mean_error_of_all_coverages": round(area(judged), 4),
            "calibration_error": round(calibration_error(judged), 4),
            "calibrated": self.fit is not None,
            "why_not": self.why or None,
            "curve": [
                {"coverage": c, "answered": n, "accuracy": round(a, 4), "confidence": round(least, 4)}
                for c, n, a, least in curve_rows(judged)
            ],
        }

    def wrong(self) -> list[tuple[str, str, str]]:
        """(question, SQL, expected SQL) of the wrong answers, the surest first."""
        failed = [o for o in self.outcomes if o.kind != "correct"]
        return [(o.question.text, o.sql or "", o.question.gold) for o in sorted(failed, key=lambda o: -o.confidence)]


def read_mine(path: Path) -> list[Question]:
    """The questions of a YAML file. Raises what `read_yaml` raises, and UserError naming line and key."""
    root = read_yaml(path)
    questions = []
    for entry in root.items():
        fields = entry.fields()
        questions.append(Question(fields.require("question").name(), fields.require("sql").name(), entry.path))
        if unknown := fields.rest():
            key, value = next(iter(unknown.items()))
            raise value.error(f"{key!r} is not known here", "an entry has question and sql")
    if not questions:
        raise UserError(f"{path} has no questions", "wanted: a list of question and sql")
    return questions


def mine(
    questions: Sequence[Question],
    copilot: Copilot,
    options: AskOptions,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    base: Calibration | None = None,
) -> Mined:
    """Ask every question and fit a calibration for this model on them; `base` is kept as far as it says which candidates are
    right. Raises UserError, naming the question, for a gold query that cannot be run here.
    """
    golds = {question.gold: _gold(question, copilot, options) for question in questions}

    def rows_of(sql: str) -> Rows | None:
        return golds[sql].rows

    found = []
    for outcome, _ in outcomes(questions, copilot, rows_of, options):
        found.append(outcome)
        progress(outcome)
    try:
        fit = calibrate([o.case for o in found], copilot.model.name, fingerprint_of(copilot.model), base)
    except UserError as error:
        return Mined(tuple(found), None, error.message)
    return Mined(tuple(found), fit)


def _gold(question: Question, copilot: Copilot, options: AskOptions) -> Result:
    try:
        checked = copilot.access.check(question.gold)
        return copilot.worker.execute(checked, limit=options.limit, timeout_s=options.timeout_s)
    except OpenArcticError as error:
        raise UserError(f"the query of {question.text!r} cannot be run: {error.message}", error.hint) from error
