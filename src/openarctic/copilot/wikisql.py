"""Training pairs of WikiSQL: questions over one table each, of which only column names are known.

Its tables have neither names nor rows here. A table is called after its first column, its text values are the literals of its
queries, and some tables together make a database, so that finding the right one is part of the task. Queries that count or
sum are left out: WikiSQL writes COUNT and SUM of a column for questions that other data sets answer with COUNT(*).
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlglot import exp

from openarctic.copilot.described import parse_or_none
from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.joins import RESERVED, identifier
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.synthesis import plural
from openarctic.errors import MissingError

TABLES_PER_DATABASE = 6
MIN_COLUMNS = 3
MAX_NAME = 30
# What the question must say for an aggregate to be meant.
_SAID = {
    exp.Max: re.compile(r"\b(most|max\w*|highest|largest|latest|greatest|biggest|longest|top)\b", re.IGNORECASE),
    exp.Min: re.compile(r"\b(least|min\w*|lowest|smallest|earliest|fewest|shortest)\b", re.IGNORECASE),
    exp.Avg: re.compile(r"\b(average|mean)\b", re.IGNORECASE),
}

Record = dict[str, Any]


def read_wikisql(path: Path, count: int, seed: int) -> tuple[dict[str, LinkedSchema], list[Pair]]:
    """Schemas by name (`wikisql:N`), and about `count` pairs over them; the same ones for the same seed.

    `path` is `train.jsonl.gz`: table_id, question, query and known_columns a line. Raises MissingError where it is absent.
    """
    if not path.exists():
        raise MissingError(f"no {path}")
    by_table: dict[str, list[Record]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            by_table[record["table_id"]].append(record)
    rng = random.Random(seed)
    names = sorted(name for name, own in by_table.items() if len(own) > 1)
    rng.shuffle(names)
    linked: dict[str, LinkedSchema] = {}
    pairs: list[Pair] = []
    waiting: dict[str, tuple[Table, list[tuple[str, str]]]] = {}
    for name in names:
        if len(pairs) >= count:
            break
        made = _table(by_table[name])
        if made is None or made[0].name in waiting:
            continue
        waiting[made[0].name] = made
        if len(waiting) == TABLES_PER_DATABASE:
            database = f"wikisql:{len(linked)}"
            schema = LinkedSchema(Schema(dialect="sqlite", tables=tuple(table for table, _ in waiting.values())))
            linked[database] = schema
            asked = [pair for _, own in waiting.values() for pair in own]
            pairs += [schema.pair(database, question, sql) for question, sql in asked]
            waiting = {}
    return linked, pairs


def _table(records: Sequence[Record]) -> tuple[Table, list[tuple[str, str]]] | None:
    """The table and its (question, short SQL) pairs; None where there is too little of it."""
    columns: dict[str, str] = {}  # as WikiSQL calls them -> ours
    parsed = [(record, tree) for record in records if (tree := parse_or_none(record["query"])) is not None]
    for record, tree in parsed:
        known = [*record["known_columns"], *(column.name for column in tree.find_all(exp.Column))]
        columns |= {name: _plain(name) for name in known}
    names = list(dict.fromkeys(columns.values()))
    if len(names) < max(MIN_COLUMNS, len(columns)) or not all(0 < len(n) <= MAX_NAME and n[0].isalpha() for n in names):
        return None
    table = plural(names[0])
    pairs: list[tuple[str, str]] = []
    values: dict[str, set[str]] = defaultdict(set)
    numbers: set[str] = set()
    for record, tree in parsed:
        if _is_clear(tree, record["question"]):
            pairs.append((record["question"], _renamed(tree, table, columns).sql(dialect="sqlite")))
            _learn(tree, values, numbers)
    if not pairs or table in RESERVED or table in names:
        return None
    described = tuple(
        Column(
            name=name,
            type="INTEGER" if name in numbers and name not in values else "TEXT",
            values=tuple(sorted(values.get(name, ()))),
        )
        for name in names
    )
    return Table(name=table, columns=described), pairs


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def _is_clear(tree: exp.Expr, question: str) -> bool:
    """Whether the question names every text of the query, and says so where a largest, smallest or mean is meant."""
    if tree.find(exp.Count, exp.Sum):
        return False
    texts = [literal.name.lower() for literal in tree.find_all(exp.Literal) if literal.is_string]
    named = all(text in question.lower() for text in texts)
    return named and all(pattern.search(question) or not tree.find(kind) for kind, pattern in _SAID.items())


def _renamed(tree: exp.Expr, table: str, columns: dict[str, str]) -> exp.Expr:
    for node in tree.find_all(exp.Table):
        node.set("this", identifier(table))
    for column in tree.find_all(exp.Column):
        column.set("this", identifier(columns.get(column.name, _plain(column.name))))
    return tree


def _learn(tree: exp.Expr, values: dict[str, set[str]], numbers: set[str]) -> None:
    for column, literal in _comparisons(tree):
        if literal.is_string:
            values[column].add(literal.name)
        else:
            numbers.add(column)
    numbers.update(node.this.name for node in tree.find_all(*_SAID) if isinstance(node.this, exp.Column))


def _comparisons(tree: exp.Expr) -> Iterator[tuple[str, exp.Literal]]:
    for node in tree.find_all(exp.EQ, exp.GT, exp.LT, exp.GTE, exp.LTE):
        if isinstance(node.this, exp.Column) and isinstance(node.expression, exp.Literal):
            yield node.this.name, node.expression
