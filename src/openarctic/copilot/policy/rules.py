"""What the roles of one principal add up to, table by table.

A principal sees what each role shows by itself, and no more: a row that at least one role shows, and in it, of every cell, the
clearest form that a role which shows this row gives. So two roles never add up to a cell that neither shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.guard import Bounds, check_within, write_sql
from openarctic.copilot.policy.file import Grant, Limits, Mask, Policy, Role, Security, check_names
from openarctic.copilot.policy.masks import TEXT_MASKS, masked
from openarctic.copilot.policy.qualify import qualified
from openarctic.copilot.principal import Principal
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.spelling import spell
from openarctic.errors import RefusedError, UserError

USER = "user"  # `:user` in a row condition is the name of who asks
_ARGUMENTS = ("", "x", "x, y", "x, y, z", "'day', x", "'day', x, y")
_CLEAR_TO_DARK: tuple[Mask | None, ...] = (None, "last4", "hash", "null")  # None: the value itself


@dataclass(frozen=True, slots=True)
class _Part:
    """What one role shows of a table: its rows (None: all) and the form of each column that is not denied."""

    rows: exp.Expr | None
    forms: dict[str, Mask | None]


class TableRule:
    """What a principal sees of one table. `alias` is the name under which conditions and masks speak of it."""

    def __init__(self, table: Table, alias: str, parts: Sequence[_Part], security: Security, salt: str, dialect: str) -> None:
        self.table, self.alias, self.security = table, alias, security
        self._parts, self._salt, self._dialect = parts, salt, dialect

    @property
    def condition(self) -> exp.Expr | None:
        """True of the rows that may be seen; None for all of them."""
        return _either([part.rows for part in self._parts])

    @property
    def is_filtered(self) -> bool:
        """Whether some rows may be hidden."""
        return all(part.rows is not None for part in self._parts)

    @property
    def is_whole(self) -> bool:
        """Whether all of it may be seen as it is."""
        return not self.is_filtered and all(self.is_clear(c) for c in self.table.columns)

    def is_visible(self, column: Column) -> bool:
        """Whether some role shows the column in some form."""
        return any(column.name.lower() in part.forms for part in self._parts)

    def is_clear(self, column: Column) -> bool:
        """Whether every visible cell of it is shown as it is."""
        name = column.name.lower()
        clear = [part for part in self._parts if part.forms.get(name, "null") is None]
        return len(clear) == len(self._parts) or any(part.rows is None for part in clear)

    def is_mixed(self, column: Column) -> bool:
        """Whether its cells may wear several forms."""
        return len({part.forms.get(column.name.lower(), "null") for part in self._parts}) > 1

    def masks(self, column: Column) -> set[Mask]:
        """The masks that some of its cells may wear."""
        return {m for part in self._parts if (m := part.forms.get(column.name.lower())) is not None}

    def is_masked_text(self, column: Column) -> bool:
        """Whether some of its cells are a text in place of the value."""
        return not self.is_clear(column) and not self.masks(column).isdisjoint(TEXT_MASKS)

    def cell(self, column: Column) -> exp.Expr:
        """The clearest form of a cell that a role which shows its row gives. A masked text is cast to text: SQLite compares a
        column with a number by the column's type, and what is only an expression by none."""
        shown = self._clearest(column)
        return exp.cast(shown, "text") if self.is_masked_text(column) else shown

    def _clearest(self, column: Column) -> exp.Expr:
        value = exp.column(exp.to_identifier(column.name, quoted=True), exp.to_identifier(self.alias, quoted=True))
        if self.is_clear(column):
            return value
        name = column.name.lower()
        is_text = self.is_masked_text(column)
        branches: list[tuple[exp.Expr | None, exp.Expr]] = []
        for form in _CLEAR_TO_DARK:
            showing = [part.rows for part in self._parts if part.forms.get(name, "null") == form]
            if showing:
                shown = masked(value, form, "" if is_text else column.type, self._salt, self._dialect) if form else value
                branches.append((_either(showing), exp.cast(shown, "text") if is_text and not form else shown))
        case = exp.Case()
        for condition, shown in branches[:-1]:
            if condition is None:  # no darker form is ever needed
                return case.else_(shown) if case.args.get("ifs") else shown
            case = case.when(condition, shown)
        # Every visible row satisfies one of the conditions: what is left satisfies the last.
        last = branches[-1][1]
        return case.else_(last) if case.args.get("ifs") else last


def _either(conditions: Sequence[exp.Expr | None]) -> exp.Expr | None:
    """Their disjunction; None stands for what is always true."""
    parts = [condition for condition in conditions if condition is not None]
    if len(parts) < len(conditions):
        return None
    return reduce(lambda a, b: exp.Or(this=exp.paren(a), expression=exp.paren(b)), [part.copy() for part in parts])


