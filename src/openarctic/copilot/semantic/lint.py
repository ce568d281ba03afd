"""What is wrong, doubtful or missing in a semantic model: by itself, against the schema of a database, and on its data.

Errors make answers wrong or impossible; warnings may; notes tell what people would miss. Places are written as paths of names,
such as `tables.orders.metrics.revenue`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from openarctic.copilot.guard import check
from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic import model as m
from openarctic.copilot.semantic.compose import homes, measure
from openarctic.copilot.semantic.expressions import read_expression
from openarctic.copilot.semantic.graph import RelationshipGraph
from openarctic.copilot.semantic.layer import SemanticLayer, key_column
from openarctic.copilot.semantic.naming import looks_personal
from openarctic.copilot.semantic.probe import Probe
from openarctic.copilot.semantic.words import normal_words
from openarctic.errors import CapacityError, OpenArcticError, RefusedError, UserError

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: how bad, which rule, where, and what."""

    level: Level
    rule: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.place}: {self.message} [{self.rule}]"


def lint(model: m.SemanticModel, schema: Schema | None = None, probe: Probe | None = None) -> list[Finding]:
    """Everything found, the worst first; `schema` lets names be checked, `probe` data, keys and verified queries."""
    found = list(_names(model))
    found += _descriptions(model)
    found += _samples(model)
    if schema is not None:
        layer = SemanticLayer(model, schema)
        found += _tables(layer)
        found += _relationships(layer, probe)
        found += _metrics(layer)
        found += _verified(layer, probe)
        if probe is not None:
            found += _data(layer, probe)
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _names(model: m.SemanticModel) -> Iterator[Finding]:
    """Names that occur twice where they must not, and words that mean several things."""
    groups: list[tuple[str, str, Sequence[m.SemanticTable | m.Field | m.Metric | m.Filter | m.Relationship]]] = [
        ("tables", "table", model.tables),
        ("relationships", "relationship", model.relationships),
        ("metrics", "metric", model.metrics),
    ]
    groups += [(f"tables.{t.name}", "name", (*t.fields, *t.metrics, *t.filters)) for t in model.tables]
    for place, kind, items in groups:
        for name in _repeated(item.name.lower() for item in items):
            yield Finding("error", "duplicate-name", f"{place}.{name}", f"the {kind} {name} is defined several times")
    said: dict[str, list[str]] = defaultdict(list)
    named: dict[str, list[str]] = defaultdict(list)
    for place, item in _named_items(model):
        named[item.name.replace("_", " ").lower()].append(place)
        for synonym in dict.fromkeys(s.lower() for s in item.synonyms):
            said[synonym].append(place)
        if item.name.replace("_", " ").lower() in (s.lower() for s in item.synonyms):
            yield Finding("note", "idle-synonym", place, "a synonym repeats the name")
    for synonym, places in said.items():
        if len(places) > 1:
            yield Finding("warning", "duplicate-synonym", places[1], f"the synonym {synonym!r} is also {places[0]}'s")
        others = [place for place in named.get(synonym, ()) if place not in places]
        if others:
            yield Finding("warning", "name-clash", places[0], f"the synonym {synonym!r} is the name of {others[0]}")
    questions: dict[tuple[str, ...], str] = {}
    for query in model.verified_queries:
        words = normal_words(query.question)
        if questions.setdefault(words, query.sql) != query.sql:
            yield Finding(
                "error", "duplicate-question", _query_place(query), f"{query.question!r} is verified with two different queries"
            )


def _named_items(model: m.SemanticModel) -> Iterator[tuple[str, m.SemanticTable | m.Field | m.Metric | m.Filter]]:
    for table in model.tables:
        yield f"tables.{table.name}", table
        items: tuple[m.Field | m.Metric | m.Filter, ...] = (*table.fields, *table.metrics, *table.filters)
        for item in items:
            yield f"tables.{table.name}.{item.name}", item
    for metric in model.metrics:
        yield f"metrics.{metric.name}", metric


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _query_place(query: m.VerifiedQuery) -> str:
    return f"verified_queries.{query.name or query.question!r}"


