"""What a semantic model says to a question before any model is asked: a verified query, one changed for other values, a metric.

Everything proposed has passed the access's check, so it is SQL that this principal may run; a verified query that they may not
run is not shown to them either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlglot import exp

from openarctic.copilot.guard import Checked
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.semantic.adapt import adapted
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.metrics import MetricReader
from openarctic.copilot.semantic.verified import Match
from openarctic.errors import OpenArcticError, RefusedError

UNREAD_LOGPROB = -3.0  # of a metric's query, for each word of the question that it does not account for


@dataclass(frozen=True, slots=True)
class Candidate:
    """A statement, and how probable it is (log) that it answers the question: 0 where that is proved or fully read."""

    checked: Checked
    logprob: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """`verified` answers the question as it is; `adapted` and `metric` are candidates among others; `match` is what to show."""

    match: Match | None = None
    verified: Checked | None = None
    adapted: Candidate | None = None
    metric: Candidate | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that compete with what a model writes."""
        return tuple(c for c in (self.adapted, self.metric) if c is not None)

    def shown(self, sql: str) -> dict[str, Any] | None:
        """The verified query beside an answer; `used` tells whether `sql`, the statement of the answer, is its own."""
        if self.match is None:
            return None
        own = [c.shown for c in (self.verified, self.adapted.checked if self.adapted else None) if c is not None]
        query = self.match.query
        return {
            "name": query.name,
            "question": query.question,
            "verified_by": query.verified_by,
            "verified_on": query.verified_on,
            "badge": query.badge,
            "exact": self.match.exact,
            "score": self.match.score,
            "used": sql in own,
        }


class Proposer:
    """Asks a semantic layer. `check` is the door that every statement passes."""

    def __init__(self, layer: SemanticLayer, check: Callable[[str], Checked]) -> None:
        self.layer, self._check = layer, check

    @cached_property
    def _metrics(self) -> MetricReader:
        return MetricReader(self.layer)

    def physical(self, sql: str) -> str:
        """SQL over logical names in the database's own. Raises UserError as `SemanticLayer.physical`."""
        return self.layer.physical(sql).sql(dialect=self.layer.dialect)

    def propose(self, question: str) -> Proposal:
        """Raises RefusedError (`not_permitted`) where the question is verified, and may not be answered to this principal."""
        match = self.layer.verified.find(question)
        metric = self._metric(question, self.layer.links(question))
        if match is None:
            return Proposal(metric=metric)
        try:
            tree = self.layer.physical(match.query.sql)
            checked = self._passed(tree)
        except RefusedError as error:
            if error.type == "not_permitted" and match.exact:
                raise
            return Proposal(metric=metric)
        except OpenArcticError:
            return Proposal(metric=metric)  # `openarctic semantic lint` tells why
        if match.exact:
            return Proposal(match, verified=checked)
        changed = adapted(tree, match.changes, self.layer.base) if match.changes else None
        return Proposal(match, adapted=self._candidate(changed, 0.0), metric=metric)

    def _metric(self, question: str, links: Sequence[ValueLink]) -> Candidate | None:
        answer = self._metrics.read(question, links)
        return None if answer is None else self._candidate(answer.tree, UNREAD_LOGPROB * len(answer.unread))

    def _candidate(self, tree: exp.Query | None, logprob: float) -> Candidate | None:
        try:
            return None if tree is None else Candidate(self._passed(tree), logprob)
        except OpenArcticError:
            return None

    def _passed(self, tree: exp.Query) -> Checked:
        return self._check(tree.sql(dialect=self.layer.dialect))
