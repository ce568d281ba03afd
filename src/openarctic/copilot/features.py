"""What speaks for and against a statement as the answer to a question: a few numbers that people can read.

The words of the question are compared with the names, texts and operations of the statement's tree, what it returned with the
shape that the question asks for (`asked.py`), and the model's own probability and agreement are added. Nothing is learned here:
`confidence.py` weighs these numbers. `FEATURES` tells what each means.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from openarctic.copilot.asked import Asked, read_question
from openarctic.copilot.execute import Result
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.linking.words import STOP_WORDS, name_stems, stem
from openarctic.copilot.schema import Schema
from openarctic.copilot.vote import Candidate, grouped, own_weights, similarity

FEATURES: dict[str, str] = {
    "logprob": "log probability of the statement, in the model's eyes",
    "mean_logprob": "the same, of a token",
    "asked_logprob": "log probability of the question, in the model's eyes, given the statement, of a token",
    "is_first": "it is what the model finds most probable, token by token",
    "is_variant": "the model wrote another statement, of which this one was made",
    "share": "part of the model's probability that led to this result",
    "agreement": "part of the samples that led to this result",
    "support": "how alike the other candidates' results are",
    "rivals": "number of different results",
    "words_explained": "part of the question's words that name something of the schema and are found in the statement",
    "coverage": "part of the question's words that names, synonyms and values of the schema explain",
    "outputs_said": "part of the names of the selected columns that the question says, the mean",
    "outputs_unsaid": "selected columns of whose name the question says nothing",
    "fixed_outputs": "selected columns that a condition makes equal to one text",
    "columns_said": "part of the names of the columns in conditions, groups and order that the question says, the mean",
    "better_columns": "how much more of the name of another column it says, the sum over columns",
    "owner": "a column's name stands in several tables: +1 where its table is said next to it, -1 where another is",
    "tables": "tables that are read",
    "tables_unsaid": "tables of whose name the question says nothing",
    "tables_missing": "tables that the question names and the statement does not read",
    "links_unused": "values that the question names and the statement does not",
    "links_misplaced": "values that are compared with a column that does not hold them",
    "texts_unsaid": "texts in the statement that the question does not say",
    "numbers_unused": "numbers in the question that are not in the statement",
    "numbers_unsaid": "numbers in the statement that are not in the question",
    "operations_missing": "operations that words of the question ask for and the statement lacks",
    "operations_unasked": "operations of the statement that no word asks for",
    "columns_gap": "how many columns more or fewer than the question names",
    "number_wanted": "one number is asked for: +1 where the result is one, -1 where it is not",
    "rows_wanted": "so many rows are asked for: +1 where the result has them, -1 where it has not",
    "is_empty": "no rows",
    "is_null": "nothing but NULL",
    "is_zero": "a single 0",
    "repeats": "part of the rows that stand in the result more than once",
    "nested": "queries inside the query, sides of UNION, INTERSECT and EXCEPT too",
    "schema_tables": "tables of the schema (log)",
    "question_words": "words of the question (log)",
}

# The features that speak against a candidate, the more the greater they are; the others speak for it. A fit that finds the
# opposite has found chance, or another feature that says the same.
AGAINST = frozenset(
    "is_variant rivals outputs_unsaid fixed_outputs better_columns tables tables_unsaid tables_missing links_unused "
    "links_misplaced texts_unsaid numbers_unused numbers_unsaid operations_missing operations_unasked columns_gap is_empty "
    "is_null is_zero repeats nested schema_tables question_words".split()
)
# What every model has, and no language or naming of a schema changes: for calibrations on few questions.
CORE = ("logprob", "mean_logprob", "share", "agreement", "support", "rivals", "is_empty", "is_null")

SELECT_WORDS = frozenset("show list give find return tell display what which who whose please want know using along".split())
PREFIX = 5
MAX_PLACES = 8  # of one word in a question
_WORD = re.compile(r"[A-Za-z][A-Za-z]*|\d+")


@dataclass(frozen=True, slots=True)
class Mention:
    """A column of the schema and which part of its name's words a question says; `at` is the place of the first one."""

    said: float
    at: int


