"""ON-free SQL: the short form that the model writes, and its way back to full SQL.

A join condition that follows from the schema carries no information, so the model does not write it:

    SELECT name FROM singer_in_concert, singer, concert WHERE year = 2014

`shorten` drops such conditions (and aliases) from SQL; `expand` puts them back from the foreign keys, else from an equal
id or code column, else through bridge tables (breadth first). A column without a table belongs to the first table in FROM
that holds it. Expanding what was shortened gives an equal query.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sqlglot
from sqlglot import exp

from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.schema import Column, Schema

PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")
_UNEQUAL = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")| <> """)  # outside of texts and names
# Keywords that DuckDB or SQLite does not take as the unquoted name of a column or table (each was tried).
RESERVED = frozenset(
    "add all alter analyse analyze and anti any array as asc asof asymmetric at authorization autoincrement between binary "
    "both by case cast check collate collation column commit concurrently constraint create cross current_date current_time "
    "current_timestamp default deferrable delete desc describe distinct do drop else end escape except exists false fetch "
    "for foreign freeze from full glob group having ilike in index initially inner insert intersect into is isnull join "
    "lambda lateral leading left like limit natural not nothing notnull null offset on only or order outer overlaps "
    "pivot pivot_longer pivot_wider placing positional primary qualify raise references returning right select semi set show "
    "similar some summarize symmetric table tablesample then to trailing transaction true union unique unpack unpivot update "
    "using values variadic verbose when where window with".split()
)


class Join(NamedTuple):
    """Join a table by `table.column` (already there) = `to_column` (of the new one)."""

    table: str
    column: str
    to_column: str


def identifier(name: str) -> exp.Identifier:
    """The name as a tree node, quoted only where SQL needs it."""
    return exp.to_identifier(name, quoted=name.lower() in RESERVED or not PLAIN_NAME.fullmatch(name))


def find_join(schema: Schema, present: Sequence[str], new: str) -> Join | None:
    """How `new` joins one of the `present` tables, the latest first; None when nothing tells."""
    for table in reversed(present):
        for other, mine, its in schema.links(table):
            if other == new:
                return Join(table, mine, its)
    added = schema.table(new)
    for table in reversed(present):
        there = schema.table(table)
        if added is None or there is None:
            continue
        # `id` of two tables says nothing: each is its own table's.
        shared = sorted(n for n in added.column_names & there.column_names if n.endswith(("id", "code")) and n != "id")
        if shared:
            return Join(table, shared[0], shared[0])
    return None


def find_bridge(schema: Schema, present: Sequence[str], new: str) -> list[str]:
    """Tables to pass through from any `present` table to `new` along foreign keys, without both ends."""
    queue: deque[tuple[str, list[str]]] = deque((table, []) for table in present)
    seen = set(present)
    while queue:
        table, path = queue.popleft()
        for other, _, _ in schema.links(table):
            if other == new:
                return path
            if other not in seen:
                seen.add(other)
                queue.append((other, [*path, other]))
    return []


def sources_of(select: exp.Select) -> tuple[list[exp.Expr], list[exp.Join]]:
    """What FROM lists, and the joins that list all but the first of it."""
    clause = select.args.get("from_") or select.args.get("from")
    joins = select.args.get("joins") or []
    return ([clause.this] if clause is not None else []) + [j.this for j in joins], joins


def own_columns(select: exp.Select) -> list[exp.Column]:
    """The columns that a SELECT names, without those of nested queries."""
    return [c for c in select.find_all(exp.Column) if c.find_ancestor(exp.Select) is select]


def _column_name(column: exp.Column) -> str:
    return column.name.lower()


def _single_equality(on: exp.Expr | None) -> tuple[exp.Column, exp.Column] | None:
    if isinstance(on, exp.EQ) and isinstance(on.this, exp.Column) and isinstance(on.expression, exp.Column):
        return on.this, on.expression
    return None


def shorten(sql: str, schema: Schema, dialect: str = "sqlite") -> str:
    """SQL in the short form: lower-case names, no aliases, no ON that `expand` would write itself.

    Self-joins keep their aliases and conditions. Raises sqlglot.errors.SqlglotError for what cannot be parsed.
    """
    tree = sqlglot.parse_one(sql, read=dialect)
    for select in list(tree.find_all(exp.Select)):
        sources, joins = sources_of(select)
        if all(isinstance(s, exp.Table) for s in sources):
            _shorten_select(select, sources, joins, schema)
    return short_text(tree, dialect)


