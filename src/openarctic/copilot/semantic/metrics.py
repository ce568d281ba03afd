"""Questions that name a metric: what they measure, by what and of which rows, read without a model.

The words of a question are matched, longest first, with the names and synonyms of the semantic model and with linked cell values.
What is left must be words that only hold a question together; each other word lowers the certainty (`unread`). Where a name could
mean several fields, the ones that can be joined without counting rows twice count, and of these the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sqlglot import exp

from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.linking.words import stem
from openarctic.copilot.semantic.compose import Condition, Grain, Group, Measure, MetricQuery, compose, homes, measure
from openarctic.copilot.semantic.graph import RelationshipGraph
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.model import Fact, Field, Filter, Metric, SemanticTable, TimeDimension
from openarctic.copilot.semantic.words import find_words, is_number, normal_words
from openarctic.copilot.wording import MONTHS, singular
from openarctic.errors import UserError

MAX_UNREAD = 1
# Whoever does not understand these answers the opposite.
_NEGATIONS = frozenset(
    "not no without except excluding exclude excludes other than never none neither nor unlike besides but".split()
)

_GLUE = frozenset(
    "by per for each every in of on from with at to and or which who what whose has have had is are was were be the our we do "
    "does did how much many there all in during across split broken down grouped group whole over total overall only their its "
    "that value s please show list made make".split()
)
_DESCENDING = frozenset("top highest most largest biggest best greatest maximum".split())
_ASCENDING = frozenset("bottom lowest least smallest fewest worst minimum".split())
_AGGREGATES = {
    "total": exp.Sum, "sum": exp.Sum, "average": exp.Avg, "mean": exp.Avg, "avg": exp.Avg, "highest": exp.Max, "maximum": exp.Max,
    "lowest": exp.Min, "minimum": exp.Min,
}  # fmt: skip
_DEFAULTS: dict[str, type[exp.AggFunc]] = {
    "sum": exp.Sum, "avg": exp.Avg, "min": exp.Min, "max": exp.Max, "count": exp.Count, "median": exp.Median,
}  # fmt: skip
_GRAINS: dict[str, Grain] = {
    "day": "day", "daily": "day", "week": "week", "weekly": "week", "month": "month", "monthly": "month", "quarter": "quarter",
    "quarterly": "quarter", "year": "year", "yearly": "year", "annual": "year", "annually": "year",
}  # fmt: skip
_ADVERBS = frozenset("daily weekly monthly quarterly yearly annual annually".split())
_MONTHS = {name: i for i, name in enumerate(MONTHS, start=1)}
_GROUPING = frozenset("by per each every which what who".split())
_WHICH = frozenset("which what who".split())
_RANKS = frozenset("top bottom best worst".split())  # of what is grouped; the other order words are of what is measured
_BESIDE = frozenset("number of total sum average mean amount".split())


@dataclass(frozen=True, slots=True)
class MetricAnswer:
    """The SQL for a question that names a metric; `unread` are words that were not understood."""

    query: MetricQuery
    tree: exp.Query
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    """Something that a question may name."""

    kind: Literal["metric", "field", "filter", "table"]
    table: SemanticTable | None
    item: Metric | Field | Filter | None


@dataclass(slots=True)
class _Mention:
    """Words `start` to `end` of the question, and what they may mean."""

    start: int
    end: int
    terms: list[_Term] = field(default_factory=list)
    value: str = ""
    places: tuple[tuple[str, str], ...] = ()


class _UnclearError(Exception):
    """The question could mean several things, or nothing that can be composed."""


class MetricReader:
    """Reads questions with the terms of a layer's model. Build once, ask often."""

    def __init__(self, layer: SemanticLayer) -> None:
        self.layer = layer
        self.graph = RelationshipGraph(layer.model)
        self._terms: dict[tuple[str, ...], list[_Term]] = {}
        for phrase, term in _terms(layer):
            known = self._terms.setdefault(_stems(normal_words(phrase)), [])
            if term not in known:
                known.append(term)
        self._terms.pop((), None)
        self._longest = max(map(len, self._terms), default=0)

    def read(self, question: str, links: Sequence[ValueLink] = ()) -> MetricAnswer | None:
        """The SQL that answers the question, or None where it names no metric or cannot be told for certain what it means."""
        words = normal_words(question)
        try:
            reading = _Reading(self, words, self._mentions(words, links))
            query = reading.query()
            tree = compose(self.layer, query)
        except (_UnclearError, UserError):
            return None
        unread = reading.unread()
        is_certain_enough = len(unread) <= MAX_UNREAD and _NEGATIONS.isdisjoint(unread)
        return MetricAnswer(query, tree, unread) if is_certain_enough else None

    def _mentions(self, words: tuple[str, ...], links: Sequence[ValueLink]) -> list[_Mention]:
        stems = _stems(words)
        found: list[_Mention] = []
        taken: set[int] = set()
        for link in sorted(links, key=lambda link: -len(link.value)):
            part = normal_words(link.said or link.value)
            for start in find_words(words, part):
                if taken.isdisjoint(span := range(start, start + len(part))):
                    taken.update(span)
                    found.append(_Mention(start, start + len(part), value=link.value, places=link.places))
        for length in range(self._longest, 0, -1):
            for start in range(len(words) - length + 1):
                span = range(start, start + length)
                terms = self._terms.get(stems[start : start + length])
                if terms and taken.isdisjoint(span):
                    taken.update(span)
                    found.append(_Mention(start, start + length, list(terms)))
        return sorted(found, key=lambda m: m.start)


