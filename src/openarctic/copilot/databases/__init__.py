"""Opening databases for reading, and reading what they hold.

`open_database` makes a checked description, a `Database`, from a path or URL; `read_schema` reads tables, columns and keys.
Connections are made where they are used, read-only every time. One module a kind: duckdb, sqlite, files, postgres, snowflake.
"""

from openarctic.copilot.databases.cache import cached_schema
from openarctic.copilot.databases.database import Database, DataTable, State
from openarctic.copilot.databases.reading import (
    VALUES_PER_COLUMN,
    has_changed,
    read_schema,
    target_of,
)
from openarctic.copilot.databases.sqlite import sqlite_uri
from openarctic.copilot.databases.url import open_database

__all__ = [
    "VALUES_PER_COLUMN",
    "DataTable",
    "Database",
    "State",
    "cached_schema",
    "has_changed",
    "open_database",
    "read_schema",
    "sqlite_uri",
    "target_of",
]
