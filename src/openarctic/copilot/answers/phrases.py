"""SQL expressions in English, read from their tree: conditions, arithmetic, aggregates, windows, nested queries.

Every name and value of the tree stands in the words (`tests/copilot/answers/test_explain.py` holds them to it); what has no words
of its own is written as the SQL that it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp

from openarctic.copilot.wording import listed, several, words

AGGREGATES = {"Sum": "total", "Avg": "average", "Max": "highest", "Min": "lowest", "Median": "median"}
_COMPARED = {
    "EQ": "is",
    "NEQ": "is not",
    "GT": "is above",
    "GTE": "is at least",
    "LT": "is below",
    "LTE": "is at most",
    "NullSafeEQ": "is the same as",
    "NullSafeNEQ": "is not the same as",
    "Glob": "matches the glob",
    "SimilarTo": "is similar to",
}
_ARITHMETIC = {
    "Add": "plus",
    "Sub": "minus",
    "Mul": "times",
    "Div": "divided by",
    "IntDiv": "divided (without remainder) by",
    "Mod": "modulo",
    "DPipe": "followed by",
    "BitwiseAnd": "bitwise and",
    "BitwiseOr": "bitwise or",
    "BitwiseXor": "bitwise xor",
}
_WRAPPERS = {
    "Lower": "{} in lower case",
    "Upper": "{} in upper case",
    "Length": "the length of {}",
    "Abs": "the absolute value of {}",
    "Ceil": "{} rounded up",
    "Floor": "{} rounded down",
    "Year": "the year of {}",
    "Month": "the month of {}",
    "Day": "the day of {}",
    "Quarter": "the quarter of {}",
    "Week": "the week of {}",
    "Trim": "{} without surrounding spaces",
}
_WINDOWS = {
    "RowNumber": "the row number",
    "Rank": "the rank",
    "DenseRank": "the rank without gaps",
    "PercentRank": "the relative rank",
    "CumeDist": "the cumulative share",
}
# What the words for a node tell; a node with more is written as SQL. Dialects set the flags of divisions themselves.
_PAIR = frozenset({"this", "expression", "typed", "safe"})
_PARTS = {
    name: frozenset(parts.split())
    for name, parts in {
        "Like": "this expression negate",
        "ILike": "this expression negate",
        "Is": "this expression negate",
        "In": "this expressions query unnest",
        "Between": "this low high",
        "Count": "this big_int",
        "Cast": "this to",
        "TryCast": "this to safe requires_string",
        "Round": "this decimals",
        "Extract": "this expression",
        "Interval": "this unit",
        "Case": "this ifs default",
        "Window": "this alias partition_by order spec over",
        "Exists": "this",
        "Column": "this table db catalog",
        **{name: "this" for name in ("Avg", "Sum", "Median")},
        **{name: "this expressions" for name in ("Max", "Min")},
    }.items()
}
HIDDEN = "the value asked for"  # stands for values where numbers may not be named


def sources_of(select: exp.Expr) -> list[exp.Expr]:
    """What FROM and JOIN read, in order."""
    source = select.args.get("from_") or select.args.get("from")
    first = [source.this] if source is not None else []
    return [*first, *(join.this for join in select.args.get("joins") or [])]


def conjuncts(condition: exp.Expr) -> list[exp.Expr]:
    """The parts that must all hold."""
    while isinstance(condition, exp.Paren):
        condition = condition.this
    if isinstance(condition, exp.And):
        return [*conjuncts(condition.this), *conjuncts(condition.expression)]
    return [condition]


class Phrases:
    """Says the expressions of one statement. With `hide_numbers` no digit of a value is said, and no nested query."""

    def __init__(self, dialect: str, hide_numbers: bool = False) -> None:
        self.dialect, self.hide_numbers = dialect, hide_numbers

    def say(self, node: Any) -> str:
        """The words for an expression."""
        if node is None:
            return ""
        if not isinstance(node, exp.Expr):
            return str(node)
        name = type(node).__name__
        said_parts = _PARTS.get(name) or (_PAIR if name in _COMPARED or name in _ARITHMETIC else None)
        if said_parts is not None and not {k for k, v in node.args.items() if v} <= said_parts:
            return self._sql(node)  # something that the words would leave out
        method: Callable[[Any], str] | None = getattr(self, f"_{name.lower()}", None)
        if method is not None:
            return method(node)
        if name in _COMPARED:
            return f"{self.say(node.this)} {_COMPARED[name]} {self.say(node.expression)}"
        if name in _ARITHMETIC:
            return f"{self.say(node.this)} {_ARITHMETIC[name]} {self.say(node.expression)}"
        if name in AGGREGATES:
            return self._aggregate(node, AGGREGATES[name])
        if name in _WRAPPERS and set(k for k, v in node.args.items() if v) <= {"this"}:
            return _WRAPPERS[name].format(self.say(node.this))
        if name in _WINDOWS:
            return _WINDOWS[name]
        return self._sql(node)

    def _sql(self, node: exp.Expr) -> str:
        text = node.sql(dialect=self.dialect)
        return HIDDEN if self.hide_numbers and re.search(r"\d", text) else text

    # names and values

    def _column(self, node: exp.Column) -> str:
        if isinstance(node.this, exp.Star):
            return f"every column of {node.table}" if node.table else "every column"
        owner = _owner(node)
        return f"{node.name} of {owner}" if owner else node.name

    def _identifier(self, node: exp.Identifier) -> str:
        return node.name

    def _star(self, node: exp.Star) -> str:
        out, replaced = node.args.get("except_") or node.args.get("except"), node.args.get("replace")
        said = "every column" + (f" but {listed([self.say(e) for e in out])}" if out else "")
        return said + (f" with {listed([self.say(e) for e in replaced])}" if replaced else "")

    def _literal(self, node: exp.Literal) -> str:
        if self.hide_numbers and re.search(r"\d", node.name):
            return HIDDEN
        return f"'{node.name}'" if node.is_string else node.name

    def _boolean(self, node: exp.Boolean) -> str:
        return "true" if node.this else "false"

    def _null(self, _: exp.Null) -> str:
        return "NULL"

    def _alias(self, node: exp.Alias) -> str:
        said = self.say(node.this)
        return said if said == node.alias else f"{said} as {node.alias}"

    def _paren(self, node: exp.Paren) -> str:
        return f"({self.say(node.this)})"

    def _tuple(self, node: exp.Tuple) -> str:
        return f"({', '.join(self.say(e) for e in node.expressions)})"

    def _neg(self, node: exp.Neg) -> str:
        said = self.say(node.this)
        return said if said == HIDDEN else f"-{said}"

    def _cast(self, node: exp.Cast) -> str:
        kind = node.to.sql(dialect=self.dialect)
        if isinstance(node.this, exp.Literal) and kind in ("DATE", "TIMESTAMP"):
            return self.say(node.this)
        return f"{self.say(node.this)} as {kind}"

    _trycast = _cast

    def _interval(self, node: exp.Interval) -> str:
        return f"{self._bare(node.this)} {str(node.args.get('unit') or '').lower()}".strip()

    def _bare(self, node: Any) -> str:
        return self.say(node).strip("'")

    # conditions

    def _and(self, node: exp.And) -> str:
        return " and ".join(self._side(part, exp.Or) for part in (node.this, node.expression))

    def _or(self, node: exp.Or) -> str:
        return " or ".join(self._side(part, exp.And) for part in (node.this, node.expression))

    def _side(self, part: exp.Expr, looser: type[exp.Expr]) -> str:
        said = self.say(part)
        return f"({said})" if isinstance(part, looser) else said

    def _not(self, node: exp.Not) -> str:
        inner = node.this
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null) and not inner.args.get("negate"):
            return f"{self.say(inner.this)} is known"
        if isinstance(inner, exp.In):
            return self._in(inner, "is none of", "is not among")
        if isinstance(inner, exp.Exists):
            return f"there is no row in {self.query(inner.this)}"
        if isinstance(inner, exp.Like | exp.ILike):
            return self._like(inner, is_denied=not inner.args.get("negate"))
        if isinstance(inner, exp.Between):
            return f"{self.say(inner.this)} is outside {self.say(inner.args['low'])} to {self.say(inner.args['high'])}"
        said = self.say(inner)
        return f"it is not true that {f'({said})' if isinstance(inner, exp.Connector) else said}"

    def _is(self, node: exp.Is) -> str:
        is_null, is_denied = isinstance(node.expression, exp.Null), bool(node.args.get("negate"))
        if is_null:
            return f"{self.say(node.this)} is {'known' if is_denied else 'missing'}"
        return f"{self.say(node.this)} is {'not ' if is_denied else ''}{self.say(node.expression)}"

    def _between(self, node: exp.Between) -> str:
        return f"{self.say(node.this)} is from {self.say(node.args['low'])} to {self.say(node.args['high'])}"

    def _in(self, node: exp.In, any_of: str = "is one of", among: str = "is among") -> str:
        said = self.say(node.this)
        if query := node.args.get("query"):
            return f"{said} {among} {self.query(query)}"
        if node.args.get("unnest") is not None:
            return f"{said} {among} {self._sql(node.args['unnest'])}"
        values = [self.say(e) for e in node.expressions]
        if HIDDEN in values:
            return f"{said} {any_of} the values asked for"
        if len(values) == 1:
            return f"{said} {'is not' if any_of == 'is none of' else 'is'} {values[0]}"
        return f"{said} {any_of} {listed(values, 'or')}"

    def _like(self, node: exp.Like | exp.ILike, is_denied: bool | None = None) -> str:
        pattern = node.expression
        is_denied = bool(node.args.get("negate")) if is_denied is None else is_denied
        case = " in any case" if isinstance(node, exp.ILike) else ""
        verb = ("does not match", "does not contain", "does not begin with", "does not end with") if is_denied else None
        matches, contains, begins, ends = verb or ("matches", "contains", "begins with", "ends with")
        if isinstance(pattern, exp.Literal) and not (self.hide_numbers and re.search(r"\d", pattern.name)):
            core = pattern.name.strip("%")
            if core and not re.search(r"[%_\\]", core):
                name = pattern.name
                if name == f"%{core}%":
                    return f"{self.say(node.this)} {contains} '{core}'{case}"
                if name == f"{core}%":
                    return f"{self.say(node.this)} {begins} '{core}'{case}"
                if name == f"%{core}":
                    return f"{self.say(node.this)} {ends} '{core}'{case}"
        return f"{self.say(node.this)} {matches} the pattern {self.say(pattern)}{case}"

    _ilike = _like

    def _escape(self, node: exp.Escape) -> str:
        return f"{self.say(node.this)} (escape {self.say(node.expression)})"

    def _exists(self, node: exp.Exists) -> str:
        return f"there is a row in {self.query(node.this)}"

    def _any(self, node: exp.Any) -> str:
        return f"any of {self.say(node.this)}"

    def _all(self, node: exp.All) -> str:
        return f"all of {self.say(node.this)}"

    # functions

    def _count(self, node: exp.Count) -> str:
        inner = node.this
        if inner is None or isinstance(inner, exp.Star):
            return "the number of rows"
        if isinstance(inner, exp.Distinct):
            return f"the number of different {listed([self.say(e) for e in inner.expressions])}"
        return f"the number of known {self.say(inner)}"

    def _aggregate(self, node: exp.Expr, word: str) -> str:
        inner = node.this
        if isinstance(inner, exp.Distinct):
            return f"the {word} of the different {listed([self.say(e) for e in inner.expressions])}"
        return f"the {word} {self.say(inner)}" + "".join(f", {self.say(e)}" for e in node.args.get("expressions") or [])

    def _distinct(self, node: exp.Distinct) -> str:
        return f"different {listed([self.say(e) for e in node.expressions])}"

    def _round(self, node: exp.Round) -> str:
        places = node.args.get("decimals")
        if self.hide_numbers:
            return f"{self.say(node.this)} (rounded)"
        return f"{self.say(node.this)} rounded" + (f" to {self.say(places)} decimals" if places is not None else "")

    def _coalesce(self, node: exp.Coalesce) -> str:
        return " or else ".join(self.say(e) for e in (node.this, *node.expressions))

    def _extract(self, node: exp.Extract) -> str:
        return f"the {str(node.this).lower()} of {self.say(node.expression)}"

    def _datetrunc(self, node: Any) -> str:
        return f"the {self._bare(node.args.get('unit')).lower()} of {self.say(node.this)}"

    _timestamptrunc = _datetrunc

    def _case(self, node: exp.Case) -> str:
        subject = f"{self.say(node.this)} is " if node.this is not None else ""
        parts = [f"{self.say(i.args['true'])} if {subject}{self.say(i.this)}" for i in node.args.get("ifs") or []]
        default = node.args.get("default")
        return ", ".join(parts) + f", else {self.say(default) if default is not None else 'NULL'}"

    def _if(self, node: exp.If) -> str:
        other = node.args.get("false")
        return f"{self.say(node.args['true'])} if {self.say(node.this)}, else {self.say(other) if other is not None else 'NULL'}"

    def _rollup(self, node: exp.Rollup) -> str:
        return f"{listed([self.say(e) for e in node.expressions])}, with subtotals from right to left"

    def _cube(self, node: exp.Cube) -> str:
        return f"{listed([self.say(e) for e in node.expressions])}, with subtotals of all combinations"

    def _groupingsets(self, node: exp.GroupingSets) -> str:
        sets = [self.say(e) if e.find(exp.Column) else "nothing (all rows)" for e in node.expressions]
        return f"of these sets: {', '.join(sets)}"

    def _filter(self, node: exp.Filter) -> str:
        return f"{self.say(node.this)}, only where {self.say(node.expression.this)}"

    def _withingroup(self, node: exp.WithinGroup) -> str:
        return f"{self.say(node.this)} within {self.order(node.expression)}"

    def _ignorenulls(self, node: exp.IgnoreNulls) -> str:
        return f"{self.say(node.this)} (NULL left out)"

    def _respectnulls(self, node: exp.RespectNulls) -> str:
        return self.say(node.this)

    def _window(self, node: exp.Window) -> str:
        said = self.say(node.this)
        if node.alias:
            said += f" over the window {node.alias}"
        if parts := node.args.get("partition_by"):
            said += f" within each {listed([self.say(p) for p in parts])}"
        if order := node.args.get("order"):
            said += f", {self.order(order)}"
        if spec := node.args.get("spec"):
            said += f" ({self._sql(spec).lower()})" if self._sql(spec) != HIDDEN else ""
        return said

    def order(self, node: exp.Expr) -> str:
        """ORDER BY in words."""
        return f"ordered by {listed([self.say(e) for e in node.expressions])}"

    def _ordered(self, node: exp.Ordered) -> str:
        ends = " (NULL first)" if node.args.get("nulls_first") and node.args.get("desc") else ""
        return f"{self.say(node.this)}, {'highest first' if node.args.get('desc') else 'lowest first'}{ends}"

    # nested queries

    def _subquery(self, node: exp.Subquery) -> str:
        return self.query(node)

    def _select(self, node: exp.Select) -> str:
        return self.query(node)

    def _union(self, node: exp.SetOperation) -> str:
        return self.query(node)

    _except = _intersect = _union

    def query(self, node: exp.Expr) -> str:
        """A nested query in one phrase, in parentheses; where numbers are hidden, that there is one."""
        if self.hide_numbers:
            return "what a nested query finds"
        while isinstance(node, exp.Subquery) and not _modifiers(node):
            node = node.this
        if isinstance(node, exp.SetOperation):
            joined = {"Union": "together with", "Except": "without", "Intersect": "that are also in"}[type(node).__name__]
            return f"({self.query(node.this)} {joined} {self.query(node.expression)})"
        return self._one_phrase(node) if isinstance(node, exp.Select) else f"({self._sql(node)})"

    def _one_phrase(self, node: exp.Select) -> str:
        parts = [listed([self.say(e) for e in node.expressions])]
        if node.args.get("distinct"):
            parts[0] = f"different {parts[0]}"
        if sources := sources_of(node):
            parts.append(f"in {' with '.join(self.source(s) for s in sources)}")
        conditions = [join.args["on"] for join in node.args.get("joins") or [] if join.args.get("on")]
        if where := node.args.get("where"):
            conditions.append(where.this)
        if conditions:
            parts.append(f"where {' and '.join(self._side(c, exp.Or) for c in conditions)}")
        if group := node.args.get("group"):
            parts.append(f"for each {listed([self.say(e) for e in group.expressions])}")
        if having := node.args.get("having"):
            parts.append(f"if {self.say(having.this)}")
        if order := node.args.get("order"):
            parts.append(self.order(order))
        if limit := node.args.get("limit"):
            parts.append(f"at most {self.say(limit.expression)}")
        return f"({' '.join(parts)})"

    def source(self, node: exp.Expr) -> str:
        """What is read from: a table, a nested query, a series."""
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return node.name if node.alias in ("", node.name) else f"{node.name} (called {node.alias})"
        if isinstance(node, exp.Subquery):
            inner = self.query(node.this)
            return f"{inner} called {node.alias}" if node.alias else inner
        return self._sql(node)


def _modifiers(node: exp.Subquery) -> bool:
    return any(node.args.get(k) for k in ("limit", "order", "where", "offset"))


def _owner(column: exp.Column) -> str:
    """The table that a qualified column is of; the alias where the query reads that table twice; nothing where there is one."""
    if not column.table:
        return ""
    tables = list(column.root().find_all(exp.Table))
    if len(tables) == 1 and not column.root().find(exp.Subquery):
        return ""
    select = column.find_ancestor(exp.Select)
    while select is not None:
        for source in sources_of(select):
            if source.alias_or_name.lower() == column.table.lower():
                is_twice = sum(other.name.lower() == source.name.lower() for other in tables) > 1
                return source.name if isinstance(source, exp.Table) and not is_twice else column.table
        select = select.find_ancestor(exp.Select)
    return column.table


def thing(table: str) -> str:
    """The rows of a table, in plural: `order_items` are `order items`."""
    return several(words(table))