def _descriptions(model: m.SemanticModel) -> Iterator[Finding]:
    for table in model.tables:
        place = f"tables.{table.name}"
        if not table.description:
            yield Finding("warning", "no-description", place, "has no description")
        items = [item for item in table.fields if not item.is_private]
        bare = [item.name for item in (*items, *table.metrics, *table.filters) if not item.description]
        if bare:
            yield Finding("note", "no-description", place, f"no description have {', '.join(bare)}")
    for metric in model.metrics:
        if not metric.description:
            yield Finding("note", "no-description", f"metrics.{metric.name}", "has no description")
    for query in model.verified_queries:
        if not query.verified_by:
            yield Finding("note", "no-verifier", _query_place(query), "does not say who verified it")
        if query.verified_at is not None and query.verified_at > time.time() + 86400:
            yield Finding("warning", "future-date", _query_place(query), f"was verified on {query.verified_on}, which is to come")


def _samples(model: m.SemanticModel) -> Iterator[Finding]:
    for table in model.tables:
        for item in table.fields:
            if item.sample_values and looks_personal(table.name, item.name, item.sample_values):
                yield Finding(
                    "warning",
                    "personal-values",
                    f"tables.{table.name}.{item.name}",
                    "shows sample values that seem to be about persons",
                )
            if item.is_enum and not item.sample_values:
                yield Finding("warning", "empty-enum", f"tables.{table.name}.{item.name}", "is an enum without sample values")


def _tables(layer: SemanticLayer) -> Iterator[Finding]:
    for table in layer.model.tables:
        place = f"tables.{table.name}"
        base = layer.base_of(table)
        if base is None and not table.base_table.definition:
            yield Finding("error", "unknown-table", place, f"there is no table {table.base_table.table} in the database")
            continue
        if base is not None and (other := layer.base.table(table.name)) is not None and other is not base:
            yield Finding("warning", "name-clash", place, f"another table of the database is called {table.name}")
        for item in table.fields:
            yield from _field(layer, table, item)
        for condition in table.filters:
            try:
                tree = layer.condition(condition, table)
            except UserError as error:
                yield Finding("error", "bad-expression", f"{place}.{condition.name}", error.message)
            else:
                if tree.find(exp.AggFunc):
                    yield Finding("error", "bad-filter", f"{place}.{condition.name}", "a filter cannot aggregate")
        for key in ((table.primary_key,) if table.primary_key else ()) + table.unique_keys:
            for column in key.columns:
                if base is not None and key_column(layer, table, column) is None:
                    yield Finding("error", "unknown-column", place, f"the key names {column}, which is not there")


def _field(layer: SemanticLayer, table: m.SemanticTable, item: m.Field) -> Iterator[Finding]:
    place, base = f"tables.{table.name}.{item.name}", layer.base_of(table)
    try:
        tree = layer.field(table, item.name, table.name)
    except UserError as error:
        yield Finding("error", "bad-expression", place, error.message)
        return
    if base is None:
        return
    for column in tree.find_all(exp.Column):
        if base.column(column.name) is None:
            yield Finding("error", "unknown-column", place, f"{base.name} has no column {column.name}")
    own = base.column(item.name)
    means = layer.column(table, item)
    if own is not None and means != own.name:
        yield Finding("warning", "name-clash", place, f"is not the column {own.name} of {base.name}, but has its name")
    if isinstance(read_expression(item.expr, layer.dialect), exp.AggFunc):
        yield Finding("error", "bad-expression", place, "a field cannot aggregate; make it a metric")


