"""Queries that people wrote for one database, carried over to others: their shapes, with other tables, columns and values.

Patterns by hand (`synthesis.py`) say little of how people combine clauses. Here a training query keeps its clauses, joins and
numbers of rows, and gets the names of another schema: tables that are joined as its own were, columns of the same role (key,
number, text), values that are stored in them. What is made runs on the other database and finds something there.
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.databases import sqlite_uri
from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.joins import expand, own_columns, shorten, sources_of
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.synthesis import AWKWARD, is_plain

MAX_TRIES = 20  # to find tables, then columns
MAX_SECONDS = 1.0  # of one query
MAX_ROWS = 2000

Place = tuple[str, str]  # of a column: table and name, both in lower case


class NoTransferError(Exception):
    """The query has no counterpart in the other schema."""


class Rows:
    """Reads the rows of one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(sqlite_uri(path)[0], uri=True)
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
        self._deadline = 0.0
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 10_000)

    def run(self, sql: str) -> list[tuple[Any, ...]] | None:
        """The first rows; None for what fails or takes longer than a second."""
        self._deadline = time.monotonic() + MAX_SECONDS
        try:
            with closing(self._connection.execute(sql)) as cursor:
                return cursor.fetchmany(MAX_ROWS)
        except sqlite3.Error:
            return None

    def number(self, place: Place, rng: random.Random) -> str | None:
        """A number that stands in the column."""
        table, column = place
        rows = self.run(f'SELECT DISTINCT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL ORDER BY 1 LIMIT 500')
        numbers = [value for (value,) in rows or () if isinstance(value, int | float)]
        return f"{rng.choice(numbers):g}" if numbers else None

    def close(self) -> None:
        """Of the file."""
        self._connection.close()


def transfer(
    sources: Sequence[tuple[str, str]], linked: Mapping[str, LinkedSchema], files: Mapping[str, Path], count: int, seed: int
) -> Iterator[tuple[str, str]]:
    """`count` pairs of a database's name and short SQL for it, the same ones for the same seed, none of them twice.

    `sources` are such pairs that people wrote. `linked` has the schemas of all these databases, `files` the SQLite files of those
    to write for. Ends early where too few of the tries give anything.
    """
    rng = random.Random(seed)
    rows = {name: Rows(path) for name, path in sorted(files.items()) if name in linked}
    parsed: dict[tuple[str, str], exp.Expr] = {}
    known = set(sources)
    names = list(rows)
    for _ in range(200 * count):
        if count <= 0:
            break
        source, target = rng.choice(sources), rng.choice(names)
        if source not in parsed:
            parsed[source] = sqlglot.parse_one(source[1], read="sqlite")
        try:
            sql = _Transfer(parsed[source], linked[source[0]].schema, linked[target].schema, rows[target], rng).sql()
        except (NoTransferError, SqlglotError):
            continue
        if (target, sql) not in known and _finds_something(rows[target].run(expand(sql, linked[target].schema))):
            known.add((target, sql))
            count -= 1
            yield target, sql
    for each in rows.values():
        each.close()


def _finds_something(rows: list[tuple[Any, ...]] | None) -> bool:
    return bool(rows) and any(value not in (None, 0) for row in rows or () for value in row)


