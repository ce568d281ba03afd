"""Snowflake: what a URL, the SNOWFLAKE_* variables and connections.toml say, and the tables of one schema.

The connector is told everything at once; it never looks anything up by itself, so that the usual places are read in one way
whichever of its major versions is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote

from openarctic.copilot.databases.database import Database, Query, Secrets, State
from openarctic.copilot.databases.failures import failure
from openarctic.copilot.databases.postgres import read_switch
from openarctic.copilot.databases.values import VALUE_CHARS, VALUES_PER_COLUMN, linkable, quoted
from openarctic.copilot.engines import snowflake as engine
from openarctic.copilot.schema import Column, ForeignKey, Table
from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError

SAMPLED_ROWS = 10_000
USUAL_SCHEMA = "PUBLIC"
TEXT_OPTIONS = (
    "warehouse", "role", "authenticator", "private_key_file", "private_key_path", "private_key_file_pwd", "token",
    "token_file_path", "passcode", "host", "protocol", "region",
)  # fmt: skip
NUMBER_OPTIONS = ("port", "login_timeout", "network_timeout")
OWN_OPTIONS = ("connection_name", "allow_writing_role")
OPTIONS = (*TEXT_OPTIONS, *NUMBER_OPTIONS, *OWN_OPTIONS)
VARIABLES = ("account", "user", "password", "database", "schema", *TEXT_OPTIONS, *NUMBER_OPTIONS)


def open_url(parts: SplitResult, options: Mapping[str, str]) -> Database:
    """The schema that a `snowflake://` URL names.

    A named connection (`?connection_name=`) is completed by the URL alone. Without one the SNOWFLAKE_* variables complete the
    URL, and where neither names an account, the default connection completes both. Raises UserError, MissingError, CorruptError.
    """
    given = _from_url(parts, options)
    named = options.get("connection_name")
    if named:
        known = {**_connection(named), **given}
    else:
        given = {**_from_environment(), **given}
        default = {} if given.get("account") else _default_connection()
        known = {**default, **given}
    if not known.get("account"):
        hint = "write snowflake://USER@ACCOUNT/DATABASE/SCHEMA, set SNOWFLAKE_ACCOUNT, or add a connection to connections.toml"
        raise UserError("no Snowflake account is named", hint)
    for name in ("database", "schema"):
        if not known.get(name):
            raise UserError(f"no Snowflake {name} is named", "write snowflake://USER@ACCOUNT/DATABASE/SCHEMA")
    user = f"{quote(str(known['user']))}@" if known.get("user") else ""
    place = "/".join(quote(str(known[name])) for name in ("account", "database", "schema"))
    settings = Secrets({**known, "may_write": read_switch(options, "allow_writing_role")})
    return Database(
        "snowflake", kind="snowflake", name=str(known["database"]), url=f"snowflake://{user}{place}",
        schema=str(known["schema"]), settings=settings,
    )  # fmt: skip


def _from_url(parts: SplitResult, options: Mapping[str, str]) -> dict[str, Any]:
    user_part, _, account = parts.netloc.rpartition("@")
    user, _, password = user_part.partition(":")
    path = [unquote(part) for part in parts.path.strip("/").split("/") if part]
    if len(path) > 2:
        raise UserError(f"the URL names {len(path)} parts after the account", "write snowflake://USER@ACCOUNT/DATABASE/SCHEMA")
    named = dict(zip(("database", "schema"), path, strict=False))
    texts = {"account": unquote(account), "user": unquote(user), "password": unquote(password), **named}
    texts |= {name: options[name] for name in TEXT_OPTIONS if name in options}
    return _settings({**texts, **{name: options[name] for name in NUMBER_OPTIONS if name in options}})


def _from_environment() -> dict[str, Any]:
    return _settings({name: os.environ.get(f"SNOWFLAKE_{name.upper()}", "") for name in VARIABLES})


def _settings(texts: Mapping[str, str]) -> dict[str, Any]:
    """Without what is empty, numbers as numbers, older names as newer ones."""
    settings: dict[str, Any] = {name: value for name, value in texts.items() if value}
    for name in NUMBER_OPTIONS:
        if name in settings:
            if not settings[name].isdigit():
                raise UserError(f"{name} is {settings[name]!r}", "write a number")
            settings[name] = int(settings[name])
    if "private_key_path" in settings:
        settings.setdefault("private_key_file", settings.pop("private_key_path"))
    return settings


def _folder() -> Path:
    """Where Snowflake's own tools keep their files."""
    if own := os.environ.get("SNOWFLAKE_HOME"):
        return Path(own).expanduser()
    usual = Path.home() / ".snowflake"
    return usual if usual.is_dir() else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "snowflake"


def _connections() -> tuple[dict[str, Any], str]:
    """Every named connection, and the name of the default one. connections.toml comes before config.toml."""
    config, own = _read_toml(_folder() / "config.toml"), _read_toml(_folder() / "connections.toml")
    every = {**config.get("connections", {}), **own}
    default = os.environ.get("SNOWFLAKE_DEFAULT_CONNECTION_NAME") or config.get("default_connection_name") or "default"
    return {name: value for name, value in every.items() if isinstance(value, dict)}, str(default)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(f"{path} can be written by others, so its settings cannot be trusted", f"chmod 600 {path}")
        return tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    except ValueError as error:
        raise CorruptError(f"{path} is not TOML: {error}", "check the file") from None