def short_text(tree: exp.Expr, dialect: str = "sqlite") -> str:
    """A tree as short SQL is written, and models are trained to write it: a comma between tables, `!=`."""
    for join in tree.find_all(exp.Join):
        join.set("kind", None)
    return _UNEQUAL.sub(lambda found: found[1] or " != ", tree.sql(dialect=dialect))


def _shorten_select(select: exp.Select, tables: list[exp.Expr], joins: list[exp.Join], schema: Schema) -> None:
    names = [t.name.lower() for t in tables]
    columns = own_columns(select)
    if len(set(names)) < len(names):
        _lower_names(tables, columns)
        return
    aliases = {(t.alias or t.name).lower(): t.name.lower() for t in tables}
    for table in tables:
        table.set("alias", None)
        table.set("this", identifier(table.name.lower()))
    for i, join in enumerate(joins, start=1):
        if _follows(join, names[:i], names[i], aliases, schema):
            join.set("on", None)
    for column in columns:
        _shorten_column(column, names, aliases, schema)


def _lower_names(tables: list[exp.Expr], columns: list[exp.Column]) -> None:
    for table in tables:
        alias = table.alias
        table.set("this", identifier(table.name.lower()))
        if alias:
            table.set("alias", exp.TableAlias(this=identifier(alias.lower())))
    for column in columns:
        if not isinstance(column.this, exp.Star):
            column.set("this", identifier(_column_name(column)))
        if column.table:
            column.set("table", identifier(column.table.lower()))


def _follows(join: exp.Join, present: list[str], new: str, aliases: dict[str, str], schema: Schema) -> bool:
    """True when `expand` would write this very condition."""
    pair = _single_equality(join.args.get("on"))
    found = find_join(schema, present, new)
    if pair is None or found is None or join.args.get("side"):
        return False

    def place(column: exp.Column) -> tuple[str | None, str]:
        if column.table:
            return aliases.get(column.table.lower()), _column_name(column)
        return _holder(_column_name(column), [*present, new], schema), _column_name(column)

    return {place(pair[0]), place(pair[1])} == {(found.table, found.column), (new, found.to_column)}


def _holder(column: str, tables: Sequence[str], schema: Schema) -> str | None:
    return next(iter(_holders(column, tables, schema)), None)


def _holders(column: str, tables: Sequence[str], schema: Schema) -> list[str]:
    return [t for t in tables if (table := schema.table(t)) and column in table.column_names]


def _shorten_column(column: exp.Column, names: list[str], aliases: dict[str, str], schema: Schema) -> None:
    qualifier = column.table.lower() if column.table else None
    table = aliases.get(qualifier, qualifier) if qualifier else None
    if isinstance(column.this, exp.Star):
        if table:
            column.set("table", identifier(table))
        return
    name = _column_name(column)
    column.set("this", identifier(name))
    holders = _holders(name, names, schema)
    if table is None and len(holders) > 1:
        table = holders[0]
    if table is None or holders == [table]:
        column.set("table", None)
    else:
        column.set("table", identifier(table))


def expand(short_sql: str, schema: Schema, dialect: str = "sqlite") -> str:
    """Full SQL: every join of different tables that has no condition gets one from the schema.

    Raises sqlglot.errors.SqlglotError for what cannot be parsed.
    """
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    for select in list(tree.find_all(exp.Select)):
        sources, joins = sources_of(select)
        names = [s.name.lower() for s in sources if isinstance(s, exp.Table)]
        if joins and len(names) == len(sources) == len(set(names)):
            select.set("joins", _with_conditions(names, joins, schema))
            _qualify(select, names, schema)
    return tree.sql(dialect=dialect)


def _qualify(select: exp.Select, listed: Sequence[str], schema: Schema) -> None:
    """A plain name that several tables hold belongs to the first listed one: bridge tables do not take it away."""
    tables = [s.name.lower() for s in sources_of(select)[0]]
    labels = {e.alias.lower() for e in select.expressions if e.alias}
    for column in own_columns(select):
        name = _column_name(column)
        holders = _holders(name, listed, schema)
        if not column.table and holders and name not in labels and len(_holders(name, tables, schema)) > 1:
            column.set("table", identifier(holders[0]))


def _with_conditions(names: list[str], joins: list[exp.Join], schema: Schema) -> list[exp.Join]:
    present = [names[0]]
    result: list[exp.Join] = []
    for join, new in zip(joins, names[1:], strict=True):
        if join.args.get("on") is None and join.args.get("using") is None:
            found = find_join(schema, present, new)
            if found is None:
                for bridge in find_bridge(schema, present, new):
                    step = find_join(schema, present, bridge)
                    if step and bridge not in present and bridge not in names:
                        result.append(exp.Join(this=exp.Table(this=identifier(bridge)), on=_on(step, bridge)))
                        present.append(bridge)
                found = find_join(schema, present, new)
            if found:
                join.set("on", _on(found, new))
                join.set("kind", None)
        present.append(new)
        result.append(join)
    return result