class _Transfer:
    """One query on its way to one schema."""

    def __init__(self, tree: exp.Expr, source: Schema, target: Schema, rows: Rows, rng: random.Random) -> None:
        self.tree, self.source, self.target, self.rows, self.rng = tree.copy(), source, target, rows, rng
        self.places: dict[int, Place] = {}  # of column nodes
        self.tables: dict[str, str] = {}
        self.columns: dict[Place, Place] = {}

    def sql(self) -> str:
        """The short SQL for the target. Raises NoTransferError."""
        self._read()
        for _ in range(MAX_TRIES):
            if self._choose_tables() and self._choose_columns():
                break
        else:
            raise NoTransferError
        self._fill()
        self._rename()
        return shorten(self.tree.sql(dialect="sqlite"), self.target)

    def _read(self) -> None:
        """What tables and columns it names, by place."""
        for select in self.tree.find_all(exp.Select):
            tables, _ = sources_of(select)
            if not tables or any(not isinstance(t, exp.Table) or t.alias for t in tables):
                raise NoTransferError
            names = [t.name.lower() for t in tables]
            self.tables |= dict.fromkeys(names, "")
            for column in own_columns(select):
                if not isinstance(column.this, exp.Star):
                    self.places[id(column)] = self._place(column, names)
        if any(self.source.table(name) is None for name in self.tables):
            raise NoTransferError

    def _place(self, column: exp.Column, names: list[str]) -> Place:
        name, wanted = column.name.lower(), [column.table.lower()] if column.table else names
        holder = next((t for t in wanted if (table := self.source.table(t)) and table.column(name)), None)
        if holder is None or holder not in names:
            raise NoTransferError
        return holder, name

    # Tables

    def _choose_tables(self) -> bool:
        """Any that are joined as the query's own are."""
        chosen: dict[str, str] = {}
        for name in self.tables:
            joined = [o for o, _, _ in self.source.links(name) if o in chosen]
            if not joined and chosen:
                return False
            options = self._neighbours(chosen[joined[0]]) if joined else [t.name.lower() for t in self.target.tables]
            free = [t for t in options if t not in chosen.values() and is_plain(self._table(t))]
            fitting = [t for t in free if all(t in self._neighbours(chosen[o]) for o in joined)]
            if not fitting:
                return False
            chosen[name] = self.rng.choice(fitting)
        self.tables = chosen
        return True

    def _neighbours(self, table: str) -> list[str]:
        return sorted({o for o, _, _ in self.target.links(table) if self.target.table(o)})

    def _table(self, name: str) -> Table:
        table = self.target.table(name)
        assert table is not None
        return table

    # Columns

    def _choose_columns(self) -> bool:
        self.columns = {}
        for place in dict.fromkeys(self.places.values()):
            options = [c for c in self._options(place) if c not in self.columns.values()]
            if not options:
                return False
            self.columns[place] = self.rng.choice(options)
        return True

    def _options(self, place: Place) -> list[Place]:
        """Columns of the other table that play the same role."""
        table, name = place
        there = self.tables[table]
        for other, mine, _ in self.source.links(table):
            if mine == name and other in self.tables:  # one end of a join
                return [(there, m) for o, m, _ in self.target.links(there) if o == self.tables[other]]
        own = self.source.table(table)
        column = own.column(name) if own else None
        assert own is not None and column is not None
        role = _role(own, column)
        needs_values = self._is_compared_with_text(place)
        return [
            (there, c.name.lower())
            for c in self._table(there).columns
            if _role(self._table(there), c) == role and (c.values or not needs_values)
        ]

    def _is_compared_with_text(self, place: Place) -> bool:
        texts = (literal for literal in self.tree.find_all(exp.Literal) if literal.is_string)
        compared = (column for text in texts if (column := _compared_column(text)) is not None)
        return any(self.places.get(id(column)) == place for column in compared)

    # Values

    def _fill(self) -> None:
        """Other values for other columns; how many rows are wanted or counted stays."""
        for literal in list(self.tree.find_all(exp.Literal)):
            column = _compared_column(literal)
            if column is None:
                continue
            place = self.columns[self.places[id(column)]]
            literal.replace(self._text(place, literal) if literal.is_string else self._number(place))

    def _text(self, place: Place, old: exp.Expr) -> exp.Expr:
        column = self._table(place[0]).column(place[1])
        assert column is not None
        values = [v for v in column.values if v and not AWKWARD.search(v) and len(v) <= 40]
        if not values:
            raise NoTransferError
        value = self.rng.choice(values)
        if isinstance(old.parent, exp.Like):
            before, after = old.name.startswith("%"), old.name.endswith("%")
            part = self.rng.choice(value.split())
            if not re.fullmatch(r"[\w-]+", part) or not (before or after):
                raise NoTransferError
            short = len(old.name.strip("%")) <= 2
            value = f"{'%' * before}{part[: 1 if short else None] if after else part[-1 if short else 0 :]}{'%' * after}"
        return exp.Literal.string(value)

    def _number(self, place: Place) -> exp.Expr:
        number = self.rows.number(place, self.rng)
        if number is None or "e" in number:
            raise NoTransferError
        return sqlglot.parse_one(number)

    # Names

    def _rename(self) -> None:
        for column in list(self.tree.find_all(exp.Column)):
            place = self.places.get(id(column))
            if place is not None:
                table, name = self.columns[place]
                column.set("this", exp.to_identifier(name))
                column.set("table", exp.to_identifier(table))
            elif column.table:
                column.set("table", exp.to_identifier(self.tables[column.table.lower()]))
        for named in self.tree.find_all(exp.Table):
            named.set("this", exp.to_identifier(self.tables[named.name.lower()]))


def _compared_column(literal: exp.Literal) -> exp.Column | None:
    """The column that a literal is compared with, if it is."""
    parent = literal.parent
    if isinstance(parent, exp.Neg):
        parent = parent.parent
    if not isinstance(parent, exp.EQ | exp.NEQ | exp.GT | exp.GTE | exp.LT | exp.LTE | exp.Like | exp.In | exp.Between):
        return None
    return parent.this if isinstance(parent.this, exp.Column) else None


def _role(table: Table, column: Column) -> str:
    name = column.name.lower()
    if [name] == [c.lower() for c in table.primary_key]:
        return "primary key"
    if any(key.column.lower() == name for key in table.foreign_keys):
        return "foreign key"
    return "number" if column.is_numeric else "text"
