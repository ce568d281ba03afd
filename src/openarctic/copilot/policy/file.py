"""The policy file: YAML to frozen dataclasses, every mistake named with its line and key.

    roles:
      sales:
        tables:
          customers: {columns: {deny: [birthday], mask: {email: hash}}, rows: "region = 'north'"}
          orders:
        functions: [count, sum]
        limits: {rows: 1000, seconds: 5}
    users:
      ann: [sales]

What no role of a user names is not permitted.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from openarctic.copilot.guard import PERMITTED_FUNCTIONS
from openarctic.copilot.principal import Principal
from openarctic.copilot.yaml_file import Entry, parse_yaml, read_yaml
from openarctic.errors import MissingError, RefusedError, UserError

Mask = Literal["null", "hash", "last4"]
Security = Literal["invoker", "definer"]

EVERYTHING = "*"
MIN_SALT_CHARS = 16
MAX_NAME_CHARS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that one statement may give or take; None is no limit of the policy's own."""

    rows: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What a role may see of one table: columns that are not in `deny`, some of them masked, and the rows that `rows` is true of.

    Column names are in lower case. `security` is about views: `invoker` reads the view's tables with the reader's own rights,
    `definer` with those of whoever made the view.
    """

    table: str
    deny: frozenset[str] = frozenset()
    mask: Mapping[str, Mask] = field(default_factory=dict)
    rows: str | None = None
    security: Security = "invoker"
    entry: Entry = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """`grants` by lower-case table name; `everything` permits the other tables as a whole; `functions` None permits all that the
    guard knows."""

    name: str
    grants: Mapping[str, Grant]
    everything: bool = False
    functions: frozenset[str] | None = None
    limits: Limits = Limits()
    database_role: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Roles, users, the secret of hashes, and the file of the audit log (None: no log)."""

    roles: Mapping[str, Role]
    users: Mapping[str, tuple[str, ...]]
    salt: str = field(repr=False)
    audit: Path | None = None

    def principal(self, user: str | Principal) -> Principal:
        """The user of that name, with the roles that the file gives; a principal keeps the roles that it comes with.

        Raises RefusedError for a name that the policy does not have, UserError for such a role.
        """
        if isinstance(user, Principal):
            for role in user.roles:
                if role not in self.roles:
                    raise UserError(
                        f"{user.name} has the role {role!r}, which the policy does not have", _nearest(role, self.roles)
                    )
            return user
        if user not in self.users:
            raise RefusedError("not_permitted", f"the policy names no user {user!r}", "ask whoever keeps the policy")
        return Principal(user, self.users[user])


def read_policy(path: str | Path) -> Policy:
    """Read and check a file.

    Raises MissingError without one, UserError (file, line and key) for what it may not hold, CapacityError for too large a one.
    """
    path = Path(path).expanduser()
    try:
        root = read_yaml(path)
    except MissingError as error:
        raise MissingError(f"no policy file at {path}", "check --policy") from error
    return _policy(root, path.parent)


def parse_policy(text: str, folder: Path = Path(), file: str = "the policy") -> Policy:
    """The same for a text; a relative `audit` file is below `folder`."""
    return _policy(parse_yaml(text, file), folder)


def _policy(root: Entry, folder: Path) -> Policy:
    fields = root.fields()
    roles = {name: _role(name, entry) for name, entry in fields.require("roles").fields().all().items()}
    users_entry = fields.require("users")
    users = {name: _user_roles(name, entry, roles) for name, entry in users_entry.fields().all().items()}
    salt, audit = fields.get("salt"), fields.get("audit")
    _no_more(fields.rest(), ("roles", "users", "salt", "audit"))
    return Policy(
        roles=roles,
        users=users,
        salt=_salt(salt),
        audit=None if audit is None else folder / Path(audit.name()).expanduser(),
    )


def _salt(entry: Entry | None) -> str:
    """Without one, hashes are good for one run: nobody can try values against them, and they join within a statement."""
    if entry is None:
        return secrets.token_hex(16)
    if len(entry.text()) < MIN_SALT_CHARS:
        raise entry.error(
            f"has {len(entry.text())} characters, it must have {MIN_SALT_CHARS} at least", "let a generator make it"
        )
    return entry.text()


def _user_roles(user: str, entry: Entry, roles: Mapping[str, Role]) -> tuple[str, ...]:
    if not user.strip() or len(user) > MAX_NAME_CHARS or not user.isprintable():
        raise entry.error("is no name of a user", f"use 1 to {MAX_NAME_CHARS} printable characters")
    items = entry.items()
    names = [item.name() for item in items]
    for item, name in zip(items, names, strict=True):
        if name not in roles:
            raise item.error(f"is {name!r}, which is no role of this policy", _nearest(name, roles))
        if names.count(name) > 1:
            raise item.error(f"names role {name} twice", "keep one of them")
    by_database_role = {roles[n].database_role: n for n in names if roles[n].database_role is not None}
    if len(by_database_role) > 1:
        both = " and ".join(by_database_role.values())
        raise entry.error(f"gives roles that contradict each other: {both} name different roles of the database")
    return tuple(names)


