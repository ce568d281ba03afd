"""The part of a schema that a principal may see. What may not be seen is not in it, so it reaches no prompt, index or hint.

Value samples and row counts were taken without regard to row conditions: a table that is shown in part has none, nor has a column
that is masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp

from openarctic.copilot.policy.rules import TableRule
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table


@dataclass(frozen=True, slots=True)
class Readable:
    """What a principal reads where a statement names a table: `query` in its place, or (None) the table as it is.

    `text` is `query` as it is written; `reads` are the real tables and views that the engine touches, `filtered` those of which
    some rows may be hidden; `hashed` columns can still be compared with each other, `dark` ones are masked in another way.
    """

    columns: tuple[Column, ...]
    query: exp.Query | None
    reads: frozenset[str]
    filtered: frozenset[str]
    hashed: frozenset[str] = frozenset()
    dark: frozenset[str] = frozenset()
    text: str = ""

    def joins(self, column: str, other: Readable, to_column: str) -> bool:
        """Whether a key still leads from here to there: both ends clear, or both hashed."""
        mine, its = column.lower(), to_column.lower()
        if not any(c.name.lower() == mine for c in self.columns) or not any(c.name.lower() == its for c in other.columns):
            return False
        if mine in self.hashed or its in other.hashed:
            return mine in self.hashed and its in other.hashed
        return mine not in self.dark and its not in other.dark


def seen_columns(rule: TableRule, columns: Iterable[Column], is_part: bool) -> tuple[Column, ...]:
    """Those of `columns` that may be seen, without the values that may not. `is_part`: some rows are hidden."""
    seen = []
    for column in columns:
        if not rule.is_visible(column):
            continue
        if is_part or not rule.is_clear(column):
            column = replace(column, values=())
        if rule.is_masked_text(column):
            column = replace(column, type="VARCHAR")
        seen.append(column)
    return tuple(seen)


def visible_schema(schema: Schema, readable: Mapping[str, Readable]) -> Schema:
    """`schema` with the tables of `readable` (by lower-case name) alone, each as it may be seen."""
    tables = tuple(_visible(table, readable) for table in schema.tables if table.name.lower() in readable)
    return replace(schema, tables=tables)


def _visible(table: Table, readable: Mapping[str, Readable]) -> Table:
    mine = readable[table.name.lower()]
    names = {c.name.lower() for c in mine.columns} - mine.dark - mine.hashed
    is_part = bool(mine.filtered)
    return replace(
        table,
        columns=mine.columns,
        primary_key=table.primary_key if names.issuperset(c.lower() for c in table.primary_key) else (),
        foreign_keys=tuple(key for key in table.foreign_keys if _leads_somewhere(key, mine, readable)),
        definition="",
        row_count=None if is_part else table.row_count,
        row_estimate=None if is_part else table.row_estimate,
    )


def _leads_somewhere(key: ForeignKey, mine: Readable, readable: Mapping[str, Readable]) -> bool:
    other = readable.get(key.table.lower())
    return other is not None and mine.joins(key.column, other, key.to_column)
