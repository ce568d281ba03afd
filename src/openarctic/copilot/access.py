"""One door for every statement: what a principal sees of a database, and the check that keeps statements to it.

`ask`, `query` and whatever comes later hold an `Access` and nothing else: `schema` is what may be shown to a model or a person,
`check` passes the guard and rewrites for the policy, `recorded` writes the audit log. Without a policy it lets everything through
that the guard lets through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from openarctic.copilot.audit import AuditLog, Event
from openarctic.copilot.guard import Bounds, Checked, check_within
from openarctic.copilot.policy import Policy, Reader, Rules, read_policy
from openarctic.copilot.principal import ANYONE, Principal
from openarctic.copilot.schema import Schema
from openarctic.errors import RefusedError, UserError


class Access:
    """What `principal` may read of the database that `schema` describes; `allowed_tables` narrows it further.

    Raises UserError for a policy that does not fit the database.
    """

    def __init__(
        self,
        schema: Schema,
        policy: Policy | None = None,
        principal: Principal = ANYONE,
        allowed_tables: Iterable[str] | None = None,
    ) -> None:
        self.principal, self.dialect = principal, schema.dialect
        self._reader = None if policy is None else Reader(Rules(schema, policy, principal))
        self.schema = schema if self._reader is None else self._reader.visible()
        self.log = None if policy is None or policy.audit is None else AuditLog(policy.audit)
        functions = None if self._reader is None else self._reader.rules.functions
        self._bounds = Bounds(self.schema, allowed_tables, whole=schema, functions=functions)
        if policy is not None and not self.schema.tables:
            why = "none of their roles names a table of this database" if principal.roles else "they have no role"
            self.refuse(RefusedError("not_permitted", f"{principal.name} may read nothing here: {why}"))

    @property
    def is_restricted(self) -> bool:
        """Whether a policy is in force."""
        return self._reader is not None

    def check(self, sql: str) -> Checked:
        """A statement that may run. Raises RefusedError: `not_permitted` for what is there but not for this principal."""
        checked = check_within(sql, self.dialect, self._bounds)
        return checked if self._reader is None else self._reader.apply(checked)

    def hidden(self, checked: Checked) -> str:
        """Why a result may be smaller than the data, in one sentence; empty where nothing is hidden. It never says how much."""
        if not checked.filtered:
            return ""
        return f"The policy shows {self.principal.name} only some rows of {' and '.join(checked.filtered)}."

    @contextlib.contextmanager
    def recorded(self, door: str, question: str | None = None, sql: str | None = None) -> Iterator[Event]:
        """What happens inside is one event of the audit log, also where it fails, is interrupted or meets a bug of ours: the
        statement may have run. Give results away after it, not inside."""
        event = Event(
            door=door, principal=self.principal, dialect=self.dialect, schema=self._bounds.whole, question=question, sql=sql
        )
        try:
            yield event
        except BaseException as error:
            event.fail(error)
            if self.log is not None:
                self.log.append(event)
            raise
        if self.log is not None:
            self.log.append(event)

    def refuse(self, error: RefusedError) -> None:
        """Record and raise."""
        with self.recorded("open"):
            raise error


def open_access(
    schema: Schema,
    policy: str | Path | Policy | None = None,
    user: str | Principal | None = None,
    allowed_tables: Iterable[str] | None = None,
) -> Access:
    """The access of `user` under a policy file; without one, of anyone. A `Principal` has roles of its own, a name the policy's.

    Raises UserError where only one of the two is given or a role is unknown, RefusedError for a user not in the policy.
    """
    check_both_named(policy, user)
    if policy is None or user is None:
        return Access(schema, allowed_tables=allowed_tables)
    policy = policy if isinstance(policy, Policy) else read_policy(policy)
    try:
        principal = policy.principal(user)
    except RefusedError as error:
        if policy.audit is not None:
            who = user if isinstance(user, Principal) else Principal(user)
            stranger = Event(door="open", principal=who, dialect=schema.dialect)
            stranger.fail(error)
            AuditLog(policy.audit).append(stranger)
        raise
    return Access(schema, policy, principal, allowed_tables)


def check_both_named(policy: str | Path | Policy | None, user: str | Principal | None) -> None:
    """Raises UserError where only one of the two is given."""
    if policy is None and user is not None:
        name = user.name if isinstance(user, Principal) else user
        raise UserError(f"--user {name} means nothing without a policy", "give --policy FILE, or leave --user out")
    if policy is not None and user is None:
        raise UserError("a policy is given, but nobody is named who asks", "give --user NAME")
