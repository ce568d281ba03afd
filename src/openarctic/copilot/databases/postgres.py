"""PostgreSQL: what a URL and the PG* variables say, and the tables of one schema from the catalog.

Only what the role may read is read; partitions belong to their table. A table whose name is one of the catalog's own is left
out: without its schema such a name means the catalog's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, quote, unquote

from openarctic.copilot.databases.database import Database, Query, Secrets, State
from openarctic.copilot.databases.failures import failure
from openarctic.copilot.databases.values import VALUE_CHARS, VALUES_PER_COLUMN, linkable, quoted
from openarctic.copilot.engines import postgres as engine
from openarctic.copilot.schema import Column, ForeignKey, Table
from openarctic.errors import MissingError, UserError

SAMPLED_ROWS = 10_000
USUAL_SCHEMA = "public"
YES, NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off", "")

VISIBLE = """
  SELECT c.oid, c.relname, c.relkind, c.reltuples FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
     AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'))
     AND NOT EXISTS (SELECT 1 FROM pg_class o WHERE o.relname = c.relname AND o.relnamespace = 'pg_catalog'::regnamespace)
"""
TABLES = f"""
SELECT v.relname, v.relkind::text, obj_description(v.oid, 'pg_class') AS comment,
       CASE WHEN v.relkind IN ('v', 'm') THEN pg_get_viewdef(v.oid) END AS definition
  FROM ({VISIBLE}) v ORDER BY v.relname
"""
ESTIMATES = f"""
SELECT v.relname,
       CASE WHEN v.relkind <> 'p' THEN v.reltuples
            ELSE (SELECT sum(greatest(leaf.reltuples, 0)) FROM pg_partition_tree(v.oid) t
                    JOIN pg_class leaf ON leaf.oid = t.relid WHERE t.isleaf) END::bigint
  FROM ({VISIBLE}) v WHERE v.relkind <> 'v'
"""
COLUMNS = f"""
SELECT v.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, col_description(v.oid, a.attnum) AS comment,
       t.typcategory IN ('S', 'E') AS is_text
  FROM ({VISIBLE}) v
  JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE has_column_privilege(v.oid, a.attnum, 'SELECT') ORDER BY v.relname, a.attnum
"""
KEYS = f"""
SELECT v.relname, k.contype::text,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns,
       other.relname,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place) AS to_columns
  FROM ({VISIBLE}) v
  JOIN pg_constraint k ON k.conrelid = v.oid AND k.contype IN ('p', 'f') AND k.conparentid = 0
  LEFT JOIN ({VISIBLE}) other ON other.oid = k.confrelid
 WHERE k.contype = 'p' OR other.oid IS NOT NULL ORDER BY v.relname, k.contype, k.conname
