"""Statements rewritten so that they read just what a principal may see.

Every reference to a real table becomes a subquery over it, in its own place and under its own name:

    FROM customers c   ->   FROM (SELECT name, sha256(...) AS email FROM customers WHERE region = 'north' OFFSET 0) AS c

The OFFSET is a fence: no engine moves a condition across it, so a reader's expression is never computed on a row that the reader
may not see, where an error (a failed cast, a division by zero) would tell of its values. CTEs get names that no table has, so
that none of them can stand in for a table that a row condition or a view speaks of.

A view is a saved query: its text is read with the reader's own rights, as if the reader had written it. `security: definer` in
the policy makes it a table like any other, behind a fence: its own conditions and joins hide rows, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.guard import Bounds, Checked, check_within, write_sql
from openarctic.copilot.policy.definitions import UnclearViewError, output_names, parse_view, view_query
from openarctic.copilot.policy.rules import Rules, TableRule, is_placed, placed, whole_table
from openarctic.copilot.policy.view import Readable, seen_columns, visible_schema
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.scopes import read_names
from openarctic.copilot.spelling import spell
from openarctic.errors import RefusedError

# What a table in FROM may carry besides its name; it moves to the subquery.
_MOVED = ("joins", "laterals", "pivots", "sample")
MAX_VIEW_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A tree that reads what may be seen, what it touches, what is shown in part, and the `texts` of queries that were put in."""

    tree: exp.Query
    texts: Counter[str]
    reads: frozenset[str]
    filtered: frozenset[str]