def _on(join: Join, new: str) -> exp.EQ:
    return exp.EQ(
        this=exp.Column(this=identifier(join.column), table=identifier(join.table)),
        expression=exp.Column(this=identifier(join.to_column), table=identifier(new)),
    )


def mend(short_sql: str, schema: Schema, links: Sequence[ValueLink] = ()) -> str:
    """Compare linked texts where they stand, and add the tables that columns need but FROM lacks; else the same SQL.

    A context-free grammar cannot see that a column's table is missing; most of the time the column is right.
    """
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    _mend_values(tree, links, schema)
    for select in list(tree.find_all(exp.Select)):
        sources, _ = sources_of(select)
        names = [s.name.lower() for s in sources if isinstance(s, exp.Table)]
        if names and len(names) == len(sources) == len(set(names)) and not any(s.alias for s in sources):
            _mend_select(select, names, schema)
    return short_text(tree)


def _mend_values(tree: exp.Expr, links: Sequence[ValueLink], schema: Schema) -> None:
    """A linked text is spelt as it is stored. `category_id = 'Tents'` cannot be meant where the column is a number and 'Tents'
    stands in categories.name."""
    _mend_spellings(tree, links)
    places = {link.value: link.places[0] for link in links if len(link.places) == 1}
    for equal in list(tree.find_all(exp.EQ)):
        column, text = equal.this, equal.expression
        if isinstance(column, exp.Column) and isinstance(text, exp.Literal) and text.is_string and text.name in places:
            if all_of(column, schema, lambda c: c.is_numeric):
                table, name = places[text.name]
                equal.set("this", exp.Column(this=identifier(name), table=identifier(table)))


def _mend_spellings(tree: exp.Expr, links: Sequence[ValueLink]) -> None:
    """What the question says for a value becomes the value, where it is compared with a column that holds the value."""
    said = {link.said.lower(): link for link in links if link.said and link.said != link.value}
    for compared in list(tree.find_all(exp.EQ, exp.NEQ, exp.In)) if said else ():
        texts = compared.expressions if isinstance(compared, exp.In) else [compared.expression]
        for text in texts:
            link = said.get(text.name.lower()) if isinstance(text, exp.Literal) and text.is_string else None
            held_by = {column for _, column in link.holders or link.places} if link is not None else ()
            if link is not None and isinstance(compared.this, exp.Column) and _column_name(compared.this) in held_by:
                text.replace(exp.Literal.string(link.value))


def all_of(column: exp.Column, schema: Schema, holds: Callable[[Column], bool]) -> bool:
    """Whether something holds of every column of the schema that the name may mean, and there is one."""
    owners = [schema.table(column.table)] if column.table else list(schema.tables)
    found = [c for t in owners if t is not None and (c := t.column(column.name))]
    return bool(found) and all(map(holds, found))


def _mend_select(select: exp.Select, names: list[str], schema: Schema) -> None:
    outer = _outer_tables(select)
    columns = [c for c in own_columns(select) if not isinstance(c.this, exp.Star)]
    labels = {e.alias.lower() for e in select.expressions if e.alias}
    for column in columns:
        name, qualifier = _column_name(column), column.table.lower()
        if qualifier in names or (not qualifier and name in labels):
            continue
        needed = qualifier or _needed_table(name, names, outer, schema)
        if needed and needed not in names and needed not in outer and schema.table(needed):
            select.append("joins", exp.Join(this=exp.Table(this=identifier(needed))))
            names.append(needed)


def _outer_tables(select: exp.Select) -> set[str]:
    outer: set[str] = set()
    parent = select.find_ancestor(exp.Select)
    while parent is not None:
        outer |= {s.alias_or_name.lower() for s in sources_of(parent)[0]}
        parent = parent.find_ancestor(exp.Select)
    return outer


def _needed_table(column: str, names: list[str], outer: set[str], schema: Schema) -> str | None:
    """The table to add for an unqualified column: a neighbour of those in FROM first."""
    if _holders(column, [*names, *outer], schema):
        return None
    owners = [t.name.lower() for t in schema.tables if column in t.column_names]
    near = [t for t in owners if find_join(schema, names, t)]
    return next(iter(near or owners), None)
