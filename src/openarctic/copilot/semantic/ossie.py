"""Apache Ossie (once OSI) YAML, read into the same classes.

Read after its core-spec/osi-schema.json of version 0.2.0.dev0, and the shorter forms that its own compliance tests use: a model
at the root of the file, and an expression that is plain text. Ossie does not say which fields are facts: a field is one when a
metric aggregates it and it is neither a dimension nor part of a key. Vendor extensions have no place in our classes and are left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from openarctic.copilot.semantic import model as m
from openarctic.copilot.semantic.cortex import Loaded
from openarctic.copilot.yaml_file import Entry, Fields

KNOWN_VERSIONS = ("0.2.0.dev0",)
# Expressions in these are SQL; the first one that a field has is taken.
SQL_DIALECTS = ("ANSI_SQL", "SNOWFLAKE", "DUCKDB", "POSTGRES", "POSTGRESQL", "BIGQUERY", "DATABRICKS")


def is_ossie(root: Entry) -> bool:
    """Whether the file has the form of Ossie (Cortex Analyst's has `tables`)."""
    fields = root.fields()
    return "semantic_model" in fields or "datasets" in fields


def ossie_model(root: Entry) -> Loaded:
    """The model under the root of a file. Raises UserError, with line and key, for what has the wrong form or holds several."""
    return _Reader().read(root)


class _Reader:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._keys: set[tuple[str, str]] = set()
        self._aggregated: set[str] = set()

    def read(self, root: Entry) -> Loaded:
        fields = root.fields()
        version = fields.get("version")
        if version is None or version.text() not in KNOWN_VERSIONS:
            said = "says no version" if version is None else f"is of version {version.text()}"
            self.warnings.append(f"{root.file} {said}; it is read as {KNOWN_VERSIONS[-1]}")
        models = fields.get("semantic_model")
        if models is None:
            return Loaded(self._model(fields), tuple(self.warnings))
        self._leave(fields)
        entries = models.items()
        if len(entries) != 1:
            raise models.error(f"holds {len(entries)} models", "keep one in the file")
        return Loaded(self._model(entries[0].fields()), tuple(self.warnings))

    def _model(self, fields: Fields) -> m.SemanticModel:
        relationships = tuple(self._relationship(e) for e in _items(fields, "relationships"))
        metrics = tuple(self._metric(e) for e in _items(fields, "metrics"))
        for metric in metrics:
            self._aggregated.update(_aggregated_names(metric.expr))
        instructions, _ = self._context(fields)
        model = m.SemanticModel(
            name=fields.require("name").name(),
            description=_text(fields, "description"),
            tables=tuple(self._dataset(e) for e in fields.require("datasets").items()),
            relationships=relationships,
            metrics=metrics,
            custom_instructions=instructions,
        )
        self._leave(fields)
        return model

    def _dataset(self, entry: Entry) -> m.SemanticTable:
        fields = entry.fields()
        name = fields.require("name").name()
        primary = fields.get("primary_key")
        unique = [e.names() for e in _items(fields, "unique_keys")]
        keys = set(primary.names() if primary else ()).union(*unique)
        columns = [self._field(e, name, keys) for e in _items(fields, "fields")]
        note, synonyms = self._context(fields)
        table = m.SemanticTable(
            name=name,
            synonyms=synonyms,
            description=_joined(_text(fields, "description"), note),
            base_table=self._source(fields.require("source")),
            primary_key=m.Key(columns=primary.names()) if primary else None,
            unique_keys=tuple(m.Key(columns=names) for names in unique),
            dimensions=tuple(c for c in columns if isinstance(c, m.Dimension)),
            time_dimensions=tuple(c for c in columns if isinstance(c, m.TimeDimension)),
            facts=tuple(c for c in columns if isinstance(c, m.Fact)),
        )
        self._leave(fields)
        return table

    def _source(self, entry: Entry) -> m.BaseTable:
        if isinstance(entry.node.value, str):
            return self._named_source(entry)
        fields = entry.fields()
        kind, target = fields.require("kind").choice("table", "query"), fields.require("object")
        self._leave(fields)
        return self._named_source(target) if kind == "table" else m.BaseTable(definition=self._expression(target))

    @staticmethod
    def _named_source(entry: Entry) -> m.BaseTable:
        text = entry.name()
        if re.match(r"\(?\s*(select|with)\b", text, re.IGNORECASE):
            return m.BaseTable(definition=text)
        parts = [part.strip('"') for part in re.findall(r'"[^"]+"|[^."\s]+', text)]
        if not 1 <= len(parts) <= 3:
            raise entry.error(f"is {text!r}", "write table, schema.table or database.schema.table")
        database, schema, table = ["", "", *parts][-3:]
        return m.BaseTable(database=database, schema=schema, table=table)

    def _field(self, entry: Entry, table: str, keys: set[str]) -> m.Field:
        fields = entry.fields()
        name = fields.require("name").name()
        note, synonyms = self._context(fields)
        label = _text(fields, "label")
        about: dict[str, Any] = {
            "name": name,
            "synonyms": synonyms,
            "description": _joined(_text(fields, "description"), label, note),
            "expr": self._expression(fields.require("expression")),
        }
        dimension = fields.get("dimension")
        is_dimension = "dimension" in fields
        is_time = False
        if dimension is not None:
            inner = dimension.fields()
            time = inner.get("is_time")
            is_time = time is not None and time.flag()
            self._leave(inner)
        self._leave(fields)
        if is_time:
            return m.TimeDimension(**about)
        is_key = name in keys or (table, name) in self._keys
        is_fact = not is_dimension and not is_key and name.lower() in self._aggregated
        return m.Fact(**about) if is_fact else m.Dimension(**about)

    def _relationship(self, entry: Entry) -> m.Relationship:
        fields = entry.fields()
        left, right = fields.require("from").name(), fields.require("to").name()
        ours, theirs = fields.require("from_columns").names(), fields.require("to_columns").names()
        if len(ours) != len(theirs) or not ours:
            raise entry.error(f"pairs {len(ours)} columns with {len(theirs)}", "from_columns and to_columns go in pairs")
        self._keys.update((left, column) for column in ours)
        self._keys.update((right, column) for column in theirs)
        self._context(fields)
        relationship = m.Relationship(
            name=fields.require("name").name(),
            left_table=left,
            right_table=right,
            relationship_columns=tuple(
                m.RelationshipColumn(left_column=a, right_column=b) for a, b in zip(ours, theirs, strict=True)
            ),
            relationship_type="many_to_one",
        )
        self._leave(fields)
        return relationship

    def _metric(self, entry: Entry) -> m.Metric:
        fields = entry.fields()
        note, synonyms = self._context(fields)
        metric = m.Metric(
            name=fields.require("name").name(),
            synonyms=synonyms,
            description=_joined(_text(fields, "description"), note),
            expr=self._expression(fields.require("expression")),
        )
        self._leave(fields)
        return metric

    def _expression(self, entry: Entry) -> str:
        if isinstance(entry.node.value, str):
            return entry.name()
        fields = entry.fields()
        written: dict[str, str] = {}
        for item in fields.require("dialects").items():
            inner = item.fields()
            written[inner.require("dialect").name()] = inner.require("expression").name()
            self._leave(inner)
        self._leave(fields)
        for dialect in SQL_DIALECTS:
            if dialect in written:
                return written[dialect]
        raise entry.error(
            f"is written in {', '.join(written) or 'no dialect'} alone", f"one of {', '.join(SQL_DIALECTS)} is needed"
        )

    def _context(self, fields: Fields) -> tuple[str, tuple[str, ...]]:
        """Instructions and synonyms of `ai_context`."""
        entry = fields.get("ai_context")
        if entry is None:
            return "", ()
        if isinstance(entry.node.value, str):
            return entry.text(), ()
        inner = entry.fields()
        synonyms = inner.get("synonyms")
        found = _text(inner, "instructions"), synonyms.names() if synonyms else ()
        self._leave(inner)
        return found

    def _leave(self, fields: Fields) -> None:
        for entry in fields.rest().values():
            self.warnings.append(f"line {entry.line}: {entry.path} has no place in a semantic model of ours and is left out")


def _items(fields: Fields, key: str) -> list[Entry]:
    entry = fields.get(key)
    return entry.items() if entry else []


def _text(fields: Fields, key: str) -> str:
    entry = fields.get(key)
    return entry.text() if entry else ""


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _aggregated_names(expr: str) -> Iterator[str]:
    """Lower-case column names inside aggregates; none where the expression is not SQL that we can read (lint says so)."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(expr, into=exp.Condition)
    except SqlglotError:
        return
    for aggregate in tree.find_all(exp.AggFunc):
        for column in aggregate.find_all(exp.Column):
            yield column.name.lower()
