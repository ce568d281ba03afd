"""PostgreSQL for reading: read-only transactions, a role that may only read, time limits, a cursor on the server.

Target: `parameters` of libpq, `environment` (the PG* variables), `schema` ("" for the first of the search path), `may_write`
(whether a role that may write is taken all the same).
"""

from __future__ import annotations

import os
import re
from typing import Any

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 60  # until a statement brings its own
LOCK_TIMEOUT_S = 5
IDLE_IN_TRANSACTION_S = 120
# A server that has gone silently is noticed.
ALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "30000"}
CURSOR = "openarctic"
# Their Python values lose something (years before 1, infinity, months, order of keys), or JSON has no form for them.
AS_TEXT = """
    date time timetz timestamp timestamptz interval json jsonb uuid inet cidr int4range int8range numrange tsrange tstzrange
    daterange int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange
    text varchar bpchar name "char" unknown
""".split()
KINDS = {"date": "date", "time": "time", "timestamp": "datetime", "timestamptz": "aware"}

# What makes a role one that may write, worst first. Temporary tables, which everybody may make, are not counted: read-only
# transactions refuse them.
WRITING_RIGHTS = """
SELECT what FROM (
  SELECT 1 AS rank, 'it is a superuser' AS what FROM pg_roles WHERE rolname = current_user AND rolsuper
  UNION ALL
  SELECT 2, 'it may make databases or roles' FROM pg_roles WHERE rolname = current_user AND (rolcreatedb OR rolcreaterole)
  UNION ALL
  SELECT 3, 'it is a member of ' || rolname FROM pg_roles
   WHERE rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')
     AND pg_has_role(current_user, oid, 'MEMBER')
  UNION ALL
  (SELECT 4, 'it may change the table ' || n.nspname || '.' || c.relname
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
      AND has_schema_privilege(n.oid, 'USAGE')
      AND (has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(c.oid, 'INSERT, UPDATE'))
    ORDER BY n.nspname, c.relname LIMIT 1)
  UNION ALL
  (SELECT 5, 'it may make tables in the schema ' || nspname FROM pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' AND has_schema_privilege(oid, 'CREATE')
    ORDER BY nspname LIMIT 1)
  UNION ALL
  SELECT 6, 'it may make schemas' WHERE has_database_privilege(current_database(), 'CREATE')
) AS rights ORDER BY rank LIMIT 1
"""


