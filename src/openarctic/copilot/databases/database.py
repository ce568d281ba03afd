"""A database that was looked at: what it is, where it lies, and how the process that reads it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from openarctic.copilot.schema import Table

Rows = list[tuple[Any, ...]]
Query = Callable[[str], Rows]
# What must stay the same while a process has the database open; None where the engine itself takes care.
State = tuple[Any, ...] | None

HIDDEN = "***"


class Secrets(Mapping[str, Any]):
    """Settings that may hold credentials: they are passed on, never shown, compared or stored."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._values)})"


@dataclass(frozen=True, slots=True)
class Database:
    """`dialect` is duckdb, sqlite, postgres or snowflake; `kind` names the module that knows how to read it.

    Data files have the dialect duckdb and the kind files; `files` are their tables. `path` is the file, folder or pattern of what
    lies in files. `schema` is the schema whose tables are asked about, "" for the usual one. `url` holds no credentials: those
    are in `settings`.
    """

    dialect: str
    path: Path | None = None
    kind: str = ""
    name: str = ""
    url: str = ""
    schema: str = ""
    files: tuple[DataTable, ...] = ()
    settings: Secrets = field(default_factory=Secrets, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", self.dialect)
        if not self.name and self.path is not None:
            object.__setattr__(self, "name", self.path.stem)
        if not self.url and self.path is not None:
            object.__setattr__(self, "url", f"{self.kind}:///{self.path}")

    @property
    def file(self) -> Path:
        """The path of a database that lies in files."""
        assert self.path is not None, f"{self.kind} databases have no path"
        return self.path

    @property
    def place(self) -> str:
        """How a message names it."""
        return self.url if self.path is None else str(self.path)

    def redacted(self, message: str) -> str:
        """A driver's message without any secret of this database."""
        for key, value in self.settings.items():
            if isinstance(value, str) and len(value) > 2 and any(word in key.lower() for word in SECRET_WORDS):
                message = message.replace(value, HIDDEN)
        return message


SECRET_WORDS = ("password", "passcode", "token", "secret", "key")


@dataclass(frozen=True, slots=True)
class DataTable:
    """A table made of data files of one form: csv, parquet, json or excel (there `sheet` is one sheet of one file)."""

    name: str
    form: str
    paths: tuple[Path, ...]
    sheet: str = ""


class Kind(Protocol):
    """What a module of this package does for its kind of database."""

    def target(self, database: Database) -> tuple[dict[str, Any], State]:
        """What the child process is told (see `copilot.engines`), and the state that must stay the same meanwhile."""

    def state(self, database: Database) -> State:
        """That state now. Raises OSError where a file has gone."""

    def reading(self, database: Database) -> AbstractContextManager[Query]:
        """A connection that can only read, for the time of a `with`. Errors become those of `openarctic.errors`."""

    def tables(self, database: Database, query: Query, values: bool) -> Iterator[Table]:
        """The tables with columns, keys, comments, counts and, where `values`, samples of text values."""

    def namespace(self, database: Database, query: Query) -> str:
        """The schema that names without one belong to; "" where that is the usual one."""

    def fingerprint(self, database: Database) -> tuple[Any, ...]:
        """What changes when tables do; JSON can carry it."""
