"""The query behind a view, with every column named as the database names it."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.guard import PERMITTED_FUNCTIONS, is_in_main, is_small_series
from openarctic.copilot.policy.qualify import qualified
from openarctic.copilot.schema import Schema, Table
from openarctic.copilot.scopes import read_names


class UnclearViewError(Exception):
    """The text of a view cannot be followed, so nobody can say what it shows."""


def view_query(view: Table, schema: Schema) -> exp.Query:
    """The query that `view` stands for; what has no name of its own gets the one that the database gives it.

    Raises UnclearViewError.
    """
    query = parse_view(view, schema.dialect, schema.namespace)
    try:
        _name_columns(query, view, schema)
    except (SqlglotError, RecursionError) as error:
        raise UnclearViewError(f"its text does not make sense: {str(error).splitlines()[0]}") from error
    return query


def parse_view(view: Table, dialect: str, namespace: str = "") -> exp.Query:
    """The query of a definition, be it a whole CREATE VIEW or the query alone. Raises UnclearViewError."""
    if not view.definition.strip():
        raise UnclearViewError("its text is not known")
    try:
        statements = [s for s in sqlglot.parse(view.definition, read=dialect) if s is not None]
    except (SqlglotError, RecursionError) as error:
        raise UnclearViewError(f"its text cannot be read: {str(error).splitlines()[0]}") from error
    query = statements[0] if len(statements) == 1 else None
    if isinstance(query, exp.Create):
        query = query.expression
    while isinstance(query, exp.Subquery) and isinstance(query.this, exp.Query) and not query.args.get("with_"):
        query = query.this
    if not isinstance(query, exp.Select | exp.SetOperation):
        raise UnclearViewError("its text is not one query")
    _check_followable(query, dialect, namespace)
    return query


def _check_followable(query: exp.Query, dialect: str, namespace: str) -> None:
    """Nothing in it may read a table that cannot be seen in its text: no functions or macros that do, no other schemas."""
    names = read_names(query)
    for call in query.find_all(exp.Anonymous, exp.AnonymousAggFunc):
        if call.name.lower() not in PERMITTED_FUNCTIONS and not is_small_series(call):
            raise UnclearViewError(f"it calls {call.name}, which may read anything")
    for node in names.functions:
        if not is_small_series(node.this):
            raise UnclearViewError("it reads a function as a table")
    if dialect == "sqlite" and any(node.args.get("field") for node in query.find_all(exp.In)):
        raise UnclearViewError("it names a table after IN")
    ctes = {cte.alias.lower() for cte, _ in names.ctes}
    qualified_names: list[exp.Table | exp.Column] = [*names.tables, *query.find_all(exp.Column)]
    for name in qualified_names:
        if is_in_main(name, namespace) and name.name.lower() not in ctes:
            name.set("db", None)
        if name.args.get("db") or name.args.get("catalog"):
            raise UnclearViewError("it reads another schema")


def output_names(query: exp.Query, schema: Schema) -> list[str]:
    """The names of a query's columns over `schema`, in lower case, stars written out. Raises SqlglotError."""
    return [column.lower() for column in qualified(query, schema, expand_stars=True).named_selects]


def _name_columns(query: exp.Query, view: Table, schema: Schema) -> None:
    first = _first(query)
    items = list(first.expressions)
    names = [column.name for column in view.columns]
    if any(item.is_star for item in items):
        if any(isinstance(node, exp.Schema) for node in _head(view, schema.dialect)):
            raise UnclearViewError("it renames the columns of a star")
        tagged = query.copy()
        select = _first(tagged)
        tags = {f"_{i}_": i for i, item in enumerate(items) if not item.is_star}
        select.set(
            "expressions",
            [item if item.is_star else exp.alias_(item.unalias(), f"_{i}_") for i, item in enumerate(select.expressions)],
        )
        outputs = [name.lower() for name in _first(qualified(tagged, schema, expand_stars=True)).named_selects]
        if len(outputs) != len(names):
            raise UnclearViewError("its columns cannot be told")
        places = {tags[name]: names[at] for at, name in enumerate(outputs) if name in tags}
    elif len(items) == len(names):
        places = dict(enumerate(names))
    else:
        raise UnclearViewError("its columns cannot be told")
    first.set(
        "expressions",
        [_named(item, places[i]) if i in places else item for i, item in enumerate(items)],
    )


def _named(item: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(item.unalias(), exp.to_identifier(name, quoted=True))


def _head(view: Table, dialect: str) -> list[exp.Expr]:
    """What stands between CREATE VIEW and AS."""
    statement = sqlglot.parse_one(view.definition, read=dialect)
    return [statement.this] if isinstance(statement, exp.Create) else []


def _first(query: exp.Expr) -> exp.Select:
    """The SELECT that names the columns of a query."""
    while not isinstance(query, exp.Select):
        if not isinstance(query, exp.SetOperation | exp.Subquery):
            raise UnclearViewError("its text is not one query")
        query = query.this
    return query
