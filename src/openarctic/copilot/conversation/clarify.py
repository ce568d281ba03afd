"""One question back, where two readings are near in weight and differ in their results: which of the two is meant?

The choices are said from the trees of the two statements, and only in what they differ. Where the words would be the same, or one
result is the other with columns left out, asking does not pay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.answers.phrases import Phrases, conjuncts, sources_of
from openarctic.copilot.conversation.mentions import WORD
from openarctic.copilot.linking.words import stem
from openarctic.copilot.wording import listed, words

NEAR = 0.5  # of the first reading's weight
_FIRST = re.compile(r"^\W*(?:1|a|one|first|the first|the former|option 1|number 1|1st)(?:\s+one)?\W*$", re.IGNORECASE)
_SECOND = re.compile(r"^\W*(?:2|b|two|second|the second|the latter|option 2|number 2|2nd)(?:\s+one)?\W*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """One reading: in words, and its SQL."""

    text: str
    sql: str


@dataclass(frozen=True, slots=True)
class Clarification:
    """`question` is the one that was asked; `choices` are two."""

    question: str
    choices: tuple[Choice, Choice]

    def text(self) -> str:
        """The question back."""
        return f"Do you mean 1) {self.choices[0].text} or 2) {self.choices[1].text}?"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "question": self.question,
            "text": self.text(),
            "choices": [{"text": choice.text, "sql": choice.sql} for choice in self.choices],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Clarification:
        """What `to_dict` gave."""
        first, second = (Choice(choice["text"], choice["sql"]) for choice in told["choices"])
        return cls(told["question"], (first, second))

    def chosen(self, reply: str) -> Choice | None:
        """The choice that a reply names: by number, or by words that only one of them has. None where it is something else."""
        if _FIRST.match(reply):
            return self.choices[0]
        if _SECOND.match(reply):
            return self.choices[1]
        said = _stems(reply)
        own, other = (_stems(choice.text) for choice in self.choices)
        first, second = len(said & (own - other)), len(said & (other - own))
        if first == second or not said <= own | other | _POLITE:
            return None
        return self.choices[0 if first > second else 1]


_POLITE = frozenset(
    {"the", "one", "with", "please", "i", "mean", "meant", "a", "of", "by", "that", "thi", "it", "option", "former", "yes"}
)


def _stems(text: str) -> set[str]:
    return {stem(w.group().lower()) for w in WORD.finditer(text)}


def clarify(question: str, readings: Sequence[tuple[str, float, Sequence[Sequence[Any]]]], dialect: str) -> Clarification | None:
    """Whether to ask back: `readings` are SQL, weight and rows of the results, the heaviest first."""
    if len(readings) < 2:
        return None
    (first, weight, rows), (second, other, other_rows) = readings[:2]
    if other < NEAR * weight or not rows or not other_rows:
        return None
    try:
        texts = differences(first, second, dialect)
    except (SqlglotError, RecursionError):
        return None
    if texts is None:
        return None
    return Clarification(question, (Choice(texts[0], first), Choice(texts[1], second)))


def differences(first: str, second: str, dialect: str) -> tuple[str, str] | None:
    """What either statement does and the other does not, in words; None where they cannot be told apart like this."""
    trees = [sqlglot.parse_one(sql, read=dialect) for sql in (first, second)]
    if not all(isinstance(tree, exp.Select) for tree in trees):
        return None
    parts = [_parts(tree, dialect) for tree in trees]
    if _only_columns_differ(parts[0], parts[1]):
        return None
    said: tuple[list[str], list[str]] = ([], [])
    for clause in parts[0]:
        ours, theirs = parts[0][clause], parts[1][clause]
        if ours == theirs:
            continue
        for mine, other, into in ((ours, theirs, said[0]), (theirs, ours, said[1])):
            own = [p for p in mine if p not in other]
            if own:
                into.append(_CLAUSES[clause].format(listed(own)))
            elif other:
                into.append(_WITHOUT[clause])
    if not said[0] or not said[1] or said[0] == said[1]:
        return None
    return ", ".join(said[0]), ", ".join(said[1])


_CLAUSES = {
    "shown": "showing {}",
    "sources": "from {}",
    "filters": "where {}",
    "groups": "for each {}",
    "having": "for groups where {}",
    "order": "ordered by {}",
    "limit": "the first {}",
    "distinct": "each {}",
}
_WITHOUT = {
    "shown": "with fewer columns",
    "sources": "without another table",
    "filters": "without that condition",
    "groups": "all together",
    "having": "for all groups",
    "order": "in any order",
    "limit": "all rows",
    "distinct": "with repeats",
}


def _parts(tree: exp.Expr, dialect: str) -> dict[str, list[str]]:
    phrases = Phrases(dialect)
    where, having, group, order, limit = (tree.args.get(k) for k in ("where", "having", "group", "order", "limit"))
    conditions = [c for c in conjuncts(where.this) if not _is_join(c)] if where is not None else []
    return {
        "shown": [phrases.say(e.unalias()) for e in tree.expressions],
        "sources": [words(s.name) if isinstance(s, exp.Table) else "a nested query" for s in sources_of(tree)],
        "filters": [phrases.say(c) for c in conditions],
        "groups": [phrases.say(e) for e in group.expressions] if group is not None else [],
        "having": [phrases.say(c) for c in conjuncts(having.this)] if having is not None else [],
        "order": [phrases.say(e) for e in order.expressions] if order is not None else [],
        "limit": [phrases.say(limit.expression)] if limit is not None and limit.expression is not None else [],
        "distinct": ["once"] if tree.args.get("distinct") else [],
    }


def _is_join(condition: exp.Expr) -> bool:
    return isinstance(condition, exp.EQ) and all(isinstance(s, exp.Column) for s in (condition.this, condition.expression))


def _only_columns_differ(first: dict[str, list[str]], second: dict[str, list[str]]) -> bool:
    """One shows what the other shows and more, or in another order: the answer stands in both."""
    if any(first[k] != second[k] for k in first if k != "shown"):
        return False
    ours, theirs = set(first["shown"]), set(second["shown"])
    return ours <= theirs or theirs <= ours
