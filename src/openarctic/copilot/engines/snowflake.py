"""Snowflake for reading: a role that may only read, no secondary roles, limits of time and rows in the session.

Target: `parameters` of the connector, `may_write` (whether a role that may write is taken all the same). Snowflake has no
read-only sessions, so the role and the guard are what keeps it from writing.
"""

from __future__ import annotations

import math
from typing import Any

LOGIN_TIMEOUT_S = 15
STATEMENT_TIMEOUT_S = 60  # until a statement brings its own
SESSION = {
    "QUERY_TAG": "openarctic",
    "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_TIMEOUT_S,
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": STATEMENT_TIMEOUT_S,
    "ABORT_DETACHED_QUERY": True,  # nobody is left to read its result
    "MULTI_STATEMENT_COUNT": 1,
    "AUTOCOMMIT": False,
}
ADMINS = ("ACCOUNTADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN", "ORGADMIN", "GLOBALORGADMIN")
READING = ("USAGE", "SELECT", "REFERENCES", "MONITOR", "READ", "OPERATE", "IMPORTED PRIVILEGES", "RESOLVE ALL")
COMPUTE = ("WAREHOUSE", "COMPUTE POOL", "RESOURCE MONITOR")  # holding these writes no data
MAX_ROLES = 200
# https://docs.snowflake.com errors: object does not exist or not authorized, invalid identifier; cancelled, timed out; rights.
# 252005 is the connector's own: a value that Python cannot hold, such as a date before the year 1.
BY_NUMBER = {
    2003: "missing", 2043: "missing", 904: "missing", 604: "timeout", 630: "timeout", 3001: "denied", 3003: "denied",
    252005: "failed",
}  # fmt: skip


class OpeningError(Exception):
    """Why no connection was made; `kind` as in `kind_of`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def connect(target: dict[str, Any]) -> Any:
    """A session with limits, under a role that may only read. Raises OpeningError or the connector's errors."""
    import snowflake.connector

    parameters = dict(target["parameters"])
    session = {**parameters.pop("session_parameters", {}), **SESSION}
    connection = snowflake.connector.connect(
        **{"login_timeout": LOGIN_TIMEOUT_S, "application": "openarctic", **parameters}, session_parameters=session
    )
    try:
        rows(connection, "USE SECONDARY ROLES NONE")  # or a second role could write where the first cannot
        if not target["may_write"]:
            _check_role(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def rows(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """What a statement of our own gives."""
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()]
    finally:
        cursor.close()


def _check_role(connection: Any) -> None:
    """Raises OpeningError where the role, or one that it inherits from, has a right that is not for reading."""
    role = rows(connection, "SELECT CURRENT_ROLE()")[0][0] or "PUBLIC"
    seen, waiting = {role}, [role]
    while waiting:
        name = waiting.pop()
        if name in ADMINS:
            raise OpeningError("refused", f"the role {role} may write: it is, or inherits from, {name}")
        quoted = '"' + name.replace('"', '""') + '"'
        for _, privilege, kind, on, *_ in rows(connection, f"SHOW GRANTS TO ROLE {quoted}"):
            if kind == "ROLE" and privilege == "USAGE":
                if on not in seen:
                    seen.add(on)
                    waiting.append(on)
            elif privilege not in READING and kind not in COMPUTE:
                raise OpeningError("refused", f"the role {role} may write: {privilege} on {kind} {on}")
        if len(seen) > MAX_ROLES:
            raise OpeningError("refused", f"the role {role} inherits from more than {MAX_ROLES} roles")


def kind_of(error: Exception) -> str:
    """By the number of the error, else by its class."""
    import snowflake.connector.errors as errors

    if isinstance(error, OpeningError):
        return error.kind
    if not isinstance(error, errors.Error):
        return "lost" if isinstance(error, ConnectionError | TimeoutError) else "failed"
    number = getattr(error, "errno", None)
    if number in BY_NUMBER:
        return BY_NUMBER[number]
    text = str(error).lower()
    if "password" in text or "authenticat" in text or "jwt" in text:
        return "login"
    if isinstance(error, errors.OperationalError | errors.InterfaceError) or number in (250001, 250003):
        return "lost"
    return "failed"


class Engine:
    """One connection; see the package's description."""

    def __init__(self, target: dict[str, Any], _memory_bytes: int) -> None:
        self.connection = connect(target)
        self.cursor: Any = None
        self.limits: tuple[int, int] | None = None

    def start(self, request: dict[str, Any]) -> list[str]:
        """Set the limits where they have changed, and run. The connector cancels the statement when its time is over."""
        seconds = max(1, math.ceil(request["timeout"]))
        limits = (seconds, request["limit"] + 1)
        if limits != self.limits:
            rows(
                self.connection,
                f"ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = {seconds} ROWS_PER_RESULTSET = {request['limit'] + 1}",
            )
            self.limits = limits
        self.cursor = self.connection.cursor()
        self.cursor.execute(request["sql"], timeout=seconds)  # connectors from 5 on leave it to the session
        return [column[0] for column in self.cursor.description or ()]

    def fetch(self, count: int) -> list[tuple[Any, ...]]:
        """The next rows."""
        return [tuple(row) for row in self.cursor.fetchmany(count)]

    def finish(self) -> None:
        """Let the result go."""
        if self.cursor is not None:
            self.cursor.close()
            self.cursor = None
