"""Reading schemas, whatever the kind of database."""

from __future__ import annotations

import importlib
from typing import Any, cast

from openarctic.copilot.databases.database import Database, Kind, State
from openarctic.copilot.databases.values import VALUES_PER_COLUMN
from openarctic.copilot.schema import Schema, Table
from openarctic.errors import UserError

__all__ = ["VALUES_PER_COLUMN", "has_changed", "kind_of", "read_schema", "target_of"]


def kind_of(database: Database) -> Kind:
    """The module of that kind."""
    return cast(Kind, importlib.import_module(f"openarctic.copilot.databases.{database.kind}"))


def read_schema(database: Database, *, values: bool = True) -> Schema:
    """Tables, columns, keys, comments, row counts and, unless `values` is False, samples of text values.

    Raises UserError when there is no table, CorruptError when the engine cannot read the file, CapacityError when another
    process holds it locked or a server is gone, MissingError when a server or driver is not there, RefusedError for a role that
    may write.
    """
    kind = kind_of(database)
    with kind.reading(database) as query:
        tables = tuple(kind.tables(database, query, values))
        namespace = kind.namespace(database, query)
    if not tables:
        raise UserError(f"{database.place} has no tables", "there is nothing to ask about")
    return Schema(dialect=database.dialect, tables=_without_twins(tables, database.dialect), namespace=namespace)


def _without_twins(tables: tuple[Table, ...], dialect: str) -> tuple[Table, ...]:
    """Of tables whose names differ in case alone, the one that a name without quotes means: names have no case to us."""
    kept: dict[str, Table] = {}
    for table in tables:
        is_plain = table.name == (table.name.upper() if dialect == "snowflake" else table.name.lower())
        if table.name.lower() not in kept or is_plain:
            kept[table.name.lower()] = table
    return tuple(kept.values())


def target_of(database: Database) -> tuple[dict[str, Any], State]:
    """What the process that runs statements is told, and the state that must stay the same meanwhile."""
    return kind_of(database).target(database)


def has_changed(database: Database, state: State) -> bool:
    """Whether the files are no longer as they were in `state`, or are gone."""
    try:
        return state is not None and kind_of(database).state(database) != state
    except OSError:
        return True
