"""A semantic model laid over the schema of a database: what its logical names are in SQL.

`SemanticLayer.logical` is the schema that a model writes SQL for: logical tables with their public fields, the computed ones too,
and their relationships as keys. `schema` tells the same of the base tables, under their own names. `physical` turns a query over
logical tables into one over the database's tables: a logical table becomes the table it stands for where both have the same
column names, else a subquery that gives its fields their names. Whatever comes out of here goes through the guard like all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from sqlglot import exp

from openarctic.copilot.joins import identifier
from openarctic.copilot.linking.values import ValueIndex, ValueLink
from openarctic.copilot.schema import Schema, Table
from openarctic.copilot.semantic.expressions import plain_column, read_expression, read_query
from openarctic.copilot.semantic.model import Field, Filter, Metric, SemanticModel, SemanticTable
from openarctic.copilot.semantic.verified import VerifiedQueries
from openarctic.errors import UserError

MAX_DEPTH = 20  # of expressions that name other expressions


class SemanticLayer:
    """`model` over `base`, the schema of a database (or what of it may be seen).

    `shows_samples` lets the model's sample values stand in for those that were not read from the database; where a policy masks
    columns, they must not.
    """

    def __init__(self, model: SemanticModel, base: Schema, shows_samples: bool = True) -> None:
        self.model, self.base, self.dialect, self.shows_samples = model, base, base.dialect, shows_samples

    @cached_property
    def logical(self) -> Schema:
        """The logical tables, with their public fields whose columns may be seen; the base schema where there are none."""
        from openarctic.copilot.semantic.schemas import logical_schema

        return logical_schema(self)

    @cached_property
    def schema(self) -> Schema:
        """The base tables that the model names, as the model tells them; the whole schema where it names none."""
        from openarctic.copilot.semantic.schemas import overlaid_schema

        return overlaid_schema(self)

    @cached_property
    def values(self) -> ValueIndex:
        """Of the values that the overlaid schema shows."""
        return ValueIndex(self.schema)

    @cached_property
    def verified(self) -> VerifiedQueries:
        """The model's verified queries, ready to be asked."""
        return VerifiedQueries(self.model.verified_queries, self.links)

    def links(self, question: str) -> Sequence[ValueLink]:
        """The cell values that a question names."""
        return self.values.links(question, limit=8)

    def base_of(self, table: SemanticTable) -> Table | None:
        """The table in the database, or None where it has gone, may not be seen, or is a query."""
        return self.base.table(table.base_table.table)

    def column(self, table: SemanticTable, field: Field) -> str | None:
        """The name of the base table's column that a field is; None where it is computed or the column is not there."""
        base = self.base_of(table)
        try:
            found = plain_column(read_expression(field.expr, self.dialect))
        except UserError:
            return None
        column = base.column(found.name) if base is not None and found is not None else None
        return None if column is None else column.name

    def field(self, table: SemanticTable, name: str, alias: str, seen: frozenset[str] = frozenset()) -> exp.Expr:
        """A field in SQL, its columns qualified by `alias`.

        A name in an expression means a column of the base table, where there is one, else another field. Raises UserError for a
        column of another table, and where expressions go round in circles.
        """
        item = table.field(name)
        if item is None:
            raise UserError(f"table {table.name} has no field {name}")
        if name.lower() in seen or len(seen) > MAX_DEPTH:
            raise UserError(f"the expression of {table.name}.{name} comes back to itself")
        tree = read_expression(item.expr, self.dialect)
        seen = seen | {name.lower()}
        return _replace_columns(tree, lambda column: self._own_column(table, item, column, alias, seen))

    def _own_column(self, table: SemanticTable, item: Field, column: exp.Column, alias: str, seen: frozenset[str]) -> exp.Expr:
        own_names = {"", table.name.lower(), f"__{table.name.lower()}", table.base_table.table.lower()}
        if column.table.lower() not in own_names:
            raise UserError(f"{table.name}.{item.name} names {column.sql()}, a column of another table")
        base, name = self.base_of(table), column.name
        is_column = name.lower() == item.name.lower() if base is None else base.column(name) is not None
        if not is_column and table.field(name) is not None and name.lower() != item.name.lower():
            return _grouped(self.field(table, name, alias, seen))
        # A column that is not there is left to the guard, which can tell "unknown" from "not permitted".
        return exp.Column(this=identifier(name), table=identifier(alias))

    def condition(self, item: Filter, table: SemanticTable) -> exp.Expr:
        """A filter in SQL, its columns qualified by the table's name. Raises UserError as `metric` does."""
        tree = read_expression(item.expr, self.dialect)
        label = f"{table.name}.{item.name}"
        return _replace_columns(tree, lambda column: self._measured(column, table, label, ()))

    def metric(self, metric: Metric, home: SemanticTable | None) -> exp.Expr:
        """A metric in SQL, its columns qualified by the names of logical tables; `home` is the table that it belongs to.

        Raises UserError for names that are neither fields, metrics nor columns, and for circles.
        """
        return self._metric(metric, home, ())

    def _metric(self, metric: Metric, home: SemanticTable | None, seen: tuple[str, ...]) -> exp.Expr:
        label = f"{home.name}.{metric.name}" if home else metric.name
        if label.lower() in seen or len(seen) > MAX_DEPTH:
            raise UserError(f"the expression of metric {label} comes back to itself")
        tree = read_expression(metric.expr, self.dialect)
        seen = (*seen, label.lower())
        return _replace_columns(tree, lambda column: self._measured(column, home, label, seen))

    def _measured(self, column: exp.Column, home: SemanticTable | None, label: str, seen: tuple[str, ...]) -> exp.Expr:
        table = self.table(column.table) if column.table else home
        if table is None and column.table:
            raise UserError(f"metric {label} names {column.sql()}, and there is no table {column.table}")
        if table is None:
            return self._anywhere(column, label, seen)
        if isinstance(column.this, exp.Star):
            return column
        found = self._of_table(column.name, table, seen)
        if found is None:
            raise UserError(f"metric {label} names {column.name}, which {table.name} does not have")
        return found

    def _of_table(self, name: str, table: SemanticTable, seen: tuple[str, ...]) -> exp.Expr | None:
        """A field, a metric or a column of the base table, whichever the name is first."""
        if table.field(name) is not None:
            return _grouped(self.field(table, name, table.name))
        if (metric := table.metric(name)) is not None:
            return _grouped(self._metric(metric, table, seen))
        base = self.base_of(table)
        if base is not None and base.column(name) is not None:
            return exp.Column(this=identifier(name), table=identifier(table.name))
        return None

    def _anywhere(self, column: exp.Column, label: str, seen: tuple[str, ...]) -> exp.Expr:
        """A plain name in a metric of the whole model: another such metric, else what one table alone has."""
        wanted = column.name.lower()
        for metric in self.model.metrics:
            if metric.name.lower() == wanted:
                return _grouped(self._metric(metric, None, seen))
        holders = [t for t in self.model.tables if t.field(wanted) or t.metric(wanted)]
        if len(holders) != 1:
            where = f"is in {', '.join(t.name for t in holders)}" if holders else "nothing has"
            raise UserError(f"metric {label} names {column.name}, which {where}", "write table.name")
        found = self._of_table(wanted, holders[0], seen)
        assert found is not None
        return found

    def table(self, name: str) -> SemanticTable | None:
        """The logical table of that name (with or without `__`), else the only one over a base table of that name."""
        found = self.model.table(name)
        if found is not None:
            return found
        same = [t for t in self.model.tables if t.base_table.table.lower() == name.lower()]
        return same[0] if len(same) == 1 else None

    def relation(self, table: SemanticTable, alias: str) -> exp.Expr:
        """What stands in FROM for a logical table."""
        if table.base_table.definition:
            return exp.Subquery(
                this=read_query(table.base_table.definition, self.dialect), alias=exp.TableAlias(this=identifier(alias))
            )
        base = self.base_of(table)
        name = base.name if base is not None else table.base_table.table
        same = name.lower() == alias.lower()
        return exp.Table(this=identifier(name), alias=None if same else exp.TableAlias(this=identifier(alias)))

    def physical(self, sql: str) -> exp.Query:
        """A query over logical tables as one over the database's own; names that the model does not know stay as they are.

        Raises UserError for what is no query and for expressions that cannot be followed.
        """
        tree = read_query(sql, self.dialect)
        has_star = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star))
        named = frozenset(column.name.lower() for column in tree.find_all(exp.Column, exp.Identifier))
        self._translate(tree, frozenset(), None if has_star else named)
        return tree

    def _translate(self, node: exp.Expr, ctes: frozenset[str], named: frozenset[str] | None) -> None:
        """Names of CTEs hide those of tables where they can be seen, as in the guard."""
        clause = node.args.get("with_") or node.args.get("with")
        if isinstance(clause, exp.With):
            for cte in clause.expressions:
                own = ctes | {cte.alias.lower()}
                self._translate(cte.this, own if clause.args.get("recursive") else ctes, named)
                ctes = own
        for child in list(node.iter_expressions()):
            if child is not clause:
                self._translate(child, ctes, named)
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            self._translate_table(node, ctes, named)

    def _translate_table(self, node: exp.Table, ctes: frozenset[str], named: frozenset[str] | None) -> None:
        name = node.name
        if node.args.get("db") or node.args.get("catalog"):
            if any(_is_base(node, t) for t in self.model.tables):
                node.set("db", None)
                node.set("catalog", None)
            return
        table = None if name.lower() in ctes else self.model.table(name)
        if table is None:
            return
        for key, value in self._replacement(table, node.alias or name, named, node).items():
            node.set(key, value)

    def _replacement(
        self, table: SemanticTable, alias: str, named: frozenset[str] | None, node: exp.Table
    ) -> dict[str, exp.Expr | None]:
        fields = [f for f in table.fields if named is None or f.name.lower() in named]
        label = exp.TableAlias(this=identifier(alias))
        if not table.base_table.definition and self._is_plain(table, fields, named is None):
            relation = self.relation(table, alias)
            return {"this": relation.this, "alias": relation.args.get("alias")}
        inner = table.name
        shown = [exp.alias_(self.field(table, f.name, inner), identifier(f.name)) for f in fields]
        base = self.base_of(table)
        for column in base.columns if base is not None else ():
            if named is not None and column.name.lower() in named and table.field(column.name) is None:
                shown.append(exp.Column(this=identifier(column.name), table=identifier(inner)))
        query = exp.select(*(shown or [exp.Literal.number(1)])).from_(self.relation(table, inner))
        node.replace(exp.Subquery(this=query, alias=label))
        return {}

    def _is_plain(self, table: SemanticTable, fields: Iterable[Field], all_columns: bool) -> bool:
        """Whether the base table can stand for the logical one: every field is a column of the same name."""
        base = self.base_of(table)
        names = {f.name.lower() for f in fields if (self.column(table, f) or "").lower() == f.name.lower()}
        if any(f.name.lower() not in names for f in fields):
            return False
        return not all_columns or (base is not None and names == base.column_names)


