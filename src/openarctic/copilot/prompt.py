"""The text that the bundled model reads: schema lines, then a question with its value hints.

The very same functions make training pairs and prompts, so the model always sees the form it was trained on:

    singer: singer_id, name, country (France/Netherlands), age
    concert: concert_id, singer_id > singer, year

    Q: How many singers are from France? [France = singer.country]
    SQL: SELECT COUNT(*) FROM singer WHERE country = 'France'
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.plan import TargetForm, to_plan
from openarctic.copilot.schema import Column, Schema, Table

MAX_SHOWN_VALUES = 4
MAX_SHOWN_CHARS = 10
MAX_SHOWN_TOTAL = 24


def schema_text(schema: Schema, shuffle: random.Random | None = None) -> str:
    """One line a table: its columns, `col > table` for a foreign key, `(A/B)` for few short values.

    `shuffle` puts tables and columns in another order: training uses it so that order carries no meaning.
    """
    tables = list(schema.tables)
    if shuffle:
        shuffle.shuffle(tables)
    return "".join(_table_line(table, shuffle) + "\n" for table in tables)


def _table_line(table: Table, shuffle: random.Random | None) -> str:
    columns = list(table.columns)
    if shuffle:
        shuffle.shuffle(columns)
    targets = {key.column.lower(): key.table.lower() for key in table.foreign_keys}
    return f"{table.name.lower()}: " + ", ".join(_column_text(c, targets) for c in columns)


def _column_text(column: Column, targets: dict[str, str]) -> str:
    name = column.name.lower()
    arrow = f" > {targets[name]}" if name in targets else ""
    return name + arrow + _shown_values(column)


def _shown_values(column: Column) -> str:
    distinct: set[str] = set()
    for value in column.values:
        distinct.add(value)
        if len(distinct) > MAX_SHOWN_VALUES:
            return ""
    values = sorted(distinct)
    few = len(values) >= 2
    short = all(len(v) <= MAX_SHOWN_CHARS for v in values) and sum(map(len, values)) <= MAX_SHOWN_TOTAL
    return f" ({'/'.join(values)})" if few and short else ""


def question_text(question: str, links: Sequence[ValueLink] = ()) -> str:
    """The question, its value hints, and the cue after which the SQL follows."""
    hints = "".join(f" [{link.value} = {' / '.join(f'{table}.{column}' for table, column in link.places)}]" for link in links)
    return f"\nQ: {' '.join(question.split())}{hints}\nSQL:"


def turned_text(short_sql: str) -> str:
    """The other way round: a query, and the cue after which its question follows."""
    return f"\nSQL: {short_sql}\nQ:"


def target_text(short_sql: str, form: TargetForm = "sql") -> str:
    """What the model should answer (the end-of-text token follows)."""
    return f" {to_plan(short_sql) if form == 'plan' else short_sql}"
