"""A first semantic model of a database, for people to go on from. No model is asked, and the same database gives the same draft.

Roles come from types, keys, names and how values spread: what tells rows apart or falls into few kinds is a dimension, what says
when is a time dimension, what can be added up or averaged is a fact. Relationships come from declared keys, and from columns
whose values stand in a unique column of another table. Columns that seem to be about persons get no sample values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from openarctic.copilot.joins import identifier
from openarctic.copilot.linking.words import phrase_of, stem, words_and_full_words, words_of
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.semantic import model as m
from openarctic.copilot.semantic.naming import looks_personal, synonyms_of
from openarctic.copilot.semantic.probe import Overlap, Probe, Spread
from openarctic.copilot.wording import singular

MAX_SAMPLES = 5
MAX_ENUM = 12
MAX_SAMPLE_CHARS = 40
MIN_OVERLAP = 0.95  # of the different values
MIN_TEXT_VALUES = 5  # of a text column whose name says nothing
MAX_PAIRS = 400  # of columns to compare

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?")
_TIME_WORDS = frozenset("date time day timestamp datetime at on when created updated modified since until".split())
_ID_WORDS = frozenset("id key code uuid guid sku isbn zip postcode postal phone fax number no nr hash version".split())
_KIND_WORDS = frozenset(
    "year month week quarter latitude longitude lat lon lng level rank status flag type position grade class floor".split()
)
_AVERAGED = frozenset(
    "price rate ratio percent percentage share age score rating average temperature height weight length width speed size salary "
    "wage gpa margin discount minimum maximum capacity duration".split()
)


class Evidence(NamedTuple):
    """Why a relationship was drafted: a declared key, or values of one column that stand in the other."""

    relationship: str
    left: str
    right: str
    overlap: Overlap | None


class Draft(NamedTuple):
    """The drafted model, and why its relationships are in it."""

    model: m.SemanticModel
    evidence: tuple[Evidence, ...]


def draft_model(schema: Schema, name: str, probe: Probe | None = None, values: bool = True) -> Draft:
    """The draft; without a `probe` from names, types and keys alone. `values` False puts no sample values in."""
    return _Drafter(schema, name, probe, values).draft()


class _Drafter:
    def __init__(self, schema: Schema, name: str, probe: Probe | None, values: bool) -> None:
        self.schema, self.name, self.probe, self.values = schema, name, probe, values
        self.spreads = {t.name: probe.spreads(t) if probe else {} for t in schema.tables}
        self.evidence: list[Evidence] = []
        self._taken: Counter[str] = Counter()

    def draft(self) -> Draft:
        relationships = tuple(self._relationships())
        keys = {(r.left_table, pair.left_column) for r in relationships for pair in r.relationship_columns}
        keys |= {(r.right_table, pair.right_column) for r in relationships for pair in r.relationship_columns}
        tables = [self._table(table, keys) for table in self.schema.tables]
        model = m.SemanticModel(name=self.name, tables=tuple(_with_own_synonyms(tables)), relationships=relationships)
        return Draft(model, tuple(self.evidence))

    def _table(self, table: Table, keys: set[tuple[str, str]]) -> m.SemanticTable:
        columns = [self._column(table, column, (table.name, column.name) in keys) for column in table.columns]
        facts = tuple(c for c in columns if isinstance(c, m.Fact))
        default = "public" if self.schema.dialect == "postgres" else "main"
        return m.SemanticTable(
            name=table.name,
            synonyms=synonyms_of(table.name, table.comment),
            description=table.comment,
            base_table=m.BaseTable(database=self.name, schema=self.schema.namespace or default, table=table.name),
            primary_key=m.Key(columns=table.primary_key) if table.primary_key else None,
            dimensions=tuple(c for c in columns if isinstance(c, m.Dimension)),
            time_dimensions=tuple(c for c in columns if isinstance(c, m.TimeDimension)),
            facts=facts,
            metrics=tuple(self._metrics(table, facts)),
        )

    def _column(self, table: Table, column: Column, is_key: bool) -> m.Field:
        spread = self.spreads[table.name].get(column.name)
        is_unique = table.primary_key == (column.name,) or (spread is not None and spread.is_unique)
        role = self._role(table, column, is_key or column.name in table.primary_key, spread)
        samples, is_whole = self._samples(table, column, role, spread)
        about: dict[str, Any] = {
            "name": column.name,
            "synonyms": synonyms_of(column.name, column.comment),
            "description": column.comment,
            "expr": _quoted(column.name),
            "data_type": column.type,
            "sample_values": samples,
        }
        if role is m.Fact:
            return m.Fact(**about, default_aggregation=_aggregation(column.name))
        return role(**about, unique=is_unique, is_enum=is_whole)

    def _role(self, table: Table, column: Column, is_key: bool, spread: Spread | None) -> type[m.Field]:
        kind = column.type.upper()
        if "DATE" in kind or "TIMESTAMP" in kind:
            return m.TimeDimension
        words = words_and_full_words(column.name)
        if not column.is_numeric:
            return m.TimeDimension if words & _TIME_WORDS and self._holds_dates(table, column) else m.Dimension
        is_flag = spread is not None and spread.distinct <= 2 and spread.rows > 2
        is_named_kind = bool(words & (_ID_WORDS | _KIND_WORDS))
        return m.Dimension if is_key or is_flag or is_named_kind or "BOOL" in kind else m.Fact

    def _holds_dates(self, table: Table, column: Column) -> bool:
        found = self.probe.frequent(table.name, column.name, MAX_SAMPLES) if self.probe else []
        return bool(found) and all(isinstance(value, str) and _ISO.fullmatch(value) for value in found)

    def _samples(self, table: Table, column: Column, role: type[m.Field], spread: Spread | None) -> tuple[tuple[str, ...], bool]:
        """Sample values, and whether they are all there are."""
        is_identifier = any(map(_is_id, words_of(column.name))) or (
            spread is not None and spread.is_unique and spread.rows > MAX_ENUM
        )
        if not self.values or self.probe is None or role is not m.Dimension or is_identifier or spread is None:
            return (), False
        found = self.probe.frequent(table.name, column.name, MAX_ENUM)
        if looks_personal(table.name, column.name, [*found, *column.values]):
            return (), False
        if column.is_numeric and spread.distinct > MAX_ENUM:
            return (), False
        is_whole = 0 < spread.distinct <= MAX_ENUM and spread.distinct == len(found)
        is_short = all(len(str(value)) <= MAX_SAMPLE_CHARS for value in found)
        if is_whole and is_short:
            return tuple(sorted(map(_text, found))), True
        return tuple(_text(v) for v in found if len(str(v)) <= MAX_SAMPLE_CHARS)[:MAX_SAMPLES], False

    def _metrics(self, table: Table, facts: Sequence[m.Fact]) -> Iterator[m.Metric]:
        plural = phrase_of(table.name) or table.name
        yield m.Metric(name=self._unused(f"{singular(table.name)}_count"), synonyms=(f"number of {plural}",), expr="COUNT(*)")
        for fact in facts:
            function, prefix = ("AVG", "average") if fact.default_aggregation == "avg" else ("SUM", "total")
            name = f"{prefix}_{fact.name}"
            if self._taken[name]:
                name = f"{prefix}_{singular(table.name)}_{fact.name}"
            phrase = f"{prefix} {phrase_of(fact.name)}"
            synonyms = (phrase,) if phrase != name.replace("_", " ").lower() else ()
            yield m.Metric(name=self._unused(name), synonyms=synonyms, expr=f"{function}({_quoted(fact.name)})")

    def _unused(self, name: str) -> str:
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}_{self._taken[name]}"

    def _relationships(self) -> Iterator[m.Relationship]:
        known: set[tuple[str, str]] = set()
        for table in self.schema.tables:
            for other, pairs in self._declared(table):
                known |= {(table.name, mine) for mine, _ in pairs}
                yield self._relationship(table, other, pairs, is_declared=True)
        compared = 0
        for left, column in ((t, c) for t in self.schema.tables for c in t.columns):
            if (left.name, column.name) in known or self.probe is None:
                continue
            for right, target in self._targets(left, column):
                compared += 1
                if compared > MAX_PAIRS:
                    return
                overlap = self.probe.overlap(left.name, [column.name], right.name, [target.name])
                if overlap is not None and self._is_enough(left, column, right, target, overlap):
                    yield self._relationship(left, right, [(column.name, target.name)], overlap=overlap)
                    break

    def _declared(self, table: Table) -> Iterator[tuple[Table, list[tuple[str, str]]]]:
        """Keys as the database has them; several that make up the whole key of another table are one relationship."""
        by_table: dict[str, list[tuple[str, str]]] = {}
        for key in table.foreign_keys:
            by_table.setdefault(key.table.lower(), []).append((key.column, key.to_column))
        for name, pairs in by_table.items():
            other = self.schema.table(name)
            if other is None:
                continue
            targets = [its.lower() for _, its in pairs]
            if len(pairs) > 1 and sorted(targets) == sorted(c.lower() for c in other.primary_key):
                yield other, pairs
            else:
                yield from ((other, [pair]) for pair in pairs)

    def _targets(self, left: Table, column: Column) -> Iterator[tuple[Table, Column]]:
        """Unique columns of other tables that the column may point at: first those that its name speaks of."""
        for is_named in (True, False):
            for right in self.schema.tables:
                for target in right.columns:
                    is_other = right is not left or (is_named and target.name != column.name)
                    if not is_other or not self._is_unique(right, target) or column.is_numeric != target.is_numeric:
                        continue
                    if left.primary_key == (column.name,) and not self._is_subtype(left, right, target):
                        continue  # the others point here
                    speaks = _speaks_of(column.name, right.name, target.name)
                    may_point = speaks or (self._may_be_text(left, column) and _is_key_name(right, target))
                    if speaks == is_named and may_point:
                        yield right, target

    @staticmethod
    def _is_subtype(left: Table, right: Table, target: Column) -> bool:
        """Whether one key may point at another: each row of the left table is also one of the larger right one."""
        is_larger = (left.row_count or 0, left.name) < (right.row_count or 0, right.name)
        return left is not right and right.primary_key == (target.name,) and is_larger

    def _is_unique(self, table: Table, column: Column) -> bool:
        spread = self.spreads[table.name].get(column.name)
        return table.primary_key == (column.name,) or (spread is not None and spread.is_unique)

    def _may_be_text(self, table: Table, column: Column) -> bool:
        """Equal texts are evidence by themselves; equal small numbers are not."""
        spread = self.spreads[table.name].get(column.name)
        kind = column.type.upper()
        is_text = not column.is_numeric and not any(word in kind for word in ("DATE", "TIME", "BOOL", "BLOB"))
        return is_text and spread is not None and spread.distinct >= MIN_TEXT_VALUES and not self._is_unique(table, column)

    def _is_enough(self, left: Table, column: Column, right: Table, target: Column, overlap: Overlap) -> bool:
        least = 1 if _speaks_of(column.name, right.name, target.name) else MIN_TEXT_VALUES
        return overlap.distinct >= least and overlap.found >= MIN_OVERLAP * overlap.distinct

    def _relationship(
        self,
        left: Table,
        right: Table,
        pairs: Sequence[tuple[str, str]],
        is_declared: bool = False,
        overlap: Overlap | None = None,
    ) -> m.Relationship:
        mine, its = [a for a, _ in pairs], [b for _, b in pairs]
        if overlap is None and self.probe is not None:
            overlap = self.probe.overlap(left.name, mine, right.name, its)
        spreads = [self.spreads[left.name].get(column) for column in mine]
        is_filled = all(s is not None and s.rows == s.filled and s.rows > 0 for s in spreads)
        is_complete = overlap is not None and overlap.distinct == overlap.found
        is_single = left.primary_key == tuple(mine) or (len(mine) == 1 and spreads[0] is not None and spreads[0].is_unique)
        name = self._unused(f"{left.name}_to_{right.name}")
        sides = f"{left.name}.{'+'.join(mine)}", f"{right.name}.{'+'.join(its)}"
        self.evidence.append(Evidence(name, *sides, None if is_declared else overlap))
        return m.Relationship(
            name=name,
            left_table=left.name,
            right_table=right.name,
            relationship_columns=tuple(m.RelationshipColumn(left_column=a, right_column=b) for a, b in pairs),
            join_type="inner" if is_filled and is_complete else "left_outer",
            relationship_type="one_to_one" if is_single else "many_to_one",
        )


def _speaks_of(column: str, table: str, target: str) -> bool:
    """Whether a column's name says that it points there: `customer_id`, `cust_no` or `customer` at customers.id."""
    mine, its = phrase_of(column).split(), phrase_of(target).split()
    owner = [stem(word) for word in phrase_of(singular(table)).split()]
    if not owner or not mine or not its:
        return False
    if mine == its and mine[-1] not in ("id", "key", "code", "number") and _is_id(mine[-1]):
        return True
    if mine == its and len(its) > 1 and _is_id(its[-1]):
        return True
    ends_alike = mine[-len(its) :] == its and mine[: -len(its)]
    rest = mine[: -len(its)] if ends_alike else mine[:-1] if mine[-1] in _ID_WORDS else mine
    return bool(rest) and [stem(word) for word in rest][-len(owner) :] == owner