class NameIndex:
    """The words of a schema's names. Made once for many questions."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.tables = {t.name.lower(): frozenset(name_stems(t.name)) for t in schema.tables}
        self.columns = {(t.name.lower(), c.name.lower()): frozenset(name_stems(c.name)) for t in schema.tables for c in t.columns}
        self.owners: dict[str, list[str]] = {}
        self._places: dict[str, set[tuple[str, str]]] = {}
        for (table, column), stems in self.columns.items():
            self.owners.setdefault(column, []).append(table)
            for each in stems:
                self._places.setdefault(_head(each), set()).add((table, column))

    def candidates(self, words: Iterable[str]) -> set[tuple[str, str]]:
        """Columns of whose names a word may speak."""
        return {place for word in words for place in self._places.get(_head(word), ())}


class Evidence:
    """What a question says of a schema, for and against statements: `describe` fills in the features of its candidates."""

    def __init__(self, text: str, names: NameIndex, links: Sequence[ValueLink] = (), coverage: float = 1.0) -> None:
        self.text, self.names, self.links, self.coverage = text, names, links, coverage
        self.asked: Asked = read_question(text)
        spoken = [m.group().lower() for m in _WORD.finditer(text)]
        self.positions: dict[str, list[int]] = {}
        for at, word in enumerate(spoken):
            places = self.positions.setdefault(stem(word), [])
            if len(places) < MAX_PLACES:
                places.append(at)
        self.num_words = len(spoken)
        in_values = {w for link in links for w in re.findall(r"[a-z]+", link.value.lower())}
        self.words = {
            stem(w) for w in spoken if w.isalpha() and len(w) > 1 and w not in (_FUNCTION_WORDS | SELECT_WORDS | in_values)
        }

    def says(self, stems: Iterable[str]) -> float:
        """Which part of a name's words is said."""
        stems = list(stems)
        return sum(self.place(s) is not None for s in stems) / len(stems) if stems else 0.0

    def places(self, stem_: str) -> list[int]:
        """Where a name's word is said, also in another form ("enrolled" for `enrollment`)."""
        if stem_ in self.positions or len(stem_) < PREFIX:
            return self.positions.get(stem_, [])
        return next((at for word, at in self.positions.items() if word[:PREFIX] == stem_[:PREFIX]), [])

    def place(self, stem_: str) -> int | None:
        """Where it is said first."""
        return next(iter(self.places(stem_)), None)

    def word_at(self, char: int) -> int:
        """The number of words before that character of the question: places are counted in words."""
        return sum(1 for _ in _WORD.finditer(self.text[:char]))

    def is_said(self, column: str, table: str = "") -> bool:
        """Whether the name of a column of that name (of that table, if given) is wholly said."""
        return any(m.said == 1 for (t, c), m in self.mentions.items() if c == column and table in ("", t))

    def said_once(self, column: str, table: str = "") -> int | None:
        """Where the name of such a column is said, its words side by side; None where it is not, or more than once."""
        names = {stems for (t, c), stems in self.names.columns.items() if c == column and table in ("", t)}
        spots = ((stems, at) for stems in names for each in stems for at in self.places(each))
        starts = {at for stems, at in spots if all(self._is_near(each, at, len(stems)) for each in stems)}
        return starts.pop() if len(starts) == 1 else None

    def _is_near(self, stem_: str, at: int, count: int) -> bool:
        """Whether a name's word is said among the `count` words from `at` on."""
        return any(at <= place < at + count for place in self.places(stem_))

    @cached_property
    def mentions(self) -> dict[tuple[str, str], Mention]:
        """The columns of whose names something is said."""
        found = {}
        for place in self.names.candidates(self.positions):
            stems = self.names.columns[place]
            at = [p for s in stems if (p := self.place(s)) is not None]
            if at:
                found[place] = Mention(len(at) / len(stems), min(at))
        return found

    @cached_property
    def explainable(self) -> set[str]:
        """Content words that name something of the schema."""
        heads = {_head(s) for stems in self.names.tables.values() for s in stems}
        heads |= {_head(s) for place in self.mentions for s in self.names.columns[place]}
        return {w for w in self.words if _head(w) in heads}

    def describe(self, candidates: Sequence[Candidate]) -> None:
        """Fill in the features of every candidate."""
        weights = own_weights(candidates)
        groups = grouped(candidates, weights)
        total, samples = sum(weights) or 1.0, sum(c.times for c in candidates) or 1
        for group in groups:
            agreement = sum(c.times for c in group.candidates) / samples
            support = sum(_alike(group.result, other.result) * other.weight for other in groups) / total
            for candidate in group.candidates:
                candidate.features = {
                    "logprob": max(candidate.logprob, -30.0),
                    **({"mean_logprob": candidate.logprob / candidate.tokens} if candidate.tokens else {}),
                    **({} if candidate.asked_logprob is None else {"asked_logprob": candidate.asked_logprob}),
                    "is_first": float(candidate.is_first),
                    "is_variant": float(candidate.is_variant),
                    "share": group.weight / total,
                    "agreement": agreement,
                    "support": support,
                    "rivals": math.log(len(groups)),
                    "coverage": self.coverage,
                    "schema_tables": math.log(len(self.names.tables) or 1),
                    "question_words": math.log(self.num_words or 1),
                }
                if candidate.checked.tree is not None:
                    candidate.features |= self._of_tree(candidate.checked.tree)
                if candidate.result is not None:
                    candidate.features |= self._of_result(candidate.result)

    def _of_tree(self, tree: exp.Expr) -> dict[str, float]:
        parts = _Parts(tree, self.names)
        outputs = [self.said(place) for place in parts.outputs]
        others = [self.said(place) for place in parts.conditions]
        used = list(dict.fromkeys([*parts.outputs, *parts.conditions]))
        table_said = {t: self.says(self.names.tables[t]) for t in self.names.tables}
        return {
            "words_explained": self._explained(parts),
            "outputs_said": _mean(outputs, 1.0),
            "outputs_unsaid": float(sum(said == 0 for said in outputs)),
            "fixed_outputs": float(len({place for _, place in parts.equal} & set(parts.outputs))),
            "columns_said": _mean(others, 1.0),
            "better_columns": sum(self._better(place) for place in used),
            "owner": float(max(-1, min(1, sum(self._owner(place) for place in used)))),
            "tables": float(len(parts.tables)),
            "tables_unsaid": float(sum(not table_said.get(t, 0) for t in parts.tables)),
            "tables_missing": float(sum(said == 1 and t not in parts.tables for t, said in table_said.items())),
            **self._of_values(parts),
            "operations_missing": float(len((self.asked.cues & _HELD) - parts.operations)),
            "operations_unasked": float(len((parts.operations & _HELD) - self.asked.cues)),
            "columns_gap": float(min(3, abs(parts.width - self.asked.columns))) if self.asked.columns and parts.width else 0.0,
            "nested": float(parts.nested),
        }

    def _of_values(self, parts: _Parts) -> dict[str, float]:
        texts = {text.lower().strip("%") for text, _ in parts.texts}
        low = self.text.lower()
        misplaced = 0
        for text, column in parts.texts:
            link = next((link for link in self.links if link.value.lower() == text.lower()), None)
            if link is not None and column is not None and column not in link.places:
                misplaced += 1
        stated = [n for n in self.asked.numbers if n != self.asked.rows]
        return {
            "links_unused": float(sum(link.value.lower() not in texts for link in self.links)),
            "links_misplaced": float(misplaced),
            "texts_unsaid": float(sum(bool(t) and t not in low and stem(t) not in self.positions for t in texts)),
            "numbers_unused": float(sum(n not in parts.numbers and str(int(n)) not in texts for n in stated)),
            "numbers_unsaid": float(sum(n not in self.asked.numbers and n not in (0, 1) for n in parts.numbers - parts.limits)),
        }

    def _of_result(self, result: Result) -> dict[str, float]:
        rows = result.rows
        is_single = len(rows) == 1 and len(rows[0]) == 1
        is_number = is_single and isinstance(rows[0][0], int | float)
        wanted = self.asked.rows
        return {
            "number_wanted": (1.0 if is_number else -1.0) if self.asked.is_number else 0.0,
            "rows_wanted": 0.0 if wanted is None else 1.0 if len(rows) == wanted else -1.0,
            "is_empty": float(not rows),
            "is_null": float(bool(rows) and all(v is None for row in rows for v in row)),
            "is_zero": float(is_number and rows[0][0] == 0),
            "repeats": 1 - len(Counter(map(repr, rows))) / len(rows) if rows else 0.0,
        }

    def named_columns(self, tables: Sequence[str]) -> list[tuple[str, str]]:
        """Columns of these tables whose whole names the question says, each table's own ones first, the longest names first."""
        found = [(place, mention) for place, mention in self.mentions.items() if place[0] in tables and mention.said == 1]
        ranked = sorted(found, key=lambda each: (-self._owner(each[0]), -len(self.names.columns[each[0]]), each[1].at, each[0]))
        return [place for place, _ in ranked if self._owner(place) >= 0]

    def said(self, place: tuple[str, str]) -> float:
        """Which part of a column's name is said; a column that only names its table's things is said with the table."""
        mention = self.mentions.get(place)
        said = mention.said if mention else 0.0
        if said < 1 and place[1] in _NAMING and not self._is_another_said(place):
            said = max(said, self.says(self.names.tables.get(place[0], ())))
        return said

    def _is_another_said(self, place: tuple[str, str]) -> bool:
        """Whether another column that names its table's things is said: of "the names of all tracks", tracks.id is no part."""
        others = (m for other, m in self.mentions.items() if other[0] == place[0] and other[1] in _NAMING and other != place)
        return any(mention.said == 1 for mention in others)

    def _better(self, place: tuple[str, str]) -> float:
        """How much more of another column's name is said, that shares a said word with this one."""
        own = self.names.columns.get(place, frozenset())
        said = {s for s in own if self.place(s) is not None}
        here = len(said) / len(own) if own else 0.0
        rivals = [m.said for other, m in self.mentions.items() if other != place and self.names.columns[other] & said]
        return max(0.0, max(rivals, default=0.0) - here)

    def _owner(self, place: tuple[str, str]) -> int:
        """Whether, of the tables that hold a column of that name, this one is said nearest to it."""
        table, column = place
        holders = self.names.owners.get(column, [])
        mention = self.mentions.get(place)
        if len(holders) < 2 or mention is None:
            return 0
        here = [p for s in self.names.columns[place] for p in self.places(s)]
        distances = {}
        for holder in holders:
            at = [p for s in self.names.tables[holder] for p in self.places(s)]
            if at:
                distances[holder] = (-self.says(self.names.tables[holder]), min(abs(p - q) for p in at for q in here))
        if not distances:
            return 0
        return 1 if table in distances and distances[table] == min(distances.values()) else -1

    def _explained(self, parts: _Parts) -> float:
        heads = {_head(s) for t in parts.tables for s in self.names.tables.get(t, ())}
        heads |= {_head(s) for place in parts.columns for s in self.names.columns.get(place, ())}
        heads |= {_head(stem(w)) for text, _ in parts.texts for w in re.findall(r"[a-z]+", text.lower())}
        wanted = self.explainable
        return sum(_head(w) in heads for w in wanted) / len(wanted) if wanted else 1.0


