"""Other schemas for the same questions: what training pairs do not need is left out, and columns of other databases are added.

A small model soon knows its training databases by heart and reads their schemas no more; a schema that is never twice the
same has to be read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from openarctic.copilot.schema import Column, Schema, Table

MAX_DROPPED = 0.7
MAX_ADDED = 0.25


def varied(schema: Schema, needed: frozenset[str], strangers: Sequence[Column], rng: random.Random) -> Schema:
    """The schema with some of what is not `needed` left out, and some of `strangers` among its columns.

    `needed` are lower-case names of tables and columns. Keys stay, and so do tables between others, because joins follow them. A
    stranger whose name the schema or `needed` has is not added, so no name becomes ambiguous.
    """
    share = rng.uniform(0, MAX_DROPPED)
    tables = [t for t in schema.tables if t.name.lower() in needed or _is_between(schema, t) or rng.random() >= share]
    tables = tables or list(schema.tables)
    kept = {t.name.lower() for t in tables}
    tables = [_fewer(t, schema, kept, needed, rng, share) for t in tables]
    taken = set(needed).union(*(t.column_names for t in schema.tables))
    if rng.random() < 0.5:
        tables = [_more(t, taken, strangers, rng) for t in tables]
    return Schema(dialect=schema.dialect, tables=tuple(tables))


def _is_between(schema: Schema, table: Table) -> bool:
    """Whether a join may pass through it."""
    return len({other for other, _, _ in schema.links(table.name)} - {table.name.lower()}) > 1


def _fewer(table: Table, schema: Schema, kept: set[str], needed: frozenset[str], rng: random.Random, share: float) -> Table:
    keys = {column for _, column, _ in schema.links(table.name)} | {name.lower() for name in table.primary_key}
    columns = tuple(c for c in table.columns if c.name.lower() in needed | keys or rng.random() >= share)
    pointing = tuple(k for k in table.foreign_keys if k.table.lower() in kept)
    return replace(table, columns=columns or table.columns[:1], foreign_keys=pointing)


def _more(table: Table, taken: set[str], strangers: Sequence[Column], rng: random.Random) -> Table:
    columns = list(table.columns)
    for column in rng.sample(strangers, min(len(strangers), rng.randint(0, 1 + int(MAX_ADDED * len(columns))))):
        if column.name.lower() not in taken:
            taken.add(column.name.lower())
            columns.insert(rng.randint(0, len(columns)), column)
    return replace(table, columns=tuple(columns))