class Rules:
    """Everything that a policy says of one principal in one database.

    Raises UserError for names that the database does not have, conditions that make no sense, roles that contradict each other.
    """

    def __init__(self, schema: Schema, policy: Policy, principal: Principal) -> None:
        self.schema, self.principal, self.salt = schema, principal, policy.salt
        _check_distinct(schema)
        views = frozenset(t.name.lower() for t in schema.tables if t.is_view)
        check_names(policy, {t.name.lower(): t.column_names for t in schema.tables}, views)
        self._roles = [policy.roles[name] for name in principal.roles]
        if self.database_role is not None and schema.dialect != "postgres":
            raise UserError(
                f"database_role is {self.database_role}, but {schema.dialect} has no roles that we can take", "leave it out"
            )
        self._bounds = Bounds(schema)
        self.tables = dict(self._table_rules())

    @property
    def functions(self) -> frozenset[str] | None:
        """Functions that some role permits; None where one of the roles permits all that the guard knows."""
        permitted = [role.functions for role in self._roles]
        if None in permitted:
            return None
        names = frozenset[str]().union(*(names for names in permitted if names is not None))
        return names.union(*(_read_as(name, self.schema.dialect) for name in names))

    @property
    def limits(self) -> Limits:
        """The most generous of the roles' limits."""
        rows = [role.limits.rows for role in self._roles]
        seconds = [role.limits.seconds for role in self._roles]
        return Limits(
            rows=max((r for r in rows if r is not None), default=None) if None not in rows else None,
            seconds=max((s for s in seconds if s is not None), default=None) if None not in seconds else None,
        )

    @property
    def database_role(self) -> str | None:
        """The role of the database that statements run under."""
        return next((role.database_role for role in self._roles if role.database_role is not None), None)

    def _table_rules(self) -> Iterator[tuple[str, TableRule]]:
        for table in self.schema.tables:
            grants = [found for role in self._roles if (found := _grant_of(role, table))]
            if grants:
                yield table.name.lower(), self._table_rule(table, [g for g in grants if isinstance(g, Grant)], len(grants))

    def _table_rule(self, table: Table, grants: list[Grant], total: int) -> TableRule:
        security: set[Security] = {grant.security for grant in grants}
        if total > len(grants):
            security.add("invoker")
        if len(security) > 1:
            who = self.principal.name
            raise grants[0].entry.error(
                f"is read as invoker by one role of {who} and as definer by another: they contradict each other"
            )
        alias, bound = table.name, [self._bound(table, grant) for grant in grants]
        parts = [
            _Part(rows, {c: grant.mask.get(c) for c in table.column_names - grant.deny})
            for grant, rows in zip(grants, bound, strict=True)
        ]
        if total > len(grants):
            parts.append(_Part(None, dict.fromkeys(table.column_names)))
        return TableRule(table, alias, parts, security.pop(), self.salt, self.schema.dialect)

    def _bound(self, table: Table, grant: Grant) -> exp.Expr | None:
        """The row condition with every name resolved. Raises UserError where it makes no sense."""
        if grant.rows is None:
            return None
        dialect = self.schema.dialect
        try:
            condition = sqlglot.parse_one(grant.rows, read=dialect, into=exp.Condition)
        except (SqlglotError, RecursionError) as error:
            raise _row_error(grant, f"is not {dialect} SQL: {str(error).splitlines()[0]}") from error
        for placeholder in list(condition.find_all(exp.Placeholder, exp.Parameter)):
            if not isinstance(placeholder, exp.Placeholder) or placeholder.name != USER:
                raise _row_error(grant, f"holds {placeholder.sql()}", "only :user may be used")
            name = exp.Literal.string(self.principal.name)
            condition = name if placeholder is condition else condition
            placeholder.replace(name)
        probe = exp.select(exp.Literal.number(1)).from_(whole_table(table)).where(condition)
        try:
            check_within(write_sql(probe, dialect), dialect, self._bounds)
            spell(probe, dialect, self.schema)
            where = qualified(probe, self.schema).args["where"].this
        except (RefusedError, SqlglotError, RecursionError) as error:
            raise _row_error(grant, f"makes no sense: {str(error).splitlines()[0]}") from error
        assert isinstance(where, exp.Expr)
        for node in where.find_all(exp.Table):
            placed(node)
        return where


_PLACED = "placed by the policy"


def placed(table: exp.Table) -> exp.Table:
    """Mark a reference as one that the policy itself put into a statement, or passed."""
    table.meta[_PLACED] = True
    return table


def is_placed(table: exp.Table) -> bool:
    """Whether `placed` marked it (copies keep the mark)."""
    return bool(table.meta.get(_PLACED))


def whole_table(table: Table) -> exp.Table:
    """A reference to the real table, as the database spells it, under its own name."""
    name = exp.to_identifier(table.name, quoted=True)
    return placed(exp.Table(this=name, alias=exp.TableAlias(this=name.copy())))


def _read_as(function: str, dialect: str) -> set[str]:
    """The names under which the parser knows calls of a function: `date_trunc('day', x)` is a TIMESTAMP_TRUNC to it."""
    found = set()
    for arguments in _ARGUMENTS:
        try:
            call = sqlglot.parse_one(f"{function}({arguments})", read=dialect)
        except SqlglotError:
            continue
        # Only the call itself: what it may be rewritten to could hold other functions.
        if isinstance(call, exp.Func) and not isinstance(call, exp.Anonymous):
            found |= {name.lower() for name in call.sql_names()}
    return found


def _grant_of(role: Role, table: Table) -> Grant | bool:
    """What a role says of a table; True for all of it, False for nothing."""
    return role.grants.get(table.name.lower()) or role.everything


def _row_error(grant: Grant, message: str, hint: str | None = None) -> UserError:
    fields = grant.entry.fields()
    rows = fields.get("rows")
    return (rows or grant.entry).error(message, hint)


def _check_distinct(schema: Schema) -> None:
    """Rules know names without regard to case. Raises UserError where that is not enough to tell tables or columns apart."""
    for names in ([t.name for t in schema.tables], *([c.name for c in t.columns] for t in schema.tables)):
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.lower(), name)
            if other is not name:
                raise UserError(f"{other} and {name} differ in case alone", "a policy cannot tell them apart; rename one")
