"""A wide schema must fit a bounded prompt: the tables and columns that the question speaks of, and those that join them.

A word of the question counts by how few tables it points to. A table has what its own names and values are worth, and a part of
what the tables around it are worth, word by word: so the table between two that are named gets something from both, and of two
tables of one name the one wins whose neighbours the question speaks of, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from openarctic.copilot.linking.graph import JoinGraph
from openarctic.copilot.linking.names import Named, NameIndex, is_label
from openarctic.copilot.linking.values import MAX_PLACES, ValueLink
from openarctic.copilot.schema import Schema, Table

WHOLE = 1.0  # what it is worth that all words of a table's name are said
VALUE = 0.8  # what a named value is worth to the tables that hold it
DECAY, STEPS, AROUND = 0.8, 2, 2.0
SEEDS = 8  # of the best tables, ways between are looked for
WHOLE_TABLES, WHOLE_COLUMNS, PART_COLUMNS = 6, 40, 12

FIRST_GUESS, MAX_MEASURED = 16, 7

Size = Callable[[Schema], int]


def ranked_tables(names: NameIndex, graph: JoinGraph, named: Sequence[Named], links: Sequence[ValueLink]) -> list[int]:
    """All tables by number, those first that the question speaks of, with what joins the best of them."""
    scores = table_scores(names, graph, named, links)
    order = np.argsort(-scores, kind="stable").tolist()
    chosen: dict[int, None] = {}
    for position, table in enumerate(order):
        if 0 < position < SEEDS and scores[table] > 0:
            chosen |= dict.fromkeys(graph.between(chosen, table))
        chosen.setdefault(table)
    return list(chosen)


def table_scores(
    names: NameIndex, graph: JoinGraph, named: Sequence[Named], links: Sequence[ValueLink]
) -> npt.NDArray[np.float32]:
    """What each table is worth to the question [tables]."""
    tables = names.schema.tables
    count, numbers = len(tables), {table.name.lower(): number for number, table in enumerate(tables)}
    own = np.zeros((count, len(named) + len(links) + 1), dtype=np.float32)
    own[names.whole(named), -1] = WHOLE
    for word, item in enumerate(named):
        for mention in item.mentions:
            own[mention.table, word] = max(own[mention.table, word], mention.weight)
    for word, link in enumerate(links, start=len(named)):
        own[[numbers[table] for table, _ in link.holders or link.places if table in numbers], word] = VALUE
    own *= np.log1p(count / np.maximum(1, np.count_nonzero(own, axis=0)))
    return np.asarray((own + AROUND * graph.spread(own, DECAY, STEPS)).sum(axis=1), dtype=np.float32)


def chosen_part(
    names: NameIndex, graph: JoinGraph, named: Sequence[Named], links: Sequence[ValueLink], size: Size, limit: int
) -> Schema:
    """The best tables that fit together, in the schema's order (at least one)."""
    ranked = ranked_tables(names, graph, named, links)
    wanted = _wanted_columns(names.schema, named, links)

    def part(count: int) -> Schema:
        return _shown_part(names.schema, ranked[:count], wanted)

    return part(_most(lambda count: size(part(count)), len(ranked), limit))


def _most(size: Callable[[int], int], count: int, limit: int) -> int:
    """The largest number up to `count`, at least 1, whose size is within `limit`, or nearly: sizes are dear, and grow evenly."""
    low, low_size, high, high_size = 0, 0, count + 1, 0
    guess = min(FIRST_GUESS, count)
    for _ in range(MAX_MEASURED):
        measured = size(guess)
        if measured <= limit:
            low, low_size = guess, measured
        else:
            high, high_size = guess, measured
        if high - low <= 1:
            break
        each = (high_size - low_size) / (high - low) if high_size else low_size / low
        guess = min(max(low + int((limit - low_size) / max(each, 1e-6)), low + 1), high - 1)
    return max(low, 1)


def _shown_part(schema: Schema, tables: Sequence[int], wanted: Collection[tuple[int, int]]) -> Schema:
    """`schema` with these tables alone, the best ones first in `tables`: wide ones without some columns, and the keys inside."""
    limits = {table: WHOLE_COLUMNS if place < WHOLE_TABLES else PART_COLUMNS for place, table in enumerate(tables)}
    names = {schema.tables[table].name.lower() for table in tables}
    return replace(
        schema,
        tables=tuple(
            _shown_table(number, table, limits[number], names, wanted)
            for number, table in enumerate(schema.tables)
            if number in limits
        ),
    )


def _shown_table(number: int, table: Table, limit: int, names: Collection[str], wanted: Collection[tuple[int, int]]) -> Table:
    keys = tuple(key for key in table.foreign_keys if key.table.lower() in names)
    columns = table.columns
    if len(columns) > limit:
        joining = {key.column.lower() for key in keys} | {name.lower() for name in table.primary_key}

        def rank(place: int) -> tuple[bool, bool, bool, int]:
            column = columns[place]
            return (number, place) not in wanted, column.name.lower() not in joining, not is_label(column.name), place

        kept = sorted(sorted(range(len(columns)), key=rank)[:limit])
        columns = tuple(columns[place] for place in kept)
    held = {column.name.lower() for column in columns}
    return replace(table, columns=columns, foreign_keys=tuple(key for key in keys if key.column.lower() in held))


def _wanted_columns(schema: Schema, named: Sequence[Named], links: Sequence[ValueLink]) -> set[tuple[int, int]]:
    """The columns, as numbers of table and column, that words mention or that hold values."""
    mentioned = {(m.table, m.column) for item in named for m in item.mentions if m.column >= 0}
    holders = {holder for link in links for holder in link.holders or link.places}
    tables = {table for table, _ in holders}
    return mentioned | {
        (number, place)
        for number, table in enumerate(schema.tables)
        if table.name.lower() in tables
        for place, column in enumerate(table.columns)
        if (table.name.lower(), column.name.lower()) in holders
    }


def links_within(links: Sequence[ValueLink], shown: Schema) -> tuple[ValueLink, ...]:
    """The values that are held by what is shown, with places there."""
    kept = []
    for link in links:
        places = tuple(
            (table, column)
            for table, column in link.holders or link.places
            if (found := shown.table(table)) is not None and found.column(column) is not None
        )
        if places:
            kept.append(replace(link, places=places[:MAX_PLACES]))
    return tuple(kept)