class _Reading:
    """One question, taken apart."""

    def __init__(self, reader: MetricReader, words: tuple[str, ...], mentions: list[_Mention]) -> None:
        self.layer, self.graph, self.words, self.mentions = reader.layer, reader.graph, words, mentions
        self.read = {i for m in mentions for i in range(m.start, m.end)}
        self.needs_groups = False
        self.measured_at: list[int] = []  # where the words begin that name what is measured
        self.named = {term.table.name for m in mentions for term in m.terms if term.kind == "table" and term.table}

    def unread(self) -> tuple[str, ...]:
        """Words that nobody understood."""
        return tuple(w for i, w in enumerate(self.words) if i not in self.read and w not in _GLUE)

    def query(self) -> MetricQuery:
        measures = self._measures()
        self.homes = homes(self.layer, measures)
        order, limit = self._order()
        shown = not (order and self.words[0] in _WHICH)  # "which customer has the highest revenue" asks for the customer
        conditions = [*self._value_conditions(), *self._filter_conditions(), *self._period()]
        groups = tuple(self._groups({c.table: c for c in conditions}))
        if not groups and (order or self.needs_groups):
            raise _UnclearError
        return MetricQuery(measures, groups, tuple(conditions), order, limit, shown)

    def _measures(self) -> tuple[Measure, ...]:
        found: dict[str, Measure] = {}
        for mention in self.mentions:
            metrics = [t for t in mention.terms if t.kind == "metric"]
            if len(metrics) > 1:
                metrics = [t for t in metrics if t.table and t.table.name in self.named] or metrics
            if len(metrics) == 1 and isinstance(metrics[0].item, Metric):
                found.setdefault(metrics[0].item.name, measure(self.layer, metrics[0].item, metrics[0].table))
                mention.terms = []
                self.measured_at.append(mention.start)
            elif metrics:
                raise _UnclearError
        if not found:
            found = {item.label: item for item in self._aggregated_facts()} or {item.label: item for item in self._counted()}
        if not found:
            raise _UnclearError
        return tuple(found.values())

    def _aggregated_facts(self) -> Iterator[Measure]:
        """A fact that the question sums up itself ("minimum and maximum price"), or, by groups, as it is summed up by default."""
        for mention in self.mentions:
            facts = [t for t in mention.terms if isinstance(t.item, Fact)]
            if len(facts) != 1 or facts[0].table is None or not isinstance(facts[0].item, Fact):
                continue
            table, fact = facts[0].table, facts[0].item
            functions = dict(self._said_before(mention.start))
            if not functions and fact.default_aggregation in _DEFAULTS:
                functions = {fact.default_aggregation: _DEFAULTS[fact.default_aggregation]}
                self.needs_groups = True
            for said, function in functions.items():
                mention.terms = []
                self.measured_at.append(mention.start)
                tree = function(this=self.layer.field(table, fact.name, table.name))
                yield Measure(f"{said}_{fact.name}", tree, table.name)

    def _said_before(self, start: int) -> list[tuple[str, type[exp.AggFunc]]]:
        """The aggregations that stand before a word, "and" between them."""
        found: list[tuple[str, type[exp.AggFunc]]] = []
        i = start - 1
        is_ranking = self.words[0] in ("which", "who")  # there, "highest" puts groups in order
        while i >= 0 and (self.words[i] in _AGGREGATES or (found and self.words[i] == "and")):
            if is_ranking and self.words[i] in _DESCENDING | _ASCENDING:
                break
            if self.words[i] in _AGGREGATES:
                found.append((self.words[i], _AGGREGATES[self.words[i]]))
                self.read.add(i)
            i -= 1
        return found[::-1]

    def _counted(self) -> Iterator[Measure]:
        """ "How many orders": the rows of the first table that is named, each of which has a key."""
        for lead in (("number", "of"), ("count", "of"), ("how", "many")):
            for start in find_words(self.words, lead):
                tables = [t for m in self.mentions if m.start >= start + 2 for t in m.terms if t.kind == "table"]
                if tables and tables[0].table is not None:
                    self.read |= {start, start + 1}
                    self.measured_at.append(start)
                    yield Measure(f"{tables[0].table.name}_count", exp.Count(this=exp.Star()), tables[0].table.name)
                return

    def _order(self) -> tuple[Literal["", "asc", "desc"], int | None]:
        order: Literal["", "asc", "desc"] = ""
        limit = None
        for i, word in enumerate(self.words):
            if i in self.read or word not in _DESCENDING | _ASCENDING:
                continue
            follows = next(
                (j for j in range(i + 1, len(self.words)) if self.words[j] not in _BESIDE or j in self.measured_at), -1
            )
            is_of_measure = word in _RANKS or follows in self.measured_at
            if order or not is_of_measure or (i and self.words[i - 1] == "at"):
                raise _UnclearError
            order = "desc" if word in _DESCENDING else "asc"
            self.read.add(i)
        if not order:
            return order, None
        numbers = [i for i, word in enumerate(self.words) if i not in self.read and is_number(word) and "." not in word]
        numbers = [i for i in numbers if not _is_year(self.words, i)]
        if len(numbers) > 1:
            raise _UnclearError
        if numbers:
            limit = int(self.words[numbers[0]])
            self.read.add(numbers[0])
        elif not {"have", "are", "had", "were"} & set(self.words):
            limit = 1
        return order, limit

    def _value_conditions(self) -> Iterator[Condition]:
        chosen: dict[tuple[str, str], list[str]] = {}
        for mention in self.mentions:
            if mention.value:
                candidates = [
                    _Term("field", table, item)
                    for table in self.layer.model.tables
                    for item in table.fields
                    if not item.is_private and self._place(table, item) in mention.places
                ]
                term = self._choose(candidates, mention)
                assert term.table is not None and term.item is not None
                chosen.setdefault((term.table.name, term.item.name), []).append(mention.value)
        for (table, name), values in chosen.items():
            logical = self.layer.model.table(table)
            assert logical is not None
            column = self.layer.field(logical, name, table)
            texts: list[exp.Expr] = [exp.Literal.string(value) for value in dict.fromkeys(values)]
            tree = exp.EQ(this=column, expression=texts[0]) if len(texts) == 1 else exp.In(this=column, expressions=texts)
            yield Condition(table, tree)
            self._absorb(table, name)

    def _place(self, table: SemanticTable, item: Field) -> tuple[str, str]:
        base, column = self.layer.base_of(table), self.layer.column(table, item)
        return (base.name.lower() if base else "", (column or "").lower())

    def _absorb(self, table: str, name: str) -> None:
        """ "category Tents": the field's name beside its value groups nothing, unless something says that it does."""
        for mention in self.mentions:
            fits = any(t.table and t.table.name == table and t.item and t.item.name == name for t in mention.terms)
            if fits and not self._is_grouping(mention):
                mention.terms = []

    def _filter_conditions(self) -> Iterator[Condition]:
        for mention in self.mentions:
            filters = [t for t in mention.terms if t.kind == "filter"]
            if filters:
                term = self._choose(filters, mention)
                assert term.table is not None and isinstance(term.item, Filter)
                yield Condition(term.table.name, self.layer.condition(term.item, term.table))
                mention.terms = []

    def _period(self) -> Iterator[Condition]:
        """ "in 2023", "in March 2023": from its first day until before the day after its last."""
        for i, word in enumerate(self.words):
            if i in self.read or not _is_year(self.words, i):
                continue
            year, month = int(word), _MONTHS.get(self.words[i - 1], 0)
            first = f"{year}-{month or 1:02}-01"
            after = f"{year + 1}-01-01" if month in (0, 12) else f"{year}-{month + 1:02}-01"
            self.read |= {i, i - 1}
            table, item = self._time()
            column = self.layer.field(table, item.name, table.name)
            begins = exp.GTE(this=column, expression=exp.Literal.string(first))
            ends = exp.LT(this=column.copy(), expression=exp.Literal.string(after))
            yield Condition(table.name, exp.and_(begins, ends, copy=False))

    def _time(self) -> tuple[SemanticTable, TimeDimension]:
        """The time dimension that the question names, else the nearest of the rows that are measured."""
        named = [t for m in self.mentions for t in m.terms if isinstance(t.item, TimeDimension)]
        every = [_Term("field", t, item) for t in self.layer.model.tables for item in t.time_dimensions if not item.is_private]
        term = self._choose(named or every, None)
        assert term.table is not None and isinstance(term.item, TimeDimension)
        return term.table, term.item

    def _groups(self, conditions: dict[str, Condition]) -> Iterator[Group]:
        for i, word in enumerate(self.words):
            grouping = word in _ADVERBS or (word in _GRAINS and i > 0 and self.words[i - 1] in ("by", "per", "each", "every"))
            if i not in self.read and grouping:
                self.read.add(i)
                table, item = self._time()
                for mention in self.mentions:  # "by month of the order date"
                    mention.terms = [t for t in mention.terms if t.item is not item]
                yield Group(table.name, item.name, _GRAINS[word])
        for mention in self.mentions:
            if not mention.terms:
                continue
            fields = [t for t in mention.terms if t.kind == "field"]
            if self._is_grouping(mention):
                term = self._choose(fields or [_naming(t) for t in mention.terms if t.kind == "table"], mention)
                assert term.table is not None and term.item is not None
                yield Group(term.table.name, term.item.name)
            elif not self._is_beside_what_is_known(mention, conditions):
                self.read -= set(range(mention.start, mention.end))

    def _is_grouping(self, mention: _Mention) -> bool:
        """Whether "by", "per", "which", "top 5" or another group and "and" stand before it."""
        i = mention.start - 1
        while i >= 0 and (self.words[i] in ("the", "of", "for") or is_number(self.words[i])):
            i -= 1
        if i < 0:
            return False
        if self.words[i] == "and":
            return any(m.end == i and m.terms and self._is_grouping(m) for m in self.mentions)
        is_first = i == 0 or self.words[i - 1] in _GLUE
        return self.words[i] in _GROUPING or (self.words[i] in _RANKS and is_first)

    def _is_beside_what_is_known(self, mention: _Mention, conditions: dict[str, Condition]) -> bool:
        """A table's name adds nothing where its rows are measured or filtered anyway, or lead from the one to the other."""
        tables = {t.table.name for t in mention.terms if t.kind == "table" and t.table}
        passed = {step.there for home in self.homes for table in conditions for step in self.graph.path(home, table)}
        return bool(tables & {*self.homes, *passed})

    def _choose(self, terms: Iterable[_Term], mention: _Mention | None) -> _Term:
        """The one that can be joined to what is measured; of several, the one whose table is named, else the nearest."""
        reachable = [t for t in terms if t.table and all(t.table.name in self.graph.reachable(home) for home in self.homes)]
        named = [t for t in reachable if t.table and t.table.name in self.named]
        ranked = sorted((self._distance(t), i) for i, t in enumerate(named or reachable))
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            raise _UnclearError
        return (named or reachable)[ranked[0][1]]

    def _distance(self, term: _Term) -> int:
        assert term.table is not None
        return sum(len(self.graph.path(home, term.table.name)) for home in self.homes)


