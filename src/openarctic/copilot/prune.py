"""Tables that a query joins for nothing: small models like to join more than a question asks for.

A table is superfluous when no column of it is read, keys join the others without it, and the question does not speak of it:
"emails of the customers from Rome" does not mean only those with a complaint. A column that the join makes equal to one of
another table is read from there. A table that is only counted (`COUNT(*)` of two tables) stays: it gives the number; so does what
`*` shows, and what stands on the sides of UNION, INTERSECT and EXCEPT, where rows are compared.
"""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp

from openarctic.copilot.joins import identifier, own_columns, short_text, sources_of
from openarctic.copilot.linking.words import name_stems, stem
from openarctic.copilot.schema import Schema

PREFIX = 5


def prune(short_sql: str, schema: Schema, question: str, is_careful: bool = True) -> str:
    """The same short SQL without superfluous tables; unless `is_careful`, also without those that are only counted, or shown by
    `*`. Raises sqlglot.errors.SqlglotError for what cannot be parsed."""
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    said = {stem(word) for word in re.findall(r"[a-z0-9]+", question.lower())}
    sides = {id(select) for operation in tree.find_all(exp.SetOperation) for select in operation.find_all(exp.Select)}
    dropped = [_prune_select(s, schema, said, is_careful) for s in list(tree.find_all(exp.Select)) if id(s) not in sides]
    return short_text(tree) if any(dropped) else short_sql


def _prune_select(select: exp.Select, schema: Schema, said: set[str], is_careful: bool) -> bool:
    sources, joins = sources_of(select)
    names = [source.name.lower() for source in sources]
    is_plain = all(isinstance(s, exp.Table) and not s.alias and schema.table(s.name) for s in sources)
    has_conditions = any(join.args.get(part) for join in joins for part in ("on", "using", "side"))
    has_star = is_careful and any(e.is_star for e in select.expressions)
    if not is_plain or has_conditions or has_star or len(set(names)) < len(names):
        return False
    kept = names
    is_counted = any(_is_count(c) for c in select.find_all(exp.Count) if c.find_ancestor(exp.Select) is select)
    least = 2 if is_counted and is_careful else 1
    for name in reversed(names):
        others = [n for n in kept if n != name]
        is_unsaid = len(others) >= least and not _speaks_of(said, name, others)
        if is_unsaid and _are_joined(others, schema) and _read_elsewhere(select, name, kept, schema):
            kept = others
    if len(kept) == len(names):
        return False
    first, *rest = (exp.Table(this=source.this) for source, name in zip(sources, names, strict=True) if name in kept)
    select.set("from_" if "from_" in select.args else "from", exp.From(this=first))
    select.set("joins", [exp.Join(this=table) for table in rest])
    return True


def _speaks_of(said: set[str], name: str, others: list[str]) -> bool:
    """Whether a word of the question begins as a word of the table's name does: `enroll` is meant by "enrolled". Words that the
    names of the other tables have too tell nothing: "customer" does not speak of customer_payments beside customers.
    """
    own = name_stems(name)
    telling = own.difference(*map(name_stems, others)) or own
    return not {word[:PREFIX] for word in said}.isdisjoint(word[:PREFIX] for word in telling)


def _is_count(expression: exp.Expr) -> bool:
    """COUNT(*)"""
    return isinstance(expression, exp.Count) and isinstance(expression.this, exp.Star)


def _read_elsewhere(select: exp.Select, name: str, names: list[str], schema: Schema) -> bool:
    """Read the columns of table `name` from the other of `names` that a key joins it to, where it has them too. False, with
    nothing changed, if another of its columns is read, if more keys than one may join it, or if a nested query may read from it.
    """
    own = set(map(id, own_columns(select)))
    read = [column for column in select.find_all(exp.Column) if name in _owners(column, names, schema, id(column) in own)]
    keys = [key for key in schema.links(name) if key[0] in names]
    equal = {mine: exp.column(identifier(its), table=identifier(other)) for other, mine, its in keys} if len(keys) == 1 else {}
    if any(id(column) not in own or column.name.lower() not in equal for column in read):
        return False
    for column in read:
        column.replace(equal[column.name.lower()].copy())
    return True


def _owners(column: exp.Column, names: list[str], schema: Schema, is_own: bool) -> list[str]:
    """The tables that a column may be of: a plain name is of the first that holds it; in a nested query, which may mean another
    table by it, of any.
    """
    holders = [n for n in names if (table := schema.table(n)) and column.name.lower() in table.column_names]
    if column.table:
        return [column.table.lower()]
    return holders[:1] if is_own else holders


def _are_joined(names: list[str], schema: Schema) -> bool:
    """Whether declared keys lead from each table to an earlier one."""
    return all(any(other in names[:i] for other, _, _ in schema.links(name)) for i, name in enumerate(names) if i)