"""


def open_url(parts: SplitResult, options: Mapping[str, str]) -> Database:
    """The database that a `postgresql://` URL names; what it leaves out comes from the PG* variables, as libpq does it.

    Our own options are `schema` and `allow_writing_role`; all others are libpq's. Raises UserError.
    """
    own = {"schema", "allow_writing_role"}
    parameters = {name: value for name, value in options.items() if name not in own}
    user_part, _, hosts = parts.netloc.rpartition("@")
    user, has_password, password = user_part.partition(":")
    pairs = [_host_and_port(host) for host in hosts.split(",")] if hosts else []
    if any(host for host, _ in pairs):
        parameters["host"] = ",".join(host for host, _ in pairs)
    if any(port for _, port in pairs):
        parameters["port"] = ",".join(port for _, port in pairs)
    if user:
        parameters["user"] = unquote(user)
    if has_password:
        parameters["password"] = unquote(password)
    if parts.path.strip("/"):
        parameters["dbname"] = unquote(parts.path.lstrip("/"))
    environment = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    schema = options.get("schema", "")
    settings = Secrets({**parameters, **environment, "may_write": read_switch(options, "allow_writing_role")})
    known = {**_from_environment(environment), **parameters}
    name = known.get("dbname") or known.get("user") or "postgres"
    return Database("postgres", kind="postgres", name=name, url=_shown(known, schema), schema=schema, settings=settings)


def read_switch(options: Mapping[str, str], name: str) -> bool:
    """An option that says yes or no. Raises UserError for anything else."""
    value = options.get(name, "").lower()
    if value not in (*YES, *NO):
        raise UserError(f"{name} is {options[name]!r}", "write yes or no")
    return value in YES


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.lstrip(":")
    host, _, port = text.partition(":")
    if port and not port.isdigit():
        raise UserError(f"the port {port!r} of the database URL is no number", "write postgresql://user@host:5432/name")
    return unquote(host), port


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname"}
    return {ours: environment[theirs] for theirs, ours in names.items() if theirs in environment}


def _shown(known: Mapping[str, str], schema: str) -> str:
    host = quote(known.get("host", ""), safe=":,.-")
    port = f":{known['port']}" if known.get("port") else ""
    user = f"{quote(known['user'])}@" if known.get("user") else ""
    name = quote(known.get("dbname", ""))
    return f"postgresql://{user}{host}{port}/{name}" + (f"?schema={quote(schema)}" if schema else "")


def target(database: Database) -> tuple[dict[str, Any], State]:
    """See `Kind`. Raises MissingError without psycopg."""
    _check_driver()
    settings = dict(database.settings)
    may_write = settings.pop("may_write")
    environment = {name: value for name, value in settings.items() if name.startswith("PG")}
    parameters = {name: value for name, value in settings.items() if name not in environment}
    told = {
        "kind": "postgres",
        "parameters": parameters,
        "environment": environment,
        "schema": database.schema,
        "may_write": may_write,
    }
    return told, None


def _check_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingError("reading PostgreSQL needs psycopg", "pip install 'openarctic[postgres]'") from error


def state(_database: Database) -> State:
    """See `Kind`."""
    return None


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Query]:
    """See `Kind`. Every statement is a transaction of its own."""
    _check_driver()
    import psycopg

    try:
        connection = engine.connect(target(database)[0])
        try:
            yield lambda sql: connection.execute(sql.encode()).fetchall()
        finally:
            connection.close()
    except (psycopg.Error, engine.OpeningError) as error:
        raise failure(database, engine.kind_of(error), str(error).partition("\n")[0], is_open=False) from error


def namespace(_database: Database, query: Query) -> str:
    """See `Kind`: the schema, unless it is `public`."""
    schema = str(query("SELECT current_schema()")[0][0])
    return "" if schema == USUAL_SCHEMA else schema


def fingerprint(database: Database) -> tuple[Any, ...]:
    """See `Kind`: who reads what where, and a digest of everything that `tables` reads but samples and estimates."""
    digests = (f"(SELECT md5(string_agg(x::text, chr(10))) FROM ({part}) AS x)" for part in (TABLES, COLUMNS, KEYS))
    with reading(database) as query:
        rows = query(
            "SELECT current_user::text, current_database()::text, current_schema()::text, inet_server_addr()::text, "
            f"inet_server_port(), {', '.join(digests)}"
        )
    return rows[0]


def tables(_database: Database, query: Query, values: bool) -> Iterator[Table]:
    """See `Kind`."""
    columns: dict[str, list[tuple[str, str, str, bool]]] = {}
    for table, column, type_, comment, is_text in query(COLUMNS):
        columns.setdefault(table, []).append((column, type_, comment or "", is_text))
    estimates = {table: count if count is not None and count >= 0 else None for table, count in query(ESTIMATES)}
    primary: dict[str, tuple[str, ...]] = {}
    foreign: dict[str, list[ForeignKey]] = {}
    for table, kind, own, other, to_columns in query(KEYS):
        if kind == "p":
            primary[table] = tuple(own)
        else:
            keys = (ForeignKey(column=mine, table=other, to_column=its) for mine, its in zip(own, to_columns, strict=True))
            foreign.setdefault(table, []).extend(keys)
    for table, kind, comment, definition in query(TABLES):
        own_columns = columns.get(table, [])
        texts = [column for column, _, _, is_text in own_columns if is_text]
        samples = _samples(query, table, texts) if values and texts and kind in ("r", "p") else {}
        yield Table(
            name=table,
            columns=tuple(
                Column(name=column, type=type_, comment=note, values=samples.get(column, ()))
                for column, type_, note, _ in own_columns
            ),
            primary_key=primary.get(table, ()),
            foreign_keys=tuple(foreign.get(table, ())),
            is_view=kind in ("v", "m"),
            definition=definition or "",
            comment=comment or "",
            row_estimate=estimates.get(table),
        )


def _samples(query: Query, table: str, columns: list[str]) -> dict[str, tuple[str, ...]]:
    """Short values of the first rows; none where the table is locked or its own functions fail: samples are a help."""
    import psycopg

    short = (f"CASE WHEN length({quoted(c)}::text) <= {VALUE_CHARS} THEN {quoted(c)}::text END" for c in columns)
    try:
        rows = query(f"SELECT {', '.join(short)} FROM {quoted(table)} LIMIT {SAMPLED_ROWS}")
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DataError):
        return {}
    found = zip(columns, zip(*rows, strict=True), strict=True) if rows else ()
    return {column: linkable(dict.fromkeys(values))[:VALUES_PER_COLUMN] for column, values in found}