def _connection(name: str) -> dict[str, Any]:
    every, _ = _connections()
    if name not in every:
        known = ", ".join(every) or "none"
        raise MissingError(f"there is no Snowflake connection {name!r} in {_folder()}", f"connections there: {known}")
    return dict(every[name])


def _default_connection() -> dict[str, Any]:
    every, default = _connections()
    return dict(every.get(default, {}))


def target(database: Database) -> tuple[dict[str, Any], State]:
    """See `Kind`. Raises MissingError without the connector."""
    _check_driver()
    parameters = dict(database.settings)
    may_write = parameters.pop("may_write")
    return {"kind": "snowflake", "parameters": parameters, "may_write": may_write}, None


def _check_driver() -> None:
    try:
        import snowflake.connector  # noqa: F401
    except ImportError as error:
        raise MissingError("reading Snowflake needs its connector", "pip install 'openarctic[snowflake]'") from error


def state(_database: Database) -> State:
    """See `Kind`."""
    return None


@contextlib.contextmanager
def reading(database: Database) -> Iterator[Query]:
    """See `Kind`."""
    told, _ = target(database)
    try:
        connection = engine.connect(told)
        try:
            yield lambda sql: engine.rows(connection, sql)
        finally:
            connection.close()
    except OpenArcticError:
        raise
    except Exception as error:  # noqa: BLE001
        # The connector also lets errors of its HTTP library through.
        raise failure(database, engine.kind_of(error), str(error).partition("\n")[0], is_open=False) from None


def namespace(database: Database, _query: Query) -> str:
    """See `Kind`: the schema, unless it is `PUBLIC`."""
    return "" if database.schema.upper() == USUAL_SCHEMA else database.schema


HERE = "table_schema = CURRENT_SCHEMA()"
TABLES = f"SELECT table_name, table_type, comment FROM information_schema.tables WHERE {HERE} ORDER BY table_name"
COUNTS = f"SELECT table_name, row_count FROM information_schema.tables WHERE {HERE}"
COLUMNS = (
    "SELECT table_name, column_name, data_type, comment FROM information_schema.columns "
    f"WHERE {HERE} ORDER BY table_name, ordinal_position"
)
VIEWS = f"SELECT table_name, view_definition FROM information_schema.views WHERE {HERE}"


def fingerprint(database: Database) -> tuple[Any, ...]:
    """See `Kind`: who reads what where, and a digest of tables and columns."""
    with reading(database) as query:
        who = query("SELECT CURRENT_USER(), CURRENT_ROLE(), CURRENT_DATABASE(), CURRENT_SCHEMA()")[0]
        found = [query(TABLES), query(COLUMNS)]
    digest = hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()
    return (*who, digest)


def tables(database: Database, query: Query, values: bool) -> Iterator[Table]:
    """See `Kind`."""
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for table, column, type_, comment in query(COLUMNS):
        columns.setdefault(table, []).append((column, type_, comment or ""))
    definitions: dict[str, str | None] = dict(query(VIEWS))
    counts: dict[str, int | None] = dict(query(COUNTS))
    listing = query(TABLES)
    listing += [(name, "VIEW", "") for name in sorted(set(definitions) - {name for name, *_ in listing})]
    primary, foreign = _keys(query, database, {name for name, *_ in listing})
    for name, kind, comment in listing:
        own = columns.get(name, [])
        is_view = "VIEW" in kind
        texts = [column for column, type_, _ in own if type_.upper() in ("TEXT", "VARCHAR", "STRING", "CHAR")]
        samples = _samples(query, name, texts) if values and texts and not is_view else {}
        count = counts.get(name)
        yield Table(
            name=name,
            columns=tuple(Column(name=c, type=t, comment=note, values=samples.get(c, ())) for c, t, note in own),
            primary_key=primary.get(name, ()),
            foreign_keys=tuple(foreign.get(name, ())),
            is_view=is_view,
            definition=definitions.get(name) or "",
            comment=comment or "",
            row_estimate=None if is_view or count is None else int(count),
        )


def _keys(query: Query, database: Database, names: set[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, list[ForeignKey]]]:
    """Snowflake does not enforce keys, but tools declare them. Columns of SHOW have no names in a query, so they go by place."""
    here = query("SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()")[0]
    place = ".".join(quoted(str(part)) for part in here)
    parts: dict[str, list[tuple[int, str]]] = {}
    for row in query(f"SHOW PRIMARY KEYS IN SCHEMA {place}"):
        parts.setdefault(row[3], []).append((int(row[5]), row[4]))
    primary = {table: tuple(column for _, column in sorted(own)) for table, own in parts.items()}
    foreign: dict[str, list[ForeignKey]] = {}
    for row in query(f"SHOW IMPORTED KEYS IN SCHEMA {place}"):
        _, _, to_schema, to_table, to_column, _, _, table, column, *_ = row
        if to_schema == here[1] and {to_table, table} <= names:
            foreign.setdefault(table, []).append(ForeignKey(column=column, table=to_table, to_column=to_column))
    return primary, foreign


def _samples(query: Query, table: str, columns: list[str]) -> dict[str, tuple[str, ...]]:
    short = (f"CASE WHEN LENGTH({quoted(c)}) <= {VALUE_CHARS} THEN {quoted(c)} END" for c in columns)
    rows = query(f"SELECT {', '.join(short)} FROM {quoted(table)} LIMIT {SAMPLED_ROWS}")
    found = zip(columns, zip(*rows, strict=True), strict=True) if rows else ()
    return {column: linkable(dict.fromkeys(values))[:VALUES_PER_COLUMN] for column, values in found}