class Reader:
    """The tables of a database as one principal sees them. `unclear` says of views that may not be read why."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.schema, self.dialect = rules, rules.schema, rules.schema.dialect
        self._every = frozenset(t.name.lower() for t in self.schema.tables)
        self._known: dict[str, Readable | None] = {}
        self.unclear: dict[str, str] = {}

    def readable(self, name: str, depth: int = 0) -> Readable | None:
        """What is read for a table (lower case); None where it may not be."""
        if name not in self._known:
            self._known[name] = None  # a view that reads itself is no view
            self._known[name] = self._make(name, depth)
        return self._known[name]

    def _make(self, name: str, depth: int) -> Readable | None:
        rule = self.rules.tables.get(name)
        if rule is None:
            return None
        if rule.table.is_view and rule.security == "invoker":
            try:
                return self._view(rule, depth)
            except (UnclearViewError, RefusedError, SqlglotError, RecursionError) as error:
                self.unclear[name] = (str(error).splitlines() or ["it is nested too deeply"])[0]
                return None
        return self._secured(rule, rule.table.columns, whole_table(rule.table), self._touched(rule.table))

    def _view(self, rule: TableRule, depth: int) -> Readable:
        if depth > MAX_VIEW_DEPTH:
            raise UnclearViewError("it is nested too deeply")
        view = rule.table
        named = {node.name.lower() for node in read_names(parse_view(view, self.dialect, self.schema.namespace)).tables}
        below = {name: self.readable(name, depth + 1) for name in sorted(named)}
        if all(table is not None and table.query is None for table in below.values()):
            return self._secured(rule, view.columns, whole_table(view), self._touched(view))
        visible = visible_schema(self.schema, {name: table for name, table in below.items() if table is not None})
        query = view_query(view, self.schema)
        spell(query, self.dialect, self.schema)
        check_within(write_sql(query, self.dialect), self.dialect, Bounds(visible, whole=self.schema))
        by_name = {column.name.lower(): column for column in view.columns}
        outputs = output_names(query, visible)
        if len(set(outputs)) < len(outputs) or not by_name.keys() >= set(outputs):
            raise UnclearViewError("its columns cannot be told")
        rewritten = self.rewrite(query)
        _check_unchanged(write_sql(rewritten.tree, self.dialect), rewritten, self.dialect)
        source = exp.Subquery(this=rewritten.tree, alias=exp.TableAlias(this=exp.to_identifier(view.name, quoted=True)))
        columns = tuple(by_name[name] for name in outputs)
        return self._secured(rule, columns, source, rewritten.reads, rewritten.filtered)

    def _secured(
        self,
        rule: TableRule,
        columns: Iterable[Column],
        source: exp.Table | exp.Subquery,
        reads: frozenset[str],
        filtered: frozenset[str] = frozenset(),
    ) -> Readable:
        """`source` with the rules of its own name: visible columns, masks, rows, and the fence after a row condition."""
        if rule.is_filtered:
            filtered |= {rule.table.name}
        seen = seen_columns(rule, columns, bool(filtered))
        is_definer = rule.table.is_view and rule.security == "definer"
        if rule.is_whole and isinstance(source, exp.Table) and not is_definer:
            return Readable(seen, None, reads, filtered)
        shown = [c for c in columns if rule.is_visible(c)]
        if not shown:
            raise UnclearViewError("nothing of it may be seen")
        condition = rule.condition
        query = exp.select(*(exp.alias_(rule.cell(c), exp.to_identifier(c.name, quoted=True)) for c in shown))
        ruling = [query] if condition is None else [query, condition]
        self._check_known(rule, columns, ruling)
        tables = [node.name.lower() for part in ruling for node in part.find_all(exp.Table)]
        query = query.from_(source)
        if condition is not None:
            query = query.where(condition)
        if condition is not None or is_definer:
            query = self._fenced(query)
        hashed = frozenset(c.name.lower() for c in shown if rule.masks(c) == {"hash"} and not rule.is_mixed(c))
        dark = frozenset(c.name.lower() for c in shown if not rule.is_clear(c)) - hashed
        return Readable(seen, query, reads.union(tables), filtered, hashed, dark, write_sql(query, self.dialect))

    @staticmethod
    def _check_known(rule: TableRule, columns: Iterable[Column], parts: Iterable[exp.Expr]) -> None:
        """Of a view there may be less than its own rules speak of."""
        known = {column.name.lower() for column in columns}
        for node in (column for part in parts for column in part.find_all(exp.Column)):
            if node.table.lower() == rule.alias.lower() and node.name.lower() not in known:
                raise UnclearViewError(f"its own rules speak of {node.name}, which may not be read")

    def _fenced(self, query: exp.Select) -> exp.Select:
        if self.dialect == "sqlite":  # which has no OFFSET without LIMIT
            query = query.limit(exp.Literal.number(-1))
        return query.offset(exp.Literal.number(0))

    def _touched(self, table: Table, depth: int = 0) -> frozenset[str]:
        """A table, and what the definition of a view names, all the way down: the engine asks for each of them."""
        names = frozenset({table.name.lower()})
        if not table.is_view or depth > MAX_VIEW_DEPTH:
            return names
        try:
            definition = parse_view(table, self.dialect, self.schema.namespace)
            inner = {node.name.lower() for node in read_names(definition).tables} - names
        except UnclearViewError:
            return names
        return names.union(*(self._touched(t, depth + 1) for name in inner if (t := self.schema.table(name))))

    def visible(self) -> Schema:
        """The part of the schema that may be seen."""
        readable = {name: table for name in self.rules.tables if (table := self.readable(name)) is not None}
        return visible_schema(self.schema, readable)

    def rewrite(self, tree: exp.Query) -> Rewritten:
        """A copy of a checked tree that reads what may be seen. Raises RefusedError for what cannot be kept to the policy."""
        tree = tree.copy()
        names = read_names(tree)
        taken = self._every | {i.name.lower() for i in tree.find_all(exp.Identifier)}
        fresh = (name for i in range(1, 1 << 30) if (name := f"part_{i}") not in taken)
        for cte, references in names.ctes:
            _rename(cte, references, next(fresh))
        reads: frozenset[str] = frozenset()
        filtered: frozenset[str] = frozenset()
        texts: Counter[str] = Counter()
        for node in names.tables:
            readable = self.readable(node.name.lower())
            if readable is None:
                raise RefusedError("not_permitted", f"table {node.name} may not be read here")
            reads, filtered = reads | readable.reads, filtered | readable.filtered
            if readable.query is not None:
                node.replace(_in_place_of(node, readable.query, self.dialect))
                texts[readable.text] += 1
            else:
                placed(node)
        return Rewritten(tree, texts, reads, filtered)

    def apply(self, checked: Checked) -> Checked:
        """The statement that runs in place of a checked one."""
        assert isinstance(checked.tree, exp.Query | exp.Pivot)
        limits = self.rules.limits
        rewritten = self.rewrite(checked.tree)  # type: ignore[arg-type]
        sql = write_sql(rewritten.tree, self.dialect)
        _check_unchanged(sql, rewritten, self.dialect)
        return Checked(
            sql,
            tuple(sorted(rewritten.reads)),
            checked.columns,
            original=checked.sql,
            filtered=tuple(sorted(rewritten.filtered)),
            max_rows=limits.rows,
            max_seconds=limits.seconds,
            role=self.rules.database_role,
            tree=checked.tree,
        )


def _rename(cte: exp.CTE, references: list[exp.Table], name: str) -> None:
    """A new name for a CTE; what refers to it keeps the old one as its alias, so that columns still find it."""
    cte.args["alias"].set("this", exp.to_identifier(name))
    for node in references:
        if not node.args.get("alias"):
            node.set("alias", exp.TableAlias(this=node.this.copy()))
        node.set("this", exp.to_identifier(name))


def _in_place_of(node: exp.Table, query: exp.Query, dialect: str) -> exp.Subquery:
    """`query` under the name that `node` has in its statement, with the joins, pivots and samples that hang on it."""
    kept = {key: value for key, value in node.args.items() if value and key not in ("this", "alias", "db", "catalog")}
    alien = [key for key in kept if key not in _MOVED or (key == "sample" and dialect == "postgres")]
    if alien:
        raise RefusedError(
            "not_permitted", f"{alien[0].upper()} may not be used on {node.name}, of which only a part may be read"
        )
    alias = node.args.get("alias") or exp.TableAlias()
    if not alias.args.get("this"):
        alias.set("this", node.this.copy())
    # Moved, not copied: other tables that wait for their turn may hang on it.
    return exp.Subquery(this=query.copy(), alias=alias, **kept)


def _check_unchanged(sql: str, rewritten: Rewritten, dialect: str) -> None:
    """Two ways to the same answer: only tables that were put there stand in the tree; the text names the same ones, and holds
    every query that was put in, letter for letter.

    Raises RefusedError, which means that a part of SQL was not understood.
    """
    written = read_names(rewritten.tree)
    strays = [node.name for node in written.tables if not is_placed(node)]
    again = read_names(sqlglot.parse_one(sql, read=dialect))
    counts = [Counter(node.name.lower() for node in names.tables) for names in (written, again)]
    is_changed = any(sql.count(text) < count for text, count in rewritten.texts.items())
    if strays or is_changed or counts[0] != counts[1] or len(written.functions) != len(again.functions):
        raise RefusedError("not_permitted", "this statement cannot be kept to the policy", "write it in a simpler way")