def _relationships(layer: SemanticLayer, probe: Probe | None) -> Iterator[Finding]:
    for relationship in layer.model.relationships:
        place = f"relationships.{relationship.name}"
        left, right = layer.model.table(relationship.left_table), layer.model.table(relationship.right_table)
        for name, table in ((relationship.left_table, left), (relationship.right_table, right)):
            if table is None:
                yield Finding("error", "unknown-table", place, f"there is no logical table {name}")
        if left is None or right is None or layer.base_of(left) is None or layer.base_of(right) is None:
            continue
        if any(pair.type for pair in relationship.relationship_columns):
            yield Finding("note", "not-composed", place, "is no join on equal columns; metrics are not composed over it")
            continue
        mine = [key_column(layer, left, pair.left_column) for pair in relationship.relationship_columns]
        its = [key_column(layer, right, pair.right_column) for pair in relationship.relationship_columns]
        for table, pairs, columns in ((left, "left_column", mine), (right, "right_column", its)):
            for pair, column in zip(relationship.relationship_columns, columns, strict=True):
                if column is None:
                    yield Finding("error", "unknown-column", place, f"{table.name} has no plain column {getattr(pair, pairs)}")
        if not mine:
            yield Finding("error", "no-columns", place, "names no columns")
        elif all(mine) and all(its):
            yield from _sides(layer, relationship, (left, [c for c in mine if c]), (right, [c for c in its if c]), probe)


_Side = tuple[m.SemanticTable, list[str]]


def _sides(layer: SemanticLayer, item: m.Relationship, left: _Side, right: _Side, probe: Probe | None) -> Iterator[Finding]:
    """The one side of a relationship must have each key once: by declaration, else on the data."""
    place, kind = f"relationships.{item.name}", item.relationship_type or "many_to_one"
    single = {"many_to_one": (right,), "one_to_one": (left, right), "one_to_many": (left,), "many_to_many": ()}[kind]
    for table, columns in single:
        is_unique = None
        base = layer.base_of(table)
        if probe is not None and base is not None:
            is_unique = probe.is_unique(base.name, columns)
        if is_unique is False:
            yield Finding(
                "error",
                "not-unique",
                place,
                f"{table.name} has rows with equal {', '.join(columns)}, but is on a side of one ({kind})",
            )
        elif is_unique is None and not _is_declared_unique(layer, table, columns):
            yield Finding(
                "warning", "not-declared-unique", place, f"no key says that {', '.join(columns)} of {table.name} is unique"
            )
    mine, its = layer.base_of(left[0]), layer.base_of(right[0])
    if probe is not None and mine is not None and its is not None and kind != "many_to_many":
        overlap = probe.overlap(mine.name, left[1], its.name, right[1])
        if overlap is not None and overlap.found < overlap.distinct:
            lost = overlap.distinct - overlap.found
            lost_told = (
                "its rows are left out by the inner join" if item.join_type == "inner" else "its rows stay, without a partner"
            )
            level: Level = "warning" if item.join_type == "inner" else "note"
            yield Finding(
                level, "orphans", place, f"{lost} of {overlap.distinct} keys of {left[0].name} have no partner; {lost_told}"
            )


def _is_declared_unique(layer: SemanticLayer, table: m.SemanticTable, columns: Sequence[str]) -> bool:
    wanted = {c.lower() for c in columns}
    keys = [
        {(key_column(layer, table, c) or c).lower() for c in key.columns}
        for key in (table.primary_key, *table.unique_keys)
        if key
    ]
    base = layer.base_of(table)
    if base is not None and base.primary_key:
        keys.append({c.lower() for c in base.primary_key})
    keys += [{c.lower()} for item in table.fields if item.unique and (c := layer.column(table, item))]
    return any(key <= wanted for key in keys)