def _is_base(node: exp.Table, table: SemanticTable) -> bool:
    base = table.base_table
    mine = (base.table.lower(), base.schema.lower(), base.database.lower())
    its = (node.name.lower(), node.text("db").lower(), node.text("catalog").lower())
    return mine[0] == its[0] and its[1] in ("", mine[1]) and its[2] in ("", mine[2])


def _replace_columns(tree: exp.Expr, make: Callable[[exp.Column], exp.Expr]) -> exp.Expr:
    if isinstance(tree, exp.Column):
        return make(tree)
    for column in list(tree.find_all(exp.Column)):
        made = make(column)
        is_alone = isinstance(column.parent, exp.Paren | exp.Distinct) or (
            isinstance(column.parent, exp.Func) and not isinstance(column.parent, exp.Connector)
        )
        column.replace(made.this if is_alone and isinstance(made, exp.Paren) else made)
    return tree


def _grouped(tree: exp.Expr) -> exp.Expr:
    """In parentheses where it could come apart inside another expression."""
    is_whole = isinstance(tree, exp.Column | exp.Literal | exp.Func | exp.Paren | exp.Cast) and not isinstance(
        tree, exp.Connector
    )
    return tree if is_whole else exp.Paren(this=tree)


def key_column(layer: SemanticLayer, table: SemanticTable, name: str) -> str | None:
    """The base column that a relationship or key means by a name: a field's, else the base table's own."""
    item, base = table.field(name), layer.base_of(table)
    if item is not None:
        return layer.column(table, item)
    column = base.column(name) if base is not None else None
    return None if column is None else column.name
