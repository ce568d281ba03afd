"""Variables of a procedure: which are visible, and a statement with values in their places."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from openarctic.copilot.schema import Table
from openarctic.copilot.writing.statements import Statements
from openarctic.errors import RefusedError, did_you_mean


@dataclass(slots=True)
class Variable:
    """`fields` are those of a row, in lower case; None where it is no row, or nothing was assigned to it yet (`is_row`)."""

    is_row: bool = False
    fields: tuple[str, ...] | None = None
    query: tuple[str, ...] | None = None  # columns of a cursor or a RESULTSET


@dataclass(slots=True)
class Scope:
    """The variables of a block and, behind them, those of the blocks around it; all by lower-case names."""

    outer: Scope | None = None
    own: dict[str, Variable] = field(default_factory=dict)

    def find(self, name: str) -> Variable | None:
        """The variable of that name that is visible here."""
        found = self.own.get(name.lower())
        return found if found is not None or self.outer is None else self.outer.find(name)

    def names(self) -> set[str]:
        """All that are visible."""
        return set(self.own) | (self.outer.names() if self.outer is not None else set())

    def require(self, name: str) -> Variable:
        """Raises RefusedError for a name that is none."""
        found = self.find(name)
        if found is None:
            hint = did_you_mean(name.lower(), sorted(self.names()), "declare it")
            raise RefusedError("unknown_column", f"there is no variable {name}", hint)
        return found


def bind(tree: exp.Expr, scope: Scope, statements: Statements, bare: bool) -> exp.Expr:
    """NULL where a variable stands. `bare`: a plain name may be a variable; else only `:name` is (SQL in Snowflake Scripting).

    Raises RefusedError for a variable that does not exist, and for one that is also a column where both could be meant.
    """
    tables = [table for node in tree.find_all(exp.Table) if (table := statements.table(node.name)) is not None]
    own = {alias.alias_or_name.lower() for alias in tree.find_all(exp.Table, exp.CTE, exp.Subquery)}
    for node in list(tree.find_all(exp.Placeholder)):
        if isinstance(node.this, str):
            scope.require(node.this)
        node.replace(stand_in(node))
    if not bare:
        return tree
    for column in list(tree.find_all(exp.Column)):
        row = scope.find(column.table) if column.table and column.table.lower() not in own else None
        if row is not None:
            _check_field(column, row)
            column.replace(exp.Null())
        elif not column.table and not isinstance(column.this, exp.Star) and scope.find(column.name) is not None:
            _check_ambiguous(column.name, tables)
            column.replace(stand_in(column))
    return tree


def stand_in(node: exp.Expr) -> exp.Expr:
    """A value for a check where a variable or a parameter stands."""
    # The guard wants a number after LIMIT; whatever it is at run time, the engine checks it.
    return exp.Literal.number(1) if isinstance(node.parent, exp.Limit | exp.Offset) else exp.Null()


def _check_field(column: exp.Column, row: Variable) -> None:
    if row.fields is None:
        what = "nothing was assigned to it yet" if row.is_row else "it is no row"
        raise RefusedError("unknown_column", f"{column.table} has no field {column.name}: {what}")
    if column.name.lower() not in row.fields:
        hint = did_you_mean(column.name.lower(), row.fields, f"fields: {', '.join(row.fields)}")
        raise RefusedError("unknown_column", f"{column.table} has no field {column.name}", hint)


def _check_ambiguous(name: str, tables: list[Table]) -> None:
    for table in tables:
        if table.column(name) is not None:
            raise RefusedError(
                "unknown_column", f"{name} is a variable and a column of {table.name}", f"call the variable v_{name} or p_{name}"
            )
