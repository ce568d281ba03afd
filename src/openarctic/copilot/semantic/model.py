"""A semantic model: what the tables and columns of a database mean to the people who ask.

The classes and their fields are those of Cortex Analyst's YAML, letter for letter; `cortex.py` reads and writes the files. Names
in a model are logical: a field's `expr` says what it is in the table that stands below. `extra` keeps keys that nobody here
knows, so that a file loses nothing when it is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Access = Literal["public_access", "private_access"]
Aggregation = Literal["sum", "avg", "median", "min", "max", "count", "count_distinct"]
AGGREGATIONS: tuple[Aggregation, ...] = ("sum", "avg", "median", "min", "max", "count", "count_distinct")
JOIN_TYPES = ("inner", "left_outer")
RELATIONSHIP_TYPES = ("many_to_one", "one_to_one", "one_to_many", "many_to_many")

Extra = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTable:
    """The table in the database, or the query (`definition`) whose rows a logical table has."""

    database: str = ""
    schema: str = ""
    table: str = ""
    definition: str = ""
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """Columns whose values together tell rows apart."""

    columns: tuple[str, ...]
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """What people may call something."""

    name: str
    synonyms: tuple[str, ...] = ()
    description: str = ""

    @property
    def terms(self) -> tuple[str, ...]:
        """Its name and its synonyms, as words."""
        return (self.name.replace("_", " "), *self.synonyms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field(_Named):
    """A column of a logical table; `expr` is SQL over the base table's columns (or other fields of the same table)."""

    expr: str
    data_type: str = ""
    unique: bool = False
    sample_values: tuple[str, ...] = ()
    is_enum: bool = False  # the sample values are all there are
    labels: tuple[str, ...] = ()
    default_aggregation: Aggregation | None = None
    access_modifier: Access = "public_access"
    extra: Extra = field(default_factory=dict, hash=False)

    @property
    def is_private(self) -> bool:
        """Only other expressions may use it."""
        return self.access_modifier == "private_access"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension(Field):
    """A field to group and filter by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeDimension(Field):
    """A field that says when."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact(Field):
    """A field that says how much, in each row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter(_Named):
    """A condition with a name."""

    expr: str
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric(_Named):
    """An expression over aggregates. Those of a model (not of one table) may name other tables' fields and metrics."""

    expr: str
    access_modifier: Access = "public_access"
    using_relationships: tuple[str, ...] = ()
    extra: Extra = field(default_factory=dict, hash=False)

    @property
    def is_private(self) -> bool:
        """Only other expressions may use it."""
        return self.access_modifier == "private_access"


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticTable(_Named):
    """A logical table over one base table."""

    base_table: BaseTable
    primary_key: Key | None = None
    unique_keys: tuple[Key, ...] = ()
    dimensions: tuple[Dimension, ...] = ()
    time_dimensions: tuple[TimeDimension, ...] = ()
    facts: tuple[Fact, ...] = ()
    metrics: tuple[Metric, ...] = ()
    filters: tuple[Filter, ...] = ()
    extra: Extra = field(default_factory=dict, hash=False)

    @property
    def fields(self) -> tuple[Field, ...]:
        """All its columns: dimensions, time dimensions, facts."""
        return (*self.dimensions, *self.time_dimensions, *self.facts)

    def field(self, name: str) -> Field | None:
        """The field of that name, in any case, or None."""
        wanted = name.lower()
        return next((f for f in self.fields if f.name.lower() == wanted), None)

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, in any case, or None."""
        wanted = name.lower()
        return next((m for m in self.metrics if m.name.lower() == wanted), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationshipColumn:
    """A pair of columns that must be equal; with a `type` (asof, range) another condition, which nothing here composes."""

    left_column: str
    right_column: str
    type: str = ""
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Relationship:
    """Rows of the left table point at rows of the right one. Without a type the right side has one row for each key."""

    name: str
    left_table: str
    right_table: str
    relationship_columns: tuple[RelationshipColumn, ...]
    join_type: str = ""
    relationship_type: str = ""
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedQuery:
    """A question and the SQL, in logical names, that a person found right. `verified_at` counts seconds since 1970."""

    question: str
    sql: str
    name: str = ""
    verified_at: int | None = None
    verified_by: str = ""
    use_as_onboarding_question: bool = False
    extra: Extra = field(default_factory=dict, hash=False)

    @property
    def badge(self) -> str:
        """Who verified it, and when (UTC)."""
        who = f"verified by {self.verified_by}" if self.verified_by else "verified"
        return who if self.verified_at is None else f"{who} on {self.verified_on}"

    @property
    def verified_on(self) -> str:
        """The date as YYYY-MM-DD (UTC), or nothing."""
        return "" if self.verified_at is None else datetime.fromtimestamp(self.verified_at, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleInstructions:
    """Instructions for one part of the work each."""

    sql_generation: str = ""
    question_categorization: str = ""
    extra: Extra = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticModel:
    """Tables, how they relate, measures over them, and what people have already verified."""

    name: str
    description: str = ""
    tables: tuple[SemanticTable, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    metrics: tuple[Metric, ...] = ()
    verified_queries: tuple[VerifiedQuery, ...] = ()
    custom_instructions: str = ""
    module_custom_instructions: ModuleInstructions = ModuleInstructions()
    extra: Extra = field(default_factory=dict, hash=False)

    def table(self, name: str) -> SemanticTable | None:
        """The logical table of that name, in any case and with or without leading `__`, or None."""
        wanted = name.lower()
        found = next((t for t in self.tables if t.name.lower() == wanted), None)
        return found or (self.table(wanted[2:]) if wanted.startswith("__") and len(wanted) > 2 else None)

    def synonyms(self) -> Iterator[tuple[str, str, str]]:
        """(term, logical table, field or nothing) for every name and synonym of tables and fields that may be asked for."""
        for table in self.tables:
            for term in table.terms:
                yield term, table.name, ""
            for item in table.fields:
                if not item.is_private:
                    for term in item.terms:
                        yield term, table.name, item.name

    @property
    def instructions(self) -> str:
        """What a model that takes instructions is told about writing SQL."""
        return "\n".join(
            part.strip() for part in (self.custom_instructions, self.module_custom_instructions.sql_generation) if part.strip()
        )
