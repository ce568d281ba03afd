"""How sure is an answer? Candidates weighed by their features, the probability that the winner is right, and when to be silent.

A `Calibration` is a small file of numbers, fitted once for a model on questions whose answers are known (`openarctic eval
calibrate`, `openarctic eval mine`). Its first half weighs the candidates of a question against each other, by their
`features.FEATURES`. Its second half, a logistic regression, turns the election into a probability, and the file holds what errors
were made at which coverage when the least certain answers were held back. Without one for the model that answers, the model's own
probabilities elect, and the confidence only orders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from openarctic.copilot.features import Evidence, NameIndex
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.schema import Schema
from openarctic.copilot.vote import Candidate, Election, elect
from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.generator import Generator

BUNDLED = "arctic-nano.calibration.json"
FORMAT = 1
LEAD = "lead"  # of `certainty`
FARTHEST = 4.0  # standard deviations: a feature that is farther out counts as this far


@dataclass(frozen=True, slots=True)
class Linear:
    """A logistic regression over named numbers: log odds = bias + sum of weight x (value - mean) / scale. What is not known, or
    not in `terms`, counts as average."""

    bias: float
    terms: Mapping[str, tuple[float, float, float]]  # name: (mean, scale, weight)

    def log_odds(self, values: Mapping[str, float]) -> float:
        """Of the event, in natural logarithms."""
        total = self.bias
        for name, (mean, scale, weight) in self.terms.items():
            if name in values:
                total += weight * max(-FARTHEST, min(FARTHEST, (values[name] - mean) / scale))
        return total

    def probability(self, values: Mapping[str, float]) -> float:
        """Of the event."""
        return logistic(self.log_odds(values))


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Answering only at `confidence` or more: the share of questions answered, and the share of these that are wrong."""

    confidence: float
    coverage: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `openarctic eval calibrate` found for one model. `correct` is about the candidates of a question, one against the
    other, `sure` about the winners of elections (`certainty`); `curve` falls in coverage. `fingerprint` tells the very model;
    empty where a server keeps it."""

    model: str
    fingerprint: str
    questions: int
    correct: Linear
    sure: Linear
    curve: tuple[CurvePoint, ...]

    def threshold(self, max_error: float) -> float | None:
        """The least confidence at which at most `max_error` of the answered were wrong; None where no confidence was enough."""
        good = [point for point in self.curve if point.error <= max_error]
        return max(good, key=lambda point: point.coverage).confidence if good else None

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def logistic(log_odds: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    power = math.exp(log_odds)
    return power / (1 + power)


def elect_by(correct: Linear, candidates: Sequence[Candidate]) -> Election:
    """The result whose candidates are the most likely right, taken together. Sets their scores, from their features: each is the
    probability that this one is right, if one is."""
    odds = [correct.log_odds(candidate.features) for candidate in candidates]
    total = sum(math.exp(each - max(odds)) for each in odds)
    for candidate, each in zip(candidates, odds, strict=True):
        candidate.score = math.exp(each - max(odds)) / total
    return elect(candidates, lambda all: [c.score for c in all])


def certainty(election: Election) -> dict[str, float]:
    """What the probability of the winner is read from: its features, and how far it leads (log odds of its share)."""
    share = min(max(election.share, 1e-3), 1 - 1e-3)
    return {**election.winner.features, LEAD: math.log(share / (1 - share))}


def read_calibration(path: Path) -> Calibration:
    """A calibration's file. Raises MissingError, or CorruptError for what is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingError(f"no calibration file at {path}", "openarctic eval mine --out FILE writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path} cannot be read as a calibration: {error}") from error
    return parse_calibration(text, str(path))


def parse_calibration(text: str, name: str) -> Calibration:
    """The calibration that a file's text tells. Raises CorruptError, naming the file."""
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise UserError(f"{name} has format {told['format']}, this version reads {FORMAT}", "make it anew")
        made = Calibration(
            model=str(told["model"]),
            fingerprint=str(told["fingerprint"]),
            questions=int(told["questions"]),
            correct=_linear(told["correct"]),
            sure=_linear(told["sure"]),
            curve=tuple(CurvePoint(*(float(point[k]) for k in ("confidence", "coverage", "error"))) for point in told["curve"]),
        )
    except OpenArcticError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{name} is no calibration: {error!r}", "openarctic eval calibrate writes one") from error
    return made


