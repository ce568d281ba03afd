"""SQL in a semantic model, read as trees: in the database's own dialect, else in Snowflake's, for which such files are made."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.joins import PLAIN_NAME, RESERVED
from openarctic.errors import UserError

MAX_CHARS = 20_000


def read_expression(text: str, dialect: str) -> exp.Expr:
    """One expression. Raises UserError for what is none."""
    if PLAIN_NAME.fullmatch(text) and text.lower() not in RESERVED:  # most are: no need to parse
        return exp.Column(this=exp.to_identifier(text))
    return _read(text, dialect, "expression", exp.Condition)


def read_query(text: str, dialect: str) -> exp.Query:
    """One query. Raises UserError for what is none."""
    tree = _read(text.strip().rstrip(";"), dialect, "query", None)
    if not isinstance(tree, exp.Query):
        raise UserError(f"{_shown(text)} is not a query", "it must begin with SELECT or WITH")
    return tree


def _read(text: str, dialect: str, kind: str, into: type[exp.Expr] | None) -> exp.Expr:
    if len(text) > MAX_CHARS:
        raise UserError(f"the {kind} has {len(text)} characters, the limit is {MAX_CHARS}")
    readings = []
    for name in dict.fromkeys((dialect, "snowflake")):
        try:
            readings.append(sqlglot.parse_one(text, read=name, into=into) if into else sqlglot.parse_one(text, read=name))
        except (SqlglotError, RecursionError) as error:
            problem = str(error).splitlines()[0] if str(error) else "too deeply nested"
            if into:
                problem = "it cannot be parsed"
    if not readings:
        raise UserError(f"{_shown(text)} is not a SQL {kind}: {problem}")
    # A dialect that knows all functions has read it right: IFF is a function of Snowflake's alone.
    return min(readings, key=lambda tree: sum(1 for _ in tree.find_all(exp.Anonymous)))


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:77]}...")


def plain_column(tree: exp.Expr) -> exp.Column | None:
    """The column, where an expression is nothing but one."""
    while isinstance(tree, exp.Paren):
        tree = tree.this
    return tree if isinstance(tree, exp.Column) and not isinstance(tree.this, exp.Star) else None
