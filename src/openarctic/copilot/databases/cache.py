"""Schemas kept on disk, and told apart from those that have changed since.

A schema is read again when its database's fingerprint differs, and on servers after a day, because samples and estimates age
without a trace in the catalog. A cache holds samples of cell values, so only who made it may look into it, and never credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from openarctic.config import cache_folder, write_text
from openarctic.copilot.databases.database import Database
from openarctic.copilot.databases.reading import kind_of, read_schema
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.errors import MissingError

FORMAT = 1
SERVER_AGE_S = 24 * 3600.0


def cached_schema(database: Database, *, values: bool = True, refresh: bool = False) -> Schema:
    """What `read_schema` gives, from disk where nothing has changed. `refresh` reads it again in any case.

    Raises what `read_schema` raises; a cache that cannot be read or written is done without.
    """
    try:
        # Taken before the schema: what changes while that is read is noticed the next time.
        fingerprint = json.loads(json.dumps(kind_of(database).fingerprint(database), default=str))
    except OSError as error:
        raise MissingError(f"cannot read {database.place} any more: {error.strerror}", "was it moved?") from error
    path = _path(database, values)
    known = None if refresh else _load(path, fingerprint, database)
    if known is not None:
        return known
    schema = read_schema(database, values=values)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry = {"format": FORMAT, "fingerprint": fingerprint, "read_at": time.time(), "schema": _to_json(schema)}
        write_text(path, json.dumps(entry, ensure_ascii=False))
    return schema


def _path(database: Database, values: bool) -> Path:
    place = database.url if database.path is None else str(database.path.absolute())
    key = json.dumps([database.kind, place, database.schema, values])
    return cache_folder() / "schemas" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _load(path: Path, fingerprint: list[Any], database: Database) -> Schema | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        is_old = database.path is None and not 0 <= time.time() - entry["read_at"] < SERVER_AGE_S
        if entry["format"] != FORMAT or entry["fingerprint"] != fingerprint or is_old:
            return None
        return _from_json(entry["schema"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # absent, damaged, or of another version


def _to_json(schema: Schema) -> dict[str, Any]:
    return {
        "dialect": schema.dialect,
        "namespace": schema.namespace,
        "tables": [
            {**_fields(t), "columns": list(map(_fields, t.columns)), "foreign_keys": list(map(_fields, t.foreign_keys))}
            for t in schema.tables
        ],
    }


def _fields(item: Table | Column | ForeignKey) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _from_json(values: dict[str, Any]) -> Schema:
    return Schema(dialect=values["dialect"], namespace=values["namespace"], tables=tuple(map(_table, values["tables"])))


def _table(values: dict[str, Any]) -> Table:
    columns = tuple(Column(**{**column, "values": tuple(column["values"])}) for column in values["columns"])
    keys = tuple(ForeignKey(**key) for key in values["foreign_keys"])
    return Table(**{**values, "columns": columns, "foreign_keys": keys, "primary_key": tuple(values["primary_key"])})