def _linear(told: Any) -> Linear:
    terms = {str(name): (float(mean), float(scale), float(weight)) for name, (mean, scale, weight) in told["terms"].items()}
    numbers = [float(told["bias"]), *(value for term in terms.values() for value in term)]
    if not all(map(math.isfinite, numbers)) or not all(scale > 0 for _, scale, _ in terms.values()):
        raise ValueError("a number is not finite, or a scale is not above 0")
    return Linear(float(told["bias"]), terms)


def bundled_calibration() -> Calibration | None:
    """That of the bundled model, where the package has one."""
    asset = files("openarctic") / "assets" / BUNDLED
    return parse_calibration(asset.read_text(encoding="utf-8"), BUNDLED) if asset.is_file() else None


def fingerprint_of(model: Any) -> str:
    """What tells this model's very weights; empty where it is not known."""
    return str(getattr(model, "fingerprint", ""))


class Judge:
    """Elects among the candidates for questions about one schema. `calibration` must be of this model; without one the bundled is
    taken, if it is. Raises what `read_calibration` raises, and UserError for a calibration of another model."""

    def __init__(self, schema: Schema, model: Generator, calibration: str | Path | Calibration | None = None) -> None:
        if isinstance(calibration, str | Path):
            calibration = read_calibration(Path(calibration))
        if calibration is not None and not fits(calibration, model):
            raise UserError(
                f"the calibration is of {calibration.model} ({calibration.fingerprint[:12] or 'no fingerprint'}), "
                f"not of {model.name} ({fingerprint_of(model)[:12] or 'no fingerprint'})",
                "make one for this model: openarctic eval mine",
            )
        if calibration is None and (bundled := bundled_calibration()) is not None and fits(bundled, model):
            calibration = bundled
        self.calibration = calibration
        self._schema = schema
        self._is_medoid = getattr(model, "target_form", "sql") is None  # it writes long and different statements
        self._names: NameIndex | None = None

    def evidence(self, question: str, links: Sequence[ValueLink] = (), coverage: float = 1.0) -> Evidence:
        """What the question says of the schema. `coverage` is the share of its words that the schema explains
        (`Links.coverage`)."""
        if self._names is None:
            self._names = NameIndex(self._schema)
        return Evidence(question, self._names, links, coverage)

    def elect(self, evidence: Evidence, candidates: Sequence[Candidate], use_scorer: bool = True) -> Election:
        """The winner and how sure it is. Fills in the candidates' features and scores."""
        evidence.describe(candidates)
        calibration = self.calibration
        if calibration is None or not use_scorer:
            election = elect(candidates, is_medoid=self._is_medoid)
            winner = election.winner
            election.confidence = election.share * _softened(winner)
            return election
        election = elect_by(calibration.correct, candidates)
        election.confidence = calibration.sure.probability(certainty(election))
        election.is_calibrated = True
        return election

    def is_sure(self, election: Election, max_error: float) -> bool:
        """Whether, answering at this confidence and above, at most `max_error` of the answers are expected to be wrong."""
        if election.is_calibrated and election.confidence == 1:
            return True  # verified: no model wrote it
        threshold = self.required().threshold(max_error)
        return threshold is not None and election.confidence >= threshold

    def doubt(self, election: Election, max_error: float) -> str:
        """What is said instead of an answer."""
        threshold = self.required().threshold(max_error)
        wanted = "no confidence is known to be enough" if threshold is None else f"at least {threshold:.2f} is needed"
        return (
            f"I am not sure enough: my confidence is {election.confidence:.2f}, and for at most {100 * max_error:g} % of wrong "
            f"answers {wanted}. The SQL that I would have run is shown; `openarctic query` runs it, and a higher --max-error "
            "shows its result."
        )

    def required(self) -> Calibration:
        """The calibration that a wanted error rate needs. Raises UserError without one."""
        if self.calibration is None:
            raise UserError(
                "a wanted error rate needs a calibration, and there is none for this model",
                "openarctic eval mine makes one from your own questions; give it with --calibration FILE",
            )
        return self.calibration


def fits(calibration: Calibration, model: Generator) -> bool:
    """Whether it was made for this model: the same name, and the same weights where those are known."""
    return calibration.model == model.name and calibration.fingerprint == fingerprint_of(model)


def _softened(candidate: Candidate) -> float:
    """The model's own probability of the statement, softened by a square root: statements are long."""
    return math.exp(min(0.0, candidate.logprob) / 2)