def _metrics(layer: SemanticLayer) -> Iterator[Finding]:
    graph = RelationshipGraph(layer.model)
    connected = _connected(layer.model)
    traps: dict[str, list[str]] = defaultdict(list)
    every = [(None, metric) for metric in layer.model.metrics] + [(t, metric) for t in layer.model.tables for metric in t.metrics]
    for table, metric in every:
        place = f"tables.{table.name}.{metric.name}" if table else f"metrics.{metric.name}"
        if metric.extra.get("non_additive_dimensions"):
            yield Finding("note", "not-composed", place, "is not additive over some dimensions, and not composed")
            continue
        try:
            measured = measure(layer, metric, table)
            for home in homes(layer, [measured]):
                traps[home].append(metric.name)
        except UserError as error:
            yield Finding("error", "bad-metric", place, error.message)
            continue
        for using in metric.using_relationships:
            if using.lower() not in {r.name.lower() for r in layer.model.relationships}:
                yield Finding("error", "unknown-relationship", place, f"there is no relationship {using}")
    for home, names in traps.items():
        beyond = sorted(connected.get(home, set()) - graph.reachable(home))
        if beyond:
            told = ", ".join(sorted(set(names)))
            yield Finding(
                "note",
                "fan-out",
                f"tables.{home}",
                f"{told}: by {', '.join(beyond)} rows would be counted several times; not composed",
            )


def _connected(model: m.SemanticModel) -> dict[str, set[str]]:
    """The tables that joins of any direction lead to."""
    near: dict[str, set[str]] = defaultdict(set)
    for relationship in model.relationships:
        left, right = model.table(relationship.left_table), model.table(relationship.right_table)
        if left and right:
            near[left.name].add(right.name)
            near[right.name].add(left.name)
    found = {}
    for start in near:
        seen, queue = {start}, [start]
        while queue:
            new = near[queue.pop()] - seen
            seen |= new
            queue += new
        found[start] = seen
    return found


def _verified(layer: SemanticLayer, probe: Probe | None) -> Iterator[Finding]:
    for query in layer.model.verified_queries:
        place = _query_place(query)
        if not normal_words(query.question):
            yield Finding("error", "no-question", place, "has a question without words")
        try:
            sql = layer.physical(query.sql).sql(dialect=layer.dialect)
            check(sql, layer.dialect, layer.base)
            if probe is not None and not probe.rows(sql, limit=1):
                yield Finding("warning", "no-rows", place, "returns no rows")
        except (RefusedError, UserError) as error:
            yield Finding("error", "does-not-run", place, error.message)
        except CapacityError as error:
            yield Finding("warning", "slow", place, error.message)


def _data(layer: SemanticLayer, probe: Probe) -> Iterator[Finding]:
    for table in layer.model.tables:
        base = layer.base_of(table)
        if base is None:
            continue
        for key in ((table.primary_key,) if table.primary_key else ()) + table.unique_keys:
            columns = [c for name in key.columns if (c := key_column(layer, table, name))]
            if len(columns) == len(key.columns) and columns and probe.is_unique(base.name, columns) is False:
                yield Finding(
                    "error", "not-unique", f"tables.{table.name}", f"rows have equal {', '.join(columns)}, which is a key"
                )
        for item in table.fields:
            yield from _field_data(layer, table, item, base.name, probe)


def _field_data(layer: SemanticLayer, table: m.SemanticTable, item: m.Field, base: str, probe: Probe) -> Iterator[Finding]:
    place, column = f"tables.{table.name}.{item.name}", layer.column(table, item)
    if item.is_enum and item.sample_values and column:
        other = [str(v) for v in _tried(lambda: probe.frequent(base, column, 50)) if str(v) not in item.sample_values]
        if other:
            yield Finding("warning", "open-enum", place, f"is an enum, but the data also have {', '.join(map(repr, other[:3]))}")
    if item.unique and column and probe.is_unique(base, [column]) is False:
        yield Finding("error", "not-unique", place, "is said to be unique, and is not")


def _tried(ask: Callable[[], list[object]]) -> list[object]:
    try:
        return ask()
    except OpenArcticError:
        return []