def _role(name: str, entry: Entry) -> Role:
    if entry.is_null:
        return Role(name=name, grants={})
    fields = entry.fields()
    tables, functions, limits = fields.get("tables"), fields.get("functions"), fields.get("limits")
    database_role = fields.get("database_role")
    _no_more(fields.rest(), ("tables", "functions", "limits", "database_role"))
    grants: dict[str, Grant] = {}
    everything = False
    for table, grant in ({} if tables is None else tables.fields().all()).items():
        if table == EVERYTHING:
            everything = True
            if not grant.is_null and grant.fields().all():
                raise grant.error("stands for every other table as a whole and holds no rules", "name the table that has rules")
        elif table.lower() in grants:
            raise grant.error(f"is the same table as {grants[table.lower()].table}", "keep one of them")
        else:
            grants[table.lower()] = _grant(table, grant)
    return Role(
        name=name,
        grants=grants,
        everything=everything,
        functions=None if functions is None else _functions(functions),
        limits=Limits() if limits is None else _limits(limits),
        database_role=None if database_role is None else database_role.name(),
    )


def _grant(table: str, entry: Entry) -> Grant:
    if entry.is_null:
        return Grant(table=table, entry=entry)
    fields = entry.fields()
    columns, rows, security = fields.get("columns"), fields.get("rows"), fields.get("security")
    _no_more(fields.rest(), ("columns", "rows", "security"))
    deny: frozenset[str] = frozenset()
    mask: dict[str, Mask] = {}
    if columns is not None:
        parts = columns.fields()
        denied, masked = parts.get("deny"), parts.get("mask")
        _no_more(parts.rest(), ("deny", "mask"))
        deny = frozenset() if denied is None else frozenset(name.lower() for name in denied.names())
        for column, kind in ({} if masked is None else masked.fields().all()).items():
            if column.lower() in deny:
                raise kind.error("is denied and masked at once: the policy contradicts itself", "keep one of them")
            if column.lower() in mask:
                raise kind.error("is masked twice", "keep one of them")
            mask[column.lower()] = cast(Mask, "null" if kind.is_null else kind.choice("null", "hash", "last4"))
    return Grant(
        table=table,
        deny=deny,
        mask=mask,
        rows=None if rows is None else rows.name(),
        security="invoker" if security is None else cast(Security, security.choice("invoker", "definer")),
        entry=entry,
    )


def _functions(entry: Entry) -> frozenset[str]:
    names = set()
    for item in entry.items():
        name = item.name().lower()
        if name not in PERMITTED_FUNCTIONS:
            raise item.error(f"is {name!r}, which nobody may use", _nearest(name, PERMITTED_FUNCTIONS))
        names.add(name)
    return frozenset(names)


def _limits(entry: Entry) -> Limits:
    fields = entry.fields()
    rows, seconds = fields.get("rows"), fields.get("seconds")
    _no_more(fields.rest(), ("rows", "seconds"))
    return Limits(
        rows=None if rows is None else int(_positive(rows, whole=True)),
        seconds=None if seconds is None else _positive(seconds, whole=False),
    )


def _positive(entry: Entry, whole: bool) -> float:
    value = entry.integer() if whole else entry.value()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise entry.error(f"is {value!r}, it must be a number above 0")
    return value


def _no_more(rest: Mapping[str, Entry], known: Iterable[str]) -> None:
    for name, entry in rest.items():
        raise entry.error("is no key of a policy", _nearest(name, known))


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known)[:12])}"


def check_names(policy: Policy, tables: Mapping[str, frozenset[str]], views: frozenset[str]) -> None:
    """Compare a policy with a database: `tables` are its lower-case columns by lower-case table.

    A misspelt column would stay visible, so every name must exist. Raises UserError with line and key.
    """
    for grant in (grant for role in policy.roles.values() for grant in role.grants.values()):
        name = grant.table.lower()
        if name not in tables:
            raise grant.entry.error("is no table of this database", _nearest(name, tables))
        for column in sorted(grant.deny | grant.mask.keys()):
            if column not in tables[name]:
                raise grant.entry.error(
                    f"speaks of column {column}, which the table does not have", _nearest(column, tables[name])
                )
        if grant.deny >= tables[name]:
            raise grant.entry.error("denies every column", "leave the table out, and nobody may read it")
        if grant.security == "definer" and name not in views:
            raise grant.entry.error("has security: definer, but is a table", "only views have a definer")
