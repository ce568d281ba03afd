"""What a query asked for, read from its tree: keys, counts and sums among its columns, order, limit, filters.

A `Reading` says no number; sentences and charts take their numbers from the rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.answers.phrases import AGGREGATES, Phrases, conjuncts, sources_of, thing
from openarctic.copilot.schema import Schema
from openarctic.copilot.wording import several, singular, words

Kind = Literal["column", "count", "sum", "avg", "max", "min", "other"]

_KINDS: dict[str, Kind] = {"Count": "count", "Sum": "sum", "Avg": "avg", "Max": "max", "Min": "min"}
_NAMING = re.compile(r"(^|_)(name|title|label)$", re.IGNORECASE)
DATE_WORDS = re.compile(r"\b(date|time|day|month|year|joined|opened|hired|created|updated|paid)\b")
_ID = re.compile(r"(^|_)(id|key)$|(?<=[a-z])Id$", re.IGNORECASE)
_MADE = re.compile(r"^(count|sum|avg|max|min|count_star|n|cnt|value|result|col\d*|_col_?\d+)$|[()*]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One column of the result. `noun` is what it holds ("total amount"); `is_additive`: its values may be summed over rows."""

    kind: Kind
    noun: str
    is_key: bool = False
    is_additive: bool = False

    @property
    def is_aggregate(self) -> bool:
        """A number about several rows."""
        return self.kind not in ("column", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the rows are ordered by: `output` where it stands in the result, `noun` anyway."""

    output: int | None
    noun: str
    is_descending: bool
    kind: Kind = "column"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A query's meaning. `things` is what one row of its source is, in plural ("customers"); `is_whole` tells that the rows are
    all there is: no limit, no condition on groups."""

    outputs: tuple[Output, ...]
    things: str = "rows"
    filters: tuple[str, ...] = ()
    is_grouped: bool = False
    is_whole: bool = True
    order: tuple[Order, ...] = ()
    limit: int | None = None
    is_from_start: bool = True


def read(columns: Sequence[str], sql: str | exp.Expr | None, dialect: str = "duckdb", schema: Schema | None = None) -> Reading:
    """Read a query for the result columns it gave; without a query (or with one that cannot be followed) only names tell.

    With `schema`, foreign keys tell what a row of a join is.
    """
    plain = Reading(outputs=tuple(Output(kind="column", noun=words(c)) for c in columns))
    if sql is None:
        return plain
    try:
        tree = sqlglot.parse_one(sql, read=dialect) if isinstance(sql, str) else sql
        while isinstance(tree, exp.Subquery):
            tree = tree.this
        reading = _query(tree, columns, dialect, schema)
    except (SqlglotError, RecursionError):
        return plain
    return reading or plain


def _query(tree: exp.Expr, columns: Sequence[str], dialect: str, schema: Schema | None) -> Reading | None:
    if isinstance(tree, exp.SetOperation):
        left = tree.this
        while isinstance(left, exp.SetOperation | exp.Subquery):
            left = left.this
        if not isinstance(left, exp.Select):
            return None
        phrases = Phrases(dialect, hide_numbers=True)
        outputs = tuple(replace(o, is_additive=False, is_key=False) for o in _outputs(left, columns, "rows", phrases))
        return Reading(outputs=outputs, is_whole=not tree.args.get("limit"), **_order(tree, outputs, columns, "rows", phrases))
    if not isinstance(tree, exp.Select):
        return None
    phrases = Phrases(dialect, hide_numbers=True)
    things = _things(tree, schema)
    outputs = _outputs(tree, columns, things, phrases)
    where, having = tree.args.get("where"), tree.args.get("having")
    conditions = [part for clause in (where, having) if clause is not None for part in conjuncts(clause.this)]
    return Reading(
        outputs=outputs,
        things=things,
        filters=tuple(_filter(c, phrases) for c in conditions if not _is_join(c)),
        is_grouped=bool(tree.args.get("group")),
        is_whole=not any(tree.args.get(k) for k in ("limit", "offset", "having", "qualify", "fetch")),
        **_order(tree, outputs, columns, things, phrases),
    )


def _filter(condition: exp.Expr, phrases: Phrases) -> str:
    """A condition without digits: where its very names hold some, only what it is about is said."""
    said = phrases.say(condition)
    if not re.search(r"\d", said):
        return said
    names = sorted({c.name for c in condition.find_all(exp.Column) if not re.search(r"\d", c.name)})
    return f"{' and '.join(names) if names else 'the row'} passes a filter"


def _is_join(condition: exp.Expr) -> bool:
    """Two tables' columns that are equal: no filter in the user's sense."""
    return isinstance(condition, exp.EQ) and all(isinstance(s, exp.Column) for s in (condition.this, condition.expression))


def _things(select: exp.Select, schema: Schema | None) -> str:
    """What a row of FROM is: the rows of its only table, or of the one whose keys lead to all the others."""
    sources = sources_of(select)
    names = [s.name.lower() if isinstance(s, exp.Table) and isinstance(s.this, exp.Identifier) else "" for s in sources]
    if len(names) == 1 and names[0]:
        return thing(sources[0].name)
    if schema is None or not names or not all(names) or len(set(names)) < len(names):
        return "rows"
    reach = {name: _reached(name, schema) for name in names}
    finest = [i for i, name in enumerate(names) if set(names) <= reach[name]]
    return thing(sources[finest[0]].name) if len(finest) == 1 else "rows"


def _reached(name: str, schema: Schema) -> set[str]:
    """The tables that foreign keys lead to, each row to one row."""
    seen, queue = {name}, [name]
    while queue:
        table = schema.table(queue.pop())
        for key in table.foreign_keys if table else ():
            if key.table.lower() not in seen:
                seen.add(key.table.lower())
                queue.append(key.table.lower())
    return seen


def _outputs(select: exp.Select, columns: Sequence[str], things: str, phrases: Phrases) -> tuple[Output, ...]:
    expressions = select.expressions
    if len(expressions) != len(columns) or any(e.is_star for e in expressions):
        return tuple(Output(kind="column", noun=_safe(words(c), c)) for c in columns)
    group = select.args.get("group")
    keys = {e.sql().lower() for e in group.expressions} if group else set()
    aliases = {e.alias_or_name.lower() for e in expressions if e.alias_or_name}
    sources = sources_of(select)
    found = []
    for i, (expression, column) in enumerate(zip(expressions, columns, strict=True)):
        inner = expression.unalias()
        output = _output(inner, expression.alias, column, things, phrases, sources)
        position = {str(i + 1), expression.alias_or_name.lower()} & aliases.union({str(i + 1)})
        is_key = inner.sql().lower() in keys or (bool(keys & position) and not output.is_aggregate)
        found.append(replace(output, is_key=is_key))
    return tuple(found)


def _output(inner: exp.Expr, alias: str, column: str, things: str, phrases: Phrases, sources: Sequence[exp.Expr]) -> Output:
    core = inner
    while isinstance(core, exp.Paren | exp.Round | exp.Coalesce | exp.Cast):
        core = core.this
    if isinstance(core, exp.Subquery) and isinstance(core.this, exp.Select) and len(core.this.expressions) == 1:
        nested = core.this
        of_nested = _output(nested.expressions[0].unalias(), alias, column, _things(nested, None), phrases, sources_of(nested))
        return replace(of_nested, is_additive=False)
    kind: Kind = _KINDS.get(type(core).__name__, "other")
    is_distinct = isinstance(core.this, exp.Distinct) if isinstance(core, exp.Expr) else False
    if isinstance(core, exp.Column):
        return Output(kind="column", noun=_safe((alias and words(alias)) or _column_noun(core, sources), column))
    own = words(alias) if alias and not _MADE.search(alias) else ""
    if kind == "count":
        if own and own == several(own):
            own = f"number of {own}"
        return Output(kind=kind, noun=_safe(own or _count_noun(core, things, phrases), column), is_additive=not is_distinct)
    if kind == "other":
        said = own or (phrases.say(inner).removeprefix("the ") if not isinstance(inner, exp.Window) else words(column))
        return Output(kind=kind, noun=_safe(said, column))
    what = core.this.expressions[0] if is_distinct else core.this
    measured = words(what.name) if isinstance(what, exp.Column) else phrases.say(what)
    word = AGGREGATES[type(core).__name__]
    if kind in ("max", "min") and DATE_WORDS.search(measured):
        word = "latest" if kind == "max" else "earliest"
    noun = own or f"{word} {measured}"
    return Output(kind=kind, noun=_safe(noun, column), is_additive=kind == "sum" and not is_distinct)


def _safe(noun: str, column: str) -> str:
    """Words without digits; else the column's name as the result has it."""
    return noun if noun and not re.search(r"\d", noun) else column


def _column_noun(column: exp.Column, sources: Sequence[exp.Expr]) -> str:
    """`name` of products is a product; other columns are called as they are."""
    if not _NAMING.search(column.name):
        return words(column.name)
    owners = [
        s for s in sources if isinstance(s, exp.Table) and (not column.table or s.alias_or_name.lower() == column.table.lower())
    ]
    prefix = words(_NAMING.sub("", column.name))
    if prefix:
        return prefix
    return singular(words(owners[0].name)) if owners and (column.table or len(sources) == 1) else words(column.name)


def _count_noun(count: exp.Expr, things: str, phrases: Phrases) -> str:
    inner = count.this
    if isinstance(inner, exp.Distinct):
        return f"number of different {several(listed_columns(inner.expressions, phrases))}"
    if isinstance(inner, exp.Column) and not _ID.search(inner.name) and not isinstance(inner.this, exp.Star):
        return f"number of known {words(inner.name)} values"
    return f"number of {things}"


def listed_columns(expressions: Sequence[exp.Expr], phrases: Phrases) -> str:
    """Columns as plain words."""
    return " and ".join(words(e.name) if isinstance(e, exp.Column) else phrases.say(e) for e in expressions)


def _order(tree: exp.Expr, outputs: Sequence[Output], columns: Sequence[str], things: str, phrases: Phrases) -> dict[str, Any]:
    clause, limit, offset = (tree.args.get(k) for k in ("order", "limit", "offset"))
    expressions = tree.expressions if isinstance(tree, exp.Select) else []
    orders = []
    for ordered in clause.expressions if clause else []:
        at = _place(ordered.this, outputs, expressions, columns)
        by = _output(ordered.this, "", "", things, phrases, ()) if at is None else outputs[at]
        orders.append(Order(output=at, noun=by.noun, is_descending=bool(ordered.args.get("desc")), kind=by.kind))
    count = limit.expression if isinstance(limit, exp.Limit) else None
    number = int(count.name) if isinstance(count, exp.Literal) and count.name.isdigit() else None
    return {"order": tuple(orders), "limit": number, "is_from_start": offset is None}


def _place(key: exp.Expr, outputs: Sequence[Output], expressions: Sequence[exp.Expr], columns: Sequence[str]) -> int | None:
    """Where what the rows are ordered by stands in the result."""
    if isinstance(key, exp.Literal) and key.name.isdigit():
        at = int(key.name) - 1
        return at if 0 <= at < len(outputs) else None
    text = key.sql().lower()
    is_plain = isinstance(key, exp.Column) and not key.table
    for i, column in enumerate(columns):
        written = {expressions[i].unalias().sql().lower()} if i < len(expressions) else set()
        named = {column.lower(), expressions[i].alias.lower() if i < len(expressions) else ""}
        if text in written or (is_plain and key.name.lower() in named):
            return i
    return None