class _Parts:
    """What a statement is made of, columns as (table, column) in lower case."""

    def __init__(self, tree: exp.Expr, names: NameIndex) -> None:
        self._names = names
        self.tables = {t.name.lower() for t in tree.find_all(exp.Table)} & names.tables.keys()
        self.selects = list(tree.find_all(exp.Select))
        self.nested = len(self.selects) - 1
        self.columns: list[tuple[str, str]] = []
        self.outputs: list[tuple[str, str]] = []
        self.conditions: list[tuple[str, str]] = []
        self._aliases = {t.alias_or_name.lower(): t.name.lower() for t in tree.find_all(exp.Table)}
        first = self.selects[0] if self.selects else None
        outermost = {id(c) for e in (first.expressions if first is not None else ()) for c in e.find_all(exp.Column)}
        for column in tree.find_all(exp.Column):
            place = self._place(column)
            if place is None:
                continue
            self.columns.append(place)
            if id(column) in outermost:
                self.outputs.append(place)
            elif not _is_key(column):
                self.conditions.append(place)
        self.width = 0 if first is None or any(e.is_star for e in first.expressions) else len(first.expressions)
        self.limits = {n for limit in tree.find_all(exp.Limit) if (n := _number(limit.expression)) is not None}
        self.numbers = {n for literal in tree.find_all(exp.Literal) if (n := _number(literal)) is not None}
        self.texts = [(s.this, self._beside(s)) for s in tree.find_all(exp.Literal) if s.is_string]
        self.equal = [
            (text, place)
            for literal in tree.find_all(exp.Literal)
            if isinstance(literal.parent, exp.EQ)
            for text, place in [(literal.this, self._beside(literal))]
            if literal.is_string and place is not None
        ]
        self.operations = frozenset(_operations(tree))

    def _place(self, column: exp.Column) -> tuple[str, str] | None:
        name = column.name.lower()
        if column.table:
            table = self._aliases.get(column.table.lower(), column.table.lower())
            return (table, name) if (table, name) in self._names.columns else None
        owners = [t for t in self._names.owners.get(name, ()) if t in self.tables]
        select = column.find_ancestor(exp.Select)
        if len(owners) > 1 and select is not None:
            near = [t.name.lower() for t in select.find_all(exp.Table) if t.name.lower() in owners]
            owners = near or owners
        return (owners[0], name) if owners else None

    def _beside(self, literal: exp.Literal) -> tuple[str, str] | None:
        column = literal.parent.find(exp.Column) if literal.parent is not None else None
        return None if column is None else self._place(column)


