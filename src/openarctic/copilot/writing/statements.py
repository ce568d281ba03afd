"""SQL of generated code: what reads passes the guard, what writes may change the named targets and nothing else.

A write is checked as the reads that it is made of: its queries, conditions and values become SELECT statements over the tables
that they stand over, and go through the guard as those of `query` do. What is not on the list here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from openarctic.copilot.guard import MAX_SQL_CHARS, Bounds, check_within, is_in_main
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.spelling import meant_name, plain_name
from openarctic.copilot.writing.words import words
from openarctic.errors import RefusedError, UserError, did_you_mean

Bind = Callable[[exp.Expr], exp.Expr]

_CONSTRAINTS = (
    exp.NotNullColumnConstraint,
    exp.PrimaryKeyColumnConstraint,
    exp.UniqueColumnConstraint,
    exp.DefaultColumnConstraint,
    exp.CheckColumnConstraint,
    exp.CommentColumnConstraint,
    exp.AutoIncrementColumnConstraint,
    exp.GeneratedAsIdentityColumnConstraint,
)
_TABLE_CONSTRAINTS = (exp.PrimaryKey, exp.UniqueColumnConstraint, exp.Constraint, exp.CheckColumnConstraint)
_PROPERTIES = (exp.TemporaryProperty, exp.TransientProperty)
_PARTS: dict[type[exp.Expr], set[str]] = {
    exp.Insert: {"this", "expression", "conflict", "returning", "with_", "overwrite"},
    exp.Update: {"this", "expressions", "from_", "where", "with_", "returning"},
    exp.Delete: {"this", "using", "where", "with_", "returning"},
    exp.Merge: {"this", "using", "on", "whens", "with_"},
    exp.TruncateTable: {"expressions"},
    exp.Create: {"this", "kind", "expression", "exists", "replace", "properties"},
    exp.Drop: {"this", "kind", "exists", "tables"},
}


def unbound(tree: exp.Expr) -> exp.Expr:
    """Nothing is bound: the statement stands for itself."""
    return tree


class Statements:
    """Checks statements in their order: a table that one makes is known to the next.

    `schema` is the source; `targets` are the tables that may be changed, whether they are there or not.
    """

    def __init__(self, schema: Schema, targets: Iterable[str] = (), whole: Schema | None = None) -> None:
        self.schema, self.whole, self.dialect = schema, whole or schema, schema.dialect
        self.targets = {name.lower() for name in targets}
        self.temporary: set[str] = set()
        self.made: dict[str, Table] = {}

    def table(self, name: str) -> Table | None:
        """A table that may be read."""
        return self.made.get(name.lower()) or self.schema.table(name)

    def check(self, sql: str, bind: Bind = unbound) -> tuple[str, ...]:
        """One statement; the names of the columns that it gives (none for a write without RETURNING).

        `bind` replaces variables by values. Raises RefusedError.
        """
        tree = bind(self.parse(sql))
        if isinstance(tree, exp.Select | exp.SetOperation | exp.Subquery):
            return self.read(tree)
        checks: dict[type[exp.Expr], Callable[[exp.Expr], tuple[str, ...]]] = {
            exp.Insert: self._insert,
            exp.Update: self._update,
            exp.Delete: self._delete,
            exp.Merge: self._merge,
            exp.TruncateTable: self._truncate,
            exp.Create: self._create,
            exp.Drop: self._drop,
        }
        kind = type(tree)
        if kind not in checks:
            name = str(tree.this).upper() if isinstance(tree, exp.Command) else kind.__name__.upper()
            raise RefusedError(
                "not_a_read", f"{name} may not be used", "SELECT, INSERT, UPDATE, DELETE, MERGE, TRUNCATE, CREATE TABLE"
            )
        for part, value in tree.args.items():
            if value and part not in _PARTS[kind]:
                raise RefusedError("not_a_read", f"{part.strip('_').upper()} may not be used in {kind.__name__.upper()}")
        return checks[kind](tree)

    def parse(self, sql: str) -> exp.Expr:
        """Exactly one statement. Raises RefusedError."""
        if len(sql) > MAX_SQL_CHARS:
            raise RefusedError("too_expensive", f"the statement has {len(sql)} characters, the limit is {MAX_SQL_CHARS}")
        try:
            words(sql, self.dialect)  # the text itself is what will run: where it is torn, readers may differ
        except UserError as error:
            raise RefusedError("unparsable", error.message, error.hint) from error
        try:
            found = [tree for tree in sqlglot.parse(sql, read=self.dialect) if tree is not None]
        except (SqlglotError, RecursionError) as error:
            detail = (str(error) or "too deeply nested").splitlines()[0]
            raise RefusedError("unparsable", f"this is not {self.dialect} SQL that can be understood: {detail}") from error
        if len(found) != 1:
            raise RefusedError("not_a_read", f"{len(found)} statements stand where one is expected")
        return found[0]

    def expression(self, text: str, bind: Bind = unbound) -> None:
        """One value, without a FROM of its own."""
        self.check(f"SELECT {text}", bind)

    def read(self, tree: exp.Expr) -> tuple[str, ...]:
        """A query through the guard; the names of its columns. Raises RefusedError."""
        schema = self._with_made(self.schema)
        bounds = Bounds(schema, whole=self._with_made(self.whole))
        checked = check_within(tree.sql(dialect=self.dialect), self.dialect, bounds)
        return output_columns(checked.sql, schema)

    def _with_made(self, schema: Schema) -> Schema:
        """The schema with the tables that were made, each in the place of one of its name."""
        if not self.made:
            return schema
        kept = (table for table in schema.tables if table.name.lower() not in self.made)
        return replace(schema, tables=(*kept, *self.made.values()))

    def _target(self, node: exp.Expr | None) -> str:
        """The name of a table that may be changed, in lower case. Raises RefusedError."""
        if isinstance(node, exp.Schema):
            node = node.this
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise RefusedError("not_a_read", "what is changed must be a table, named as it is")
        name = node.name.lower()
        if (node.args.get("db") or node.args.get("catalog")) and not is_in_main(node, self.schema.namespace):
            raise RefusedError("not_permitted", f"{node.sql()} is in another schema", f"write {node.name}")
        if name in self.targets or name in self.temporary:
            return name
        if self.whole.table(name) is not None:
            raise RefusedError("not_permitted", f"{node.name} is a table of the source and may not be changed", self._allowed())
        hint = did_you_mean(name, [*self.targets, *self.temporary], self._allowed())
        raise RefusedError("not_permitted", f"{node.name} is not a target", hint)

    def _allowed(self) -> str:
        return f"targets: {', '.join(sorted(self.targets))}" if self.targets else "there are no targets: nothing may be changed"

    def _known(self, name: str) -> Table:
        table = self.table(name)
        if table is None:
            raise RefusedError("unknown_table", f"there is no table {name} yet", f"CREATE TABLE IF NOT EXISTS {name} (...) first")
        return table

    def _columns(self, table: Table, names: Sequence[str]) -> None:
        for name in names:
            if table.column(name) is None:
                known = sorted(table.column_names)
                hint = did_you_mean(name.lower(), known, f"columns: {', '.join(known[:12])}")
                raise RefusedError("unknown_column", f"{table.name} has no column {name}", hint)

    def _query(
        self, tree: exp.Expr, values: Sequence[exp.Expr], sources: Sequence[exp.Expr], where: Sequence[exp.Expr]
    ) -> tuple[str, ...]:
        """Parts of a write as one SELECT over what they stand over, with its WITH; the names of its columns."""
        select = exp.Select(expressions=[v.copy() for v in values] or [exp.Literal.number(1)])
        if sources:
            select.set("from_", exp.From(this=sources[0].copy()))
            select.set("joins", [exp.Join(this=source.copy()) for source in sources[1:]])
        if where:
            select = select.where(*(condition.copy() for condition in where))
        if clause := tree.args.get("with_"):
            select.set("with_", clause.copy())
        return self.read(select)

    def _returning(self, tree: exp.Expr, sources: Sequence[exp.Expr]) -> tuple[str, ...]:
        clause = tree.args.get("returning")
        return () if clause is None else self._query(tree, clause.expressions, sources, ())

    def _insert(self, tree: exp.Expr) -> tuple[str, ...]:
        name = self._target(tree.this)
        table = self._known(name)
        named = [column.name for column in tree.this.expressions] if isinstance(tree.this, exp.Schema) else []
        self._columns(table, named)
        source = tree.expression
        if isinstance(source, exp.Values):
            rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in source.expressions]
            for row in rows:
                self._width(table, named, len(row))
                self._query(tree, [value for value in row if not _is_default(value)], (), ())
        elif isinstance(source, exp.Query):
            query = source.copy()
            if clause := tree.args.get("with_"):
                if query.args.get("with_"):
                    raise RefusedError("unparsable", "the statement has two WITH clauses", "keep one")
                query.set("with_", clause.copy())
            self._width(table, named, len(self.read(query)))
        else:
            raise RefusedError("not_a_read", "INSERT takes VALUES or a SELECT")
        target = exp.to_table(table.name)
        if conflict := tree.args.get("conflict"):
            excluded = exp.alias_(target.copy(), "excluded", table=True)
            lefts = [pair.this.name for pair in conflict.expressions if isinstance(pair, exp.EQ)]
            self._columns(table, [*lefts, *(key.name for key in conflict.args.get("conflict_keys") or ())])
            where = conflict.args.get("where")
            values = [pair.expression for pair in conflict.expressions]
            self._query(exp.Insert(), values, (target, excluded), () if where is None else (where.this,))
        return self._returning(tree, (target,))

    def _width(self, table: Table, named: Sequence[str], given: int) -> None:
        wanted = len(named) or len(table.columns)
        if given != wanted:
            raise RefusedError(
                "unparsable", f"{given} values are inserted into {wanted} columns of {table.name}", "name the columns"
            )

    def _update(self, tree: exp.Expr) -> tuple[str, ...]:
        table = self._known(self._target(tree.this))
        pairs = tree.expressions
        if not all(isinstance(pair, exp.EQ) and isinstance(pair.this, exp.Column) for pair in pairs):
            raise RefusedError("unparsable", "SET takes pairs of a column and a value")
        self._columns(table, [pair.this.name for pair in pairs])
        sources = [tree.this, *_sources(tree.args.get("from_"))]
        self._query(tree, [pair.expression for pair in pairs], sources, _where(tree))
        return self._returning(tree, sources)

    def _delete(self, tree: exp.Expr) -> tuple[str, ...]:
        self._known(self._target(tree.this))
        sources = [tree.this, *(tree.args.get("using") or ())]
        self._query(tree, (), sources, _where(tree))
        return self._returning(tree, sources)

    def _merge(self, tree: exp.Expr) -> tuple[str, ...]:
        table = self._known(self._target(tree.this))
        values: list[exp.Expr] = []
        for when in tree.args["whens"].expressions:
            if condition := when.args.get("condition"):
                values.append(condition)
            then = when.args["then"]
            if isinstance(then, exp.Update):
                self._columns(table, [pair.this.name for pair in then.expressions])
                values += [pair.expression for pair in then.expressions]
            elif isinstance(then, exp.Insert) and isinstance(then.expression, exp.Tuple):
                self._columns(table, [column.name for column in then.this.expressions] if then.this else [])
                values += [value for value in then.expression.expressions if not _is_default(value)]
            elif not (isinstance(then, exp.Var) and then.name.upper() in ("DELETE", "DO NOTHING")):
                raise RefusedError("not_a_read", f"{then.sql()} may not follow WHEN")
        self._query(tree, values, (tree.this, tree.args["using"]), (tree.args["on"],))
        return ()

    def _truncate(self, tree: exp.Expr) -> tuple[str, ...]:
        for table in tree.expressions:
            self._target(table)
        return ()

    def _create(self, tree: exp.Expr) -> tuple[str, ...]:
        if str(tree.args.get("kind")).upper() != "TABLE":
            raise RefusedError("not_a_read", f"CREATE {tree.args.get('kind')} may not be used", "CREATE TABLE makes a target")
        properties = tree.args["properties"].expressions if tree.args.get("properties") else []
        for wrong in (p for p in properties if not isinstance(p, _PROPERTIES)):
            raise RefusedError("not_a_read", f"{wrong.sql(dialect=self.dialect)} may not be used in CREATE TABLE")
        shape = tree.this
        node = shape.this if isinstance(shape, exp.Schema) else shape
        name = node.name.lower()
        if any(isinstance(p, exp.TemporaryProperty) for p in properties) and self.whole.table(name) is None:
            self.temporary.add(name)
        self._target(node)
        if tree.expression:
            columns = [Column(name=column) for column in self.read(tree.expression)]
        elif isinstance(shape, exp.Schema):
            columns = [self._column(part) for part in shape.expressions if isinstance(part, exp.ColumnDef)]
        else:
            raise RefusedError("unparsable", f"CREATE TABLE {node.name} has no columns")
        is_kept = tree.args.get("exists") and self.table(name) is not None
        if not is_kept:
            self.made[name] = Table(name=node.name, columns=tuple(columns))
        parts = shape.expressions if isinstance(shape, exp.Schema) else []
        for part in parts:
            if not isinstance(part, exp.ColumnDef):
                self._constraint(part)
        for check in (check for part in parts for check in part.find_all(exp.CheckColumnConstraint)):
            self._query(exp.Insert(), (check.this,), (exp.to_table(node.name),), ())
        return ()

    def _column(self, definition: exp.Expr) -> Column:
        for constraint in definition.args.get("constraints") or ():
            kind = constraint.args.get("kind")
            if not isinstance(kind, _CONSTRAINTS):
                text = constraint.sql(dialect=self.dialect)
                raise RefusedError(
                    "not_permitted", f"{text} may not be used in CREATE TABLE", "NOT NULL, PRIMARY KEY, UNIQUE, DEFAULT"
                )
            if isinstance(kind, exp.DefaultColumnConstraint):
                self.read(exp.Select(expressions=[kind.this.copy()]))
            if isinstance(kind, exp.GeneratedAsIdentityColumnConstraint) and kind.expression:
                raise RefusedError("not_permitted", "computed columns may not be used in CREATE TABLE")
        type_ = definition.args.get("kind")
        return Column(name=definition.name, type=type_.sql(dialect=self.dialect) if type_ is not None else "")

    def _constraint(self, part: exp.Expr) -> None:
        for node in part.walk():
            if isinstance(node, exp.Query | exp.ForeignKey | exp.Reference | exp.Anonymous):
                raise RefusedError("not_permitted", f"{node.sql(dialect=self.dialect)} may not be used in CREATE TABLE")
        if not isinstance(part, _TABLE_CONSTRAINTS):
            raise RefusedError("not_permitted", f"{part.sql(dialect=self.dialect)} may not be used in CREATE TABLE")

    def _drop(self, tree: exp.Expr) -> tuple[str, ...]:
        if str(tree.args.get("kind")).upper() != "TABLE":
            raise RefusedError("not_a_read", f"DROP {tree.args.get('kind')} may not be used")
        for table in tree.args.get("tables") or [tree.this]:
            self.made.pop(self._target(table), None)
        return ()


def output_columns(sql: str, schema: Schema) -> tuple[str, ...]:
    """The names of a checked statement's columns, `*` written out.

    Raises RefusedError where they cannot be told, as after PIVOT.
    """
    tree = sqlglot.parse_one(sql, read=schema.dialect)
    for identifier in tree.find_all(exp.Identifier):  # the guard has made case mean nothing
        identifier.set("this", plain_name(identifier.name))
        identifier.set("quoted", False)
    named = {table.name for table in tree.find_all(exp.Table)}
    columns: dict[str, object] = {
        plain_name(t.name): {plain_name(column.name): "text" for column in t.columns}
        for t in schema.tables
        if plain_name(t.name) in named
    }
    try:
        qualified = qualify(tree, schema=columns, dialect=schema.dialect, validate_qualify_columns=False, identify=False)
    except SqlglotError as error:
        raise RefusedError("unparsable", f"its columns cannot be told: {error}", "name every column") from error
    names = tuple(meant_name(name) for name in qualified.named_selects) if isinstance(qualified, exp.Query) else ()
    if not names or "*" in names or "" in names:
        raise RefusedError("unparsable", "its columns cannot be told", "name every column")
    return names


def _where(tree: exp.Expr) -> tuple[exp.Expr, ...]:
    where = tree.args.get("where")
    return () if where is None else (where.this,)


def _sources(clause: exp.Expr | None) -> list[exp.Expr]:
    return [] if clause is None else [clause.this]


def _is_default(value: exp.Expr) -> bool:
    return isinstance(value, exp.Column | exp.Var) and value.name.upper() == "DEFAULT" and not value.args.get("table")
