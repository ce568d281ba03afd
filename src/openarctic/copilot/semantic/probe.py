"""Small questions about the data of a database, asked through guard and worker like any other, each with a limit of time.

What takes too long is answered with None: nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlglot import exp

from openarctic.copilot.databases import Database
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import check
from openarctic.copilot.joins import identifier
from openarctic.copilot.schema import Schema, Table
from openarctic.errors import OpenArcticError

TIMEOUT_S = 5.0
SAMPLE_ROWS = 200_000


class Spread(NamedTuple):
    """Of a column in the first `SAMPLE_ROWS` rows: rows, values that are not NULL, and different ones among these."""

    rows: int
    filled: int
    distinct: int

    @property
    def is_unique(self) -> bool:
        """No value occurs twice, and none is missing, in the whole table."""
        return 0 < self.rows < SAMPLE_ROWS and self.rows == self.filled == self.distinct


class Overlap(NamedTuple):
    """Of the different values of a column: how many there are, and how many of them the other column has."""

    distinct: int
    found: int


class Probe:
    """Asks one database. Closes its worker at the end of `with`."""

    def __init__(self, database: Database, schema: Schema) -> None:
        self.schema = schema
        self._worker = Worker(database)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def rows(self, sql: str | exp.Query, limit: int = 100) -> list[tuple[Any, ...]]:
        """What a statement returns. Raises the errors of guard and worker."""
        text = sql if isinstance(sql, str) else sql.sql(dialect=self.schema.dialect)
        return self._worker.execute(check(text, self.schema.dialect, self.schema), limit=limit, timeout_s=TIMEOUT_S).rows

    def _answer(self, query: exp.Query, limit: int = 100) -> list[tuple[Any, ...]] | None:
        try:
            return self.rows(query, limit)
        except OpenArcticError:
            return None

    def spreads(self, table: Table) -> dict[str, Spread]:
        """By column name; empty where it took too long."""
        counts: list[exp.Expr] = [exp.Count(this=exp.Star())]
        for column in table.columns:
            counts.append(exp.Count(this=_column(column.name)))
            counts.append(exp.Count(this=exp.Distinct(expressions=[_column(column.name)])))
        inner = exp.select(*(_column(c.name) for c in table.columns)).from_(_table(table.name)).limit(SAMPLE_ROWS)
        found = self._answer(exp.select(*counts).from_(inner.subquery("sample")))
        if not found:
            return {}
        rows, *rest = found[0]
        return {c.name: Spread(rows, *rest[2 * i : 2 * i + 2]) for i, c in enumerate(table.columns)}

    def frequent(self, table: str, column: str, limit: int) -> list[Any]:
        """The most frequent values, equal ones in their own order."""
        inner = exp.select(_column(column)).from_(_table(table)).limit(SAMPLE_ROWS)
        query = (
            exp.select(_column(column), exp.Count(this=exp.Star()))
            .from_(inner.subquery("sample"))
            .where(exp.Not(this=exp.Is(this=_column(column), expression=exp.Null())))
            .group_by(_column(column))
            .order_by(exp.Ordered(this=exp.Count(this=exp.Star()), desc=True), exp.Ordered(this=_column(column)))
            .limit(limit)
        )
        return [value for value, _ in self._answer(query) or ()]

    def is_unique(self, table: str, columns: Sequence[str]) -> bool | None:
        """Whether no combination of values occurs twice, those with NULL left aside; None where nobody knows."""
        query = (
            exp.select(exp.Literal.number(1))
            .from_(_table(table))
            .where(*(exp.Not(this=exp.Is(this=_column(c), expression=exp.Null())) for c in columns))
            .group_by(*(_column(c) for c in columns))
            .having(exp.GT(this=exp.Count(this=exp.Star()), expression=exp.Literal.number(1)))
            .limit(1)
        )
        found = self._answer(query)
        return None if found is None else not found

    def overlap(self, left: str, columns: Sequence[str], right: str, to_columns: Sequence[str]) -> Overlap | None:
        """How many of the left table's values the right table has; None where nobody knows."""
        mine = (
            exp.select(*(exp.alias_(_column(c), f"k{i}") for i, c in enumerate(columns)))
            .distinct()
            .from_(_table(left))
            .where(*(exp.Not(this=exp.Is(this=_column(c), expression=exp.Null())) for c in columns))
            .limit(SAMPLE_ROWS)
        )
        its = exp.select(*(exp.alias_(_column(c), f"v{i}") for i, c in enumerate(to_columns))).distinct().from_(_table(right))
        on = exp.and_(
            *(exp.EQ(this=exp.column(f"k{i}", "a"), expression=exp.column(f"v{i}", "b")) for i in range(len(columns))), copy=False
        )
        query = (
            exp.select(exp.Count(this=exp.Star()), exp.Count(this=exp.column("v0", "b")))
            .from_(mine.subquery("a"))
            .join(its.subquery("b"), on=on, join_type="left")
        )
        found = self._answer(query)
        return Overlap(*found[0]) if found else None


def _table(name: str) -> exp.Table:
    return exp.Table(this=identifier(name))


def _column(name: str) -> exp.Column:
    return exp.Column(this=identifier(name))