class OpeningError(Exception):
    """Why no connection was made; `kind` as in `kind_of`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def connect(target: dict[str, Any]) -> Any:
    """A session in which every transaction only reads and every statement has a limit. Raises OpeningError."""
    import psycopg

    parameters = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "application_name": "openarctic",
        **ALIVE,
        **target["parameters"],
        "client_encoding": "UTF8",
    }
    try:
        connection = psycopg.connect(autocommit=True, **parameters)
    except psycopg.Error as error:
        raise _opening_error(error) from None
    try:
        _lock_down(connection, target)
    except BaseException:
        connection.close()
        raise
    return connection


def _opening_error(error: Exception) -> OpeningError:
    lines = [line.strip(" -\t") for line in str(error).splitlines()]
    text = next((line for line in lines if "FATAL" in line), None) or next(
        (line for line in lines if "failed:" in line), lines[0]
    )
    text = text.partition("FATAL:")[2].strip() or text
    if re.search(r"authentication|password|pg_hba|role .* does not exist", text):
        return OpeningError("login", text)
    if re.search(r"database .* does not exist", text):
        return OpeningError("missing", text)
    is_setting = re.search(r"invalid|missing|unsupported|unrecognized", text)
    return OpeningError("setting" if is_setting and "failed:" not in text else "lost", text)


def _lock_down(connection: Any, target: dict[str, Any]) -> None:
    from psycopg import sql

    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "row_security": "on",
    }
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    wanted = target["schema"]
    if wanted and not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (wanted,)).fetchone():
        raise OpeningError("missing", f"there is no schema {wanted}")
    schema = wanted or connection.execute("SELECT current_schema()").fetchone()[0]
    if schema is None:
        raise OpeningError("missing", "the search path of this role names no schema that exists")
    # One schema, so that a name means one table; the catalog stays before it, so that nobody can shadow a function.
    connection.execute("SELECT set_config('search_path', %s, false)", (sql.Identifier(schema).as_string(connection),))
    if not target["may_write"]:
        right = connection.execute(WRITING_RIGHTS).fetchone()
        if right is not None:
            user = connection.execute("SELECT current_user").fetchone()[0]
            raise OpeningError("refused", f"the role {user} may write: {right[0]}")


def kind_of(error: Exception) -> str:
    """By SQLSTATE; an error without one comes from the connection."""
    import psycopg

    if isinstance(error, OpeningError):
        return error.kind
    if not isinstance(error, psycopg.Error):
        return "failed"
    state = error.sqlstate
    if state is None:
        return "lost" if isinstance(error, psycopg.OperationalError) else "failed"
    by_state = {
        "57014": "timeout", "55P03": "locked", "42501": "denied",
        "42P01": "missing", "42703": "missing", "3F000": "missing", "25P03": "lost",
    }  # fmt: skip
    by_class = {"08": "lost", "53": "capacity", "54": "capacity", "57": "lost", "58": "lost"}
    return by_state.get(state) or by_class.get(state[:2], "failed")


class Engine:
    """One connection; see the package's description."""

    def __init__(self, target: dict[str, Any], _memory_bytes: int) -> None:
        os.environ.update(target["environment"])
        self.connection = connect(target)
        self.connection.autocommit = False
        self.connection.read_only = True
        _read_exactly(self.connection)
        self.search_path: str = self.connection.execute("SHOW search_path").fetchone()[0]
        self.connection.rollback()
        self.cursor: Any = None
        self.kinds: dict[int, str] = {}

    def start(self, request: dict[str, Any]) -> list[str]:
        """A cursor in a transaction of its own: the server makes rows as they are fetched."""
        from psycopg import sql

        milliseconds = max(1, int(request["timeout"] * 1000))
        # In the transaction: a pooler may give every transaction another session.
        self.connection.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true), "
            "set_config('idle_in_transaction_session_timeout', %s, true), set_config('search_path', %s, true)",
            (f"{milliseconds}ms", f"{LOCK_TIMEOUT_S}s", f"{IDLE_IN_TRANSACTION_S}s", self.search_path),
        )
        if request.get("role"):
            self.connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(request["role"])))
        # No cursor on the server can hold a plan.
        self.cursor = self.connection.cursor() if request.get("plan") else self.connection.cursor(name=CURSOR)
        self.cursor.execute(("EXPLAIN (FORMAT JSON) " if request.get("plan") else "") + request["sql"])
        described = self.cursor.description or ()
        types = [self.connection.adapters.types.get(column.type_code) for column in described]
        self.kinds = {i: KINDS[type.name] for i, type in enumerate(types) if type is not None and type.name in KINDS}
        return [column.name for column in described]

    def fetch(self, count: int) -> list[tuple[Any, ...]]:
        """The next rows."""
        rows: list[tuple[Any, ...]] = self.cursor.fetchmany(count)
        return rows

    def finish(self) -> None:
        """End the transaction, unless the connection is gone."""
        self.cursor = None
        if not self.connection.closed:
            self.connection.rollback()


def _read_exactly(connection: Any) -> None:
    """Text for all types whose Python values would lose something."""
    import psycopg
    from psycopg.adapt import Loader

    class Text(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode("utf-8", "replace")

    for name in AS_TEXT:
        if psycopg.postgres.types.get(name) is not None:
            connection.adapters.register_loader(name, Text)
    connection.adapters.register_loader(0, Text)
