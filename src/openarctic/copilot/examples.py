"""Training pairs for the bundled model, made with the very prompt and short SQL that `ask` uses.

Sources are Spider-form JSONL files (`question`, `query`, `db_id`) over SQLite files, and pairs that `synthesis` makes
from the schemas and values of the same databases.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlglot.errors import SqlglotError

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.joins import shorten
from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.prompt import question_text, schema_text
from openarctic.copilot.schema import Schema
from openarctic.errors import MissingError


@dataclass(frozen=True, slots=True)
class Pair:
    """One training example: a question, the same as the model reads it (`prompt`), and the short SQL it should write."""

    database: str
    question: str
    prompt: str
    sql: str


class Databases:
    """The SQLite databases of a Spider-form folder (`DIR/<db_id>/<db_id>.sqlite`), read on demand."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingError(f"no database folder at {folder}")
        self.folder = folder
        self._known: dict[str, LinkedSchema | None] = {}

    def path(self, name: str) -> Path:
        """Of a database's file, if it is there."""
        return self.folder / name / f"{name}.sqlite"

    def get(self, name: str) -> LinkedSchema | None:
        """The schema of that database, or None when its file is absent."""
        if name not in self._known:
            path = self.path(name)
            self._known[name] = LinkedSchema(read_schema(open_database(path))) if path.exists() else None
        return self._known[name]


@dataclass(frozen=True)
class LinkedSchema:
    """A schema with its value index."""

    schema: Schema

    @cached_property
    def values(self) -> ValueIndex:
        """Built at the first question. Of values to the letter alone: the bundled model is trained with these."""
        return ValueIndex(self.schema, near=False)

    def prompt(self, question: str) -> str:
        """The question as the model reads it."""
        return question_text(question, self.values.links(question))

    def pair(self, database: str, question: str, short_sql: str) -> Pair:
        """A training example over this schema, which `database` names."""
        return Pair(database, " ".join(question.split()), self.prompt(question), short_sql)

    def text(self, shuffle: random.Random | None = None) -> str:
        """The schema as the model reads it."""
        return schema_text(self.schema, shuffle)


def read_pairs(
    path: Path, databases: Databases, *, skip: Iterable[str] = (), only: Iterable[str] | None = None
) -> Iterator[Pair]:
    """Pairs of a JSONL file whose database is there and whose SQL has a short form; `skip` and `only` name databases."""
    skipped, wanted = frozenset(skip), None if only is None else frozenset(only)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            name = record["db_id"]
            is_wanted = name not in skipped and (wanted is None or name in wanted)
            linked = databases.get(name) if is_wanted else None
            if linked is None:
                continue
            try:
                short = shorten(single_quoted(record["query"]), linked.schema)
            except SqlglotError:
                continue
            question = record.get("question") or record["SpiderSynQuestion"]
            yield linked.pair(name, question, short)


def single_quoted(sql: str) -> str:
    """Spider writes strings in double quotes, which SQL reads as names."""
    return re.sub(r'"([^"]*)"', lambda m: "'" + m.group(1).replace("'", "''") + "'", sql.strip().rstrip(";").strip())