def _terms(layer: SemanticLayer) -> Iterator[tuple[str, _Term]]:
    for metric in layer.model.metrics:
        if not metric.is_private:
            yield from ((phrase, _Term("metric", None, metric)) for phrase in metric.terms)
    for table in layer.model.tables:
        yield from ((phrase, _Term("table", table, None)) for phrase in table.terms)
        for measured in table.metrics:
            if not measured.is_private:
                yield from ((phrase, _Term("metric", table, measured)) for phrase in measured.terms)
        for condition in table.filters:
            yield from ((phrase, _Term("filter", table, condition)) for phrase in condition.terms)
        for item in table.fields:
            if not item.is_private:
                term = _Term("field", table, item)
                yield from ((phrase, term) for phrase in item.terms)
                for of in table.terms:
                    yield from ((f"{of} {phrase}", term) for phrase in item.terms)
                    yield from ((f"{phrase} of {of}", term) for phrase in item.terms)


def _stems(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(stem(word) for word in words)


def _is_year(words: tuple[str, ...], i: int) -> bool:
    before = words[i - 1] if i else ""
    is_named = before in ("in", "during", "for", "of", "year") or before in _MONTHS
    return words[i].isdigit() and 1900 <= int(words[i]) <= 2100 and is_named


def _naming(term: _Term) -> _Term:
    """A table to group by means the field that names its rows, else its key."""
    assert term.table is not None
    table = term.table
    own = singular(table.name.lower())
    names = ("name", f"{own}_name", own, "title", "full_name", *((table.primary_key.columns if table.primary_key else ())[:1]))
    found = next((f for name in names if (f := table.field(name)) and not f.is_private), None)
    if found is None:
        raise _UnclearError
    return replace(term, kind="field", item=found)
