"""What the model may have meant: statements beside the one it wrote, each changed in one place where small models often err.

They stand for election like the others, marked, and only where a calibration weighs candidates: nothing here is believed. All
work is on the short SQL (`joins.py`), where a table is a name in FROM and join conditions follow from the schema.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.asked import Asked
from openarctic.copilot.features import Evidence
from openarctic.copilot.joins import identifier, mend, short_text, sources_of
from openarctic.copilot.prune import prune
from openarctic.copilot.schema import Schema

LOGPROB = -2.0  # what a change costs, beside the statement that it is made of
MAX_VARIANTS = 6
_NAMING = ("name", "title")  # what stands for a key, the better first


def variants(short_sql: str, schema: Schema, evidence: Evidence) -> list[str]:
    """At most `MAX_VARIANTS` other statements; none for what cannot be parsed."""
    try:
        tree = sqlglot.parse_one(short_sql, read="sqlite")
        found = [
            *_other_owners(tree, schema),
            *_other_limit(tree, evidence.asked),
            *_fewer_tables(short_sql, schema),
            *_said_columns(tree, evidence),
            *_names_for_keys(tree, schema, evidence),
        ]
    except SqlglotError:
        return []
    return [sql for sql in dict.fromkeys(found) if sql != short_sql][:MAX_VARIANTS]


def _plain_tables(select: exp.Select) -> list[str]:
    """The names of the tables in FROM that have no other."""
    return [s.name.lower() for s in sources_of(select)[0] if isinstance(s, exp.Table) and not s.alias]


def _other_owners(tree: exp.Expr, schema: Schema) -> Iterator[str]:
    """`name` of another table in FROM: genres.name for tracks.name, wherever it is selected, grouped or ordered by."""
    if not isinstance(tree, exp.Select):
        return
    names = _plain_tables(tree)
    if len(names) < 2 or len(set(names)) < len(sources_of(tree)[0]):
        return
    for place, output in enumerate(tree.expressions):
        column = output.unalias()
        if not isinstance(column, exp.Column) or isinstance(column.this, exp.Star):
            continue
        holders = [n for n in names if (t := schema.table(n)) and column.name.lower() in t.column_names]
        owner = column.table.lower() or (holders[0] if holders else "")
        for holder in holders:
            if holder != owner:
                yield _with_column(tree, place, column, exp.Column(this=column.this, table=identifier(holder)))


def _said_columns(tree: exp.Expr, evidence: Evidence) -> Iterator[str]:
    """A column of the same tables that the question names, for a selected one that it does not: tracks.name for tracks.id."""
    if not isinstance(tree, exp.Select):
        return
    names = _plain_tables(tree)
    used = {(column.table.lower(), column.name.lower()) for column in tree.find_all(exp.Column)}
    said = [(table, name) for table, name in evidence.named_columns(names) if not used & {(table, name), ("", name)}]
    for place, output in enumerate(tree.expressions):
        columns = list(output.find_all(exp.Column))
        counts_rows = output.find(exp.Count) is not None and output.find(exp.Distinct) is None
        if len(columns) != 1 or isinstance(columns[0].this, exp.Star) or counts_rows:
            continue
        holders = [n for n in names if (n, columns[0].name.lower()) in evidence.names.columns]
        if any(evidence.said((n, columns[0].name.lower())) == 1 for n in holders):
            continue
        for table, name in said:
            is_shared = sum((other, name) in evidence.names.columns for other in names) > 1
            instead = exp.Column(this=identifier(name), table=identifier(table) if is_shared else None)
            yield _with_column(tree, place, columns[0], instead)


def _with_column(tree: exp.Select, place: int, column: exp.Column, instead: exp.Column) -> str:
    """`instead` of that output's column, also where the statement groups and orders by it."""
    copy = tree.copy()
    group, order = copy.args.get("group"), copy.args.get("order")
    spots: list[exp.Expr] = [copy.expressions[place], *([group] if group else []), *([order] if order else [])]
    for spot in spots:
        for own in list(spot.find_all(exp.Column)):
            if own.name.lower() == column.name.lower() and own.table.lower() == column.table.lower():
                own.replace(instead.copy())
    return short_text(copy)


def _other_limit(tree: exp.Expr, asked: Asked) -> Iterator[str]:
    """As many rows as the question asks for, where the statement has another limit."""
    limit = tree.args.get("limit")
    if asked.rows is None or limit is None or limit.expression.sql() == str(asked.rows):
        return
    copy = tree.copy()
    copy.set("limit", exp.Limit(expression=exp.Literal.number(asked.rows)))
    yield short_text(copy)


def _fewer_tables(short_sql: str, schema: Schema) -> Iterator[str]:
    """Without the tables that nothing is read of, also where the question speaks of them, or they are counted or shown by `*`."""
    yield prune(short_sql, schema, "")
    yield prune(short_sql, schema, "", is_careful=False)


def _names_for_keys(tree: exp.Expr, schema: Schema, evidence: Evidence) -> Iterator[str]:
    """The name of what a selected key points at, where the question does not say the key: genres.name for genre_id."""
    if not isinstance(tree, exp.Select):
        return
    names = _plain_tables(tree)
    for place, output in enumerate(tree.expressions):
        column = output.unalias()
        if not isinstance(column, exp.Column) or evidence.is_said(column.name.lower(), column.table.lower()):
            continue
        keys = (key for n in names if (t := schema.table(n)) for key in t.foreign_keys)
        for other in dict.fromkeys(key.table.lower() for key in keys if key.column.lower() == column.name.lower()):
            named = [c for c in _NAMING if (t := schema.table(other)) and c in t.column_names]
            if named:
                instead = exp.Column(this=identifier(named[0]), table=identifier(other))
                yield mend(_with_column(tree, place, column, instead), schema)
