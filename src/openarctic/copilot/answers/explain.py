"""What a query does, step by step in plain words, read from its tree: read, join, keep, group, show, order."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.answers.phrases import Phrases, conjuncts
from openarctic.copilot.wording import counted, listed
from openarctic.errors import RefusedError

INDENT = "   "

_SIDES = {
    "LEFT": "where there is none, the row stays and the other's columns are NULL",
    "RIGHT": "rows of {} without a partner stay too, with NULL for the rest",
    "FULL": "rows without a partner stay on both sides, with NULL for the rest",
}
_SET_OPERATIONS = {
    exp.Union: ("Add the rows of:", "Rows that repeat are left out.", "Rows that repeat stay."),
    exp.Intersect: ("Keep only the rows that are also in:", "Rows that repeat are left out.", "Rows stay as often as in both."),
    exp.Except: ("Take away the rows that are in:", "Rows that repeat are left out.", "Each takes away one."),
}


def explain(sql: str | exp.Expr, dialect: str) -> list[str]:
    """The steps of a query, one a line; what belongs to a nested query is indented.

    Raises RefusedError (unparsable) for what is no SQL.
    """
    try:
        tree = sqlglot.parse_one(sql, read=dialect) if isinstance(sql, str) else sql
        return _Explainer(dialect).steps(tree)
    except (SqlglotError, RecursionError) as error:
        raise RefusedError("unparsable", f"this is not {dialect} SQL that can be understood") from error


class _Explainer:
    """Says the clauses; `Phrases` says what stands in them."""

    def __init__(self, dialect: str) -> None:
        self.phrases = Phrases(dialect)

    def steps(self, node: exp.Expr) -> list[str]:
        """The lines for a query and everything in it."""
        if isinstance(node, exp.Subquery):
            return [*self.steps(node.this), *self._ending(node)]
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node)
        if isinstance(node, exp.Select):
            return self._select(node)
        if isinstance(node, exp.Pivot):
            return [f"Pivot: {node.sql(dialect=self.phrases.dialect)}"]
        return self._source("Read", node, "")

    def _nested(self, head: str, node: exp.Expr) -> list[str]:
        return [head, *(INDENT + line for line in self.steps(node))]

    def _with(self, node: exp.Expr) -> list[str]:
        clause = node.args.get("with_") or node.args.get("with")
        lines = []
        for cte in clause.expressions if clause else []:
            columns = [c.name for c in cte.args["alias"].args.get("columns") or []]
            head = f"Make {cte.alias}" + (f" with the columns {listed(columns)}" if columns else "")
            again = " (it reads what it has made so far, until nothing is new)" if clause and clause.args.get("recursive") else ""
            lines += self._nested(f"{head}{again}:", cte.this)
        return lines

    def _set_operation(self, node: exp.SetOperation) -> list[str]:
        head, distinct, every = _SET_OPERATIONS[type(node)]
        last = every if node.args.get("distinct") is False else distinct
        lines = [*self._with(node), *self._nested("Take the rows of:", node.this), *self._nested(head, node.expression), last]
        return lines + self._ending(node)

    def _select(self, node: exp.Select) -> list[str]:
        say = self.phrases.say
        lines = [*self._with(node), *self._from(node)]
        if where := node.args.get("where"):
            lines.append(f"Keep the rows where {self._all_of(where.this)}.")
        lines += self._group(node)
        if having := node.args.get("having"):
            lines.append(f"Keep the groups where {self._all_of(having.this)}.")
        for window in node.args.get("windows") or []:
            lines.append(f"Call this window {window.name}:{say(window).removeprefix(window.name)}.")
        if qualify := node.args.get("qualify"):
            lines.append(f"Keep the rows where {self._all_of(qualify.this)}.")
        lines.append(f"Show {listed([say(e) for e in node.expressions])}.")
        if distinct := node.args.get("distinct"):
            on = distinct.args.get("on")
            each = f"Keep only the first row for each {self._each(on)}." if on is not None else "Leave out rows that repeat."
            lines.append(each)
        return lines + self._ending(node)

    def _each(self, on: exp.Expr) -> str:
        return listed([self.phrases.say(e) for e in (on.expressions or [on])])

    def _all_of(self, condition: exp.Expr) -> str:
        parts = conjuncts(condition)
        said = [f"({self.phrases.say(p)})" if isinstance(p, exp.Or) and len(parts) > 1 else self.phrases.say(p) for p in parts]
        return " and ".join(said)

    def _from(self, node: exp.Select) -> list[str]:
        source = node.args.get("from_") or node.args.get("from")
        lines = [] if source is None else self._source("Read", source.this, "")
        for join in node.args.get("joins") or []:
            lines += self._join(join)
        for lateral in node.args.get("laterals") or []:
            lines += self._source("For each row, add those of", lateral, "")
        if sample := node.args.get("sample"):
            lines.append(f"Keep a sample: {sample.sql(dialect=self.phrases.dialect).strip()}.")
        return lines

    def _source(self, verb: str, source: exp.Expr, rest: str) -> list[str]:
        if isinstance(source, exp.Lateral) and isinstance(source.this, exp.Subquery):
            return self._nested(f"For each row, add those of {source.alias or 'a nested query'}{rest}, which is:", source.this)
        if isinstance(source, exp.Subquery):
            name = source.alias or "a nested query"
            return self._nested(f"{verb} {name}{rest}, which is:", source.this)
        nested = source.args.get("joins") or []
        sample = f", of which a sample: {source.args['sample'].sql()}" if source.args.get("sample") else ""
        pivots = [f"Pivot: {p.sql(dialect=self.phrases.dialect)}" for p in source.args.get("pivots") or []]
        lines = [f"{verb} {self.phrases.source(source)}{sample}{rest}.", *pivots]
        return lines + [line for join in nested for line in self._join(join)]

    def _join(self, join: exp.Join) -> list[str]:
        name = join.this.alias_or_name or "the other"
        on, using = join.args.get("on"), join.args.get("using")
        side, kind, method = (str(join.args.get(k) or "").upper() for k in ("side", "kind", "method"))
        if on is not None:
            rest = f" where {self._all_of(on)}"
        elif using:
            rest = f" where {listed([f'{u.name} is the same' for u in using])}"
        elif method == "NATURAL":
            rest = " where all columns of the same name are the same"
        else:
            return self._source("Combine every row with every row of", join.this, "")
        if kind in ("SEMI", "ANTI"):
            return self._source(
                "Keep the rows that have a partner in" if kind == "SEMI" else "Keep the rows without one in", join.this, rest
            )
        nearest = ", the nearest one only" if method == "ASOF" else ""
        tail = f" ({_SIDES[side].format(name)})" if side in _SIDES else ""
        return self._source("Add to each row those of", join.this, rest + nearest + tail)

    def _group(self, node: exp.Select) -> list[str]:
        group = node.args.get("group")
        if group is None:
            own = [a for e in node.expressions for a in e.find_all(exp.AggFunc)]
            own = [a for a in own if a.find_ancestor(exp.Select) is node and not a.find_ancestor(exp.Window)]
            return ["Take all of these rows together."] if own else []
        if group.args.get("all"):
            return ["Make one row for each combination of what is shown and no aggregate."]
        sets = [part for name in ("rollup", "cube", "grouping_sets") for part in group.args.get(name) or []]
        return [f"Make one row for each {listed([self._key(node, e) for e in (*group.expressions, *sets)])}."]

    def _key(self, node: exp.Select, key: exp.Expr) -> str:
        """GROUP BY 1 is the first shown column."""
        if isinstance(key, exp.Literal) and key.name.isdigit() and 1 <= int(key.name) <= len(node.expressions):
            return f"{self.phrases.say(node.expressions[int(key.name) - 1].unalias())} (column {key.name})"
        return self.phrases.say(key)

    def _ending(self, node: exp.Expr) -> list[str]:
        lines = []
        if order := node.args.get("order"):
            said = []
            for ordered in order.expressions:
                key = self._key(node, ordered.this) if isinstance(node, exp.Select) else self.phrases.say(ordered.this)
                nulls = " (NULL first)" if ordered.args.get("desc") and ordered.args.get("nulls_first") else ""
                said.append(f"{key}, {'highest' if ordered.args.get('desc') else 'lowest'} first{nulls}")
            lines.append(f"Order by {'; then '.join(said)}.")
        if offset := node.args.get("offset"):
            lines.append(f"Skip {counted(self.phrases.say(offset.expression), 'rows')}.")
        if limit := node.args.get("limit"):
            count = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression
            lines.append(f"Stop after {counted(self.phrases.say(count) if count is not None else '1', 'rows')}.")
        return lines