def _is_id(word: str) -> bool:
    """`id`, and names that were written together with it: `stuid`."""
    return word in _ID_WORDS or (len(word) > 3 and word.endswith(("id", "code", "key")))


def _is_key_name(table: Table, column: Column) -> bool:
    return table.primary_key == (column.name,) or any(map(_is_id, words_of(column.name)))


def _aggregation(name: str) -> m.Aggregation:
    return "avg" if words_and_full_words(name) & _AVERAGED else "sum"


def _quoted(name: str) -> str:
    return identifier(name).sql()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_own_synonyms(tables: Iterable[m.SemanticTable]) -> Iterator[m.SemanticTable]:
    """Without synonyms that occur twice, or that are another's name: none of these tells what is meant."""
    tables = list(tables)
    said: Counter[str] = Counter()
    for table in tables:
        for item in (table, *table.fields, *table.metrics):
            said.update({item.name.replace("_", " ").lower()})
            said.update(s.lower() for s in item.synonyms)

    def own(item: m.Field | m.Metric | m.SemanticTable) -> tuple[str, ...]:
        return tuple(s for s in item.synonyms if said[s.lower()] == 1)

    for table in tables:
        yield replace(
            table,
            synonyms=own(table),
            dimensions=tuple(replace(f, synonyms=own(f)) for f in table.dimensions),
            time_dimensions=tuple(replace(f, synonyms=own(f)) for f in table.time_dimensions),
            facts=tuple(replace(f, synonyms=own(f)) for f in table.facts),
            metrics=tuple(replace(f, synonyms=own(f)) for f in table.metrics),
        )