def _operations(tree: exp.Expr) -> Iterable[str]:
    kinds = {
        "count": exp.Count,
        "average": exp.Avg,
        "sum": exp.Sum,
        "group": exp.Group,
        "distinct": exp.Distinct,
        "compare": (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between),
        "both": exp.Intersect,
        "pattern": exp.Like,
    }
    for name, kind in kinds.items():
        if tree.find(*kind if isinstance(kind, tuple) else (kind,)):
            yield name
    if tree.find(exp.Max, exp.Min) or tree.find(exp.Limit):
        yield "extreme"
    if any(order.parent is not None and not order.parent.args.get("limit") for order in tree.find_all(exp.Order)):
        yield "order"
    if tree.find(exp.Not, exp.NEQ, exp.Except):
        yield "negation"


# Operations that words ask for plainly enough to hold a statement to them.
_HELD = frozenset({"count", "average", "sum", "extreme", "order", "negation", "compare", "distinct", "group", "pattern"})
_NAMING = frozenset({"name", "title", "id", "label"})
_NAME_WORDS = frozenset("name names id number type date year day time code city country state".split())
_FUNCTION_WORDS = (STOP_WORDS - _NAME_WORDS) | frozenset(
    "can could would many these those i you us our them they he she been being also only such but if so into".split()
)


def _is_key(column: exp.Column) -> bool:
    """Whether it only joins."""
    equal = column.parent
    return isinstance(equal, exp.EQ) and isinstance(equal.this, exp.Column) and isinstance(equal.expression, exp.Column)


def _number(node: exp.Expr | None) -> float | None:
    if not isinstance(node, exp.Literal) or node.is_string:
        return None
    try:
        return float(node.this)
    except ValueError:
        return None


def _alike(left: Result | None, right: Result | None) -> float:
    if left is right:
        return 1.0
    return 0.0 if left is None or right is None else similarity(left.rows, right.rows)


def _head(word: str) -> str:
    return word[:PREFIX]


def _mean(values: Sequence[float], empty: float) -> float:
    return sum(values) / len(values) if values else empty
