"""Training pairs over databases that are known by description alone: table and column names, and the gold SQL over them.

BIRD's training set comes without rows here. Its keys are read off the join conditions of the gold SQL, its number columns off
what is summed or compared with numbers, and its text values off the literals; so the prompt gets the keys, values and hints that
it would get from the database itself.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.joins import shorten
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.errors import MissingError

MIN_KEY_USES = 2
# What the short SQL and its grammar do not have, or what only expert knowledge beside the question could tell.
_BEYOND = (exp.Case, exp.If, exp.Window, exp.CTE, exp.StrToTime, exp.TimeToStr, exp.Cast, exp.Anonymous)

Place = tuple[str, str]


def read_described(folder: Path, skip: frozenset[str] = frozenset()) -> tuple[dict[str, LinkedSchema], list[Pair]]:
    """Schemas by name, and the pairs whose question names every text value of its SQL. Names begin with `bird:`.

    `folder` holds `train.jsonl` (question, query, db_id) and `schema_descriptions.json` (database, table, column, text).
    `skip` names databases. Raises MissingError for an absent file.
    """
    for name in ("train.jsonl", "schema_descriptions.json"):
        if not (folder / name).exists():
            raise MissingError(f"no {name} in {folder}")
    described = json.loads((folder / "schema_descriptions.json").read_text(encoding="utf-8"))
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with (folder / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["db_id"] in described and record["db_id"] not in skip:
                records[record["db_id"]].append(record)
    linked: dict[str, LinkedSchema] = {}
    pairs: list[Pair] = []
    for name, own in sorted(records.items()):
        parsed = [(r, tree) for r in own if (tree := parse_or_none(r["query"])) is not None]
        schema = LinkedSchema(_schema(described[name], [tree for _, tree in parsed]))
        linked[f"bird:{name}"] = schema
        pairs += _pairs(f"bird:{name}", schema, parsed)
    return linked, pairs


def parse_or_none(sql: str) -> exp.Expr | None:
    """The tree of a statement in SQLite's dialect; None where it cannot be parsed."""
    try:
        return sqlglot.parse_one(sql.strip().rstrip(";"), read="sqlite")
    except SqlglotError:
        return None


def _pairs(name: str, linked: LinkedSchema, parsed: list[tuple[dict[str, Any], exp.Expr]]) -> Iterator[Pair]:
    for record, tree in parsed:
        question = record["question"].lower()
        texts = [literal.name.lower().strip("%") for literal in tree.find_all(exp.Literal) if literal.is_string]
        if tree.find(*_BEYOND) or not all(text in question for text in texts):
            continue
        try:
            short = shorten(record["query"].strip().rstrip(";"), linked.schema)
        except SqlglotError:
            continue
        yield linked.pair(name, record["question"], short)


def _schema(tables: Mapping[str, Mapping[str, str]], trees: list[exp.Expr]) -> Schema:
    columns = {table.lower(): {c.lower(): c for c in columns} for table, columns in tables.items()}
    seen = _Seen(columns)
    for tree in trees:
        for select in tree.find_all(exp.Select):
            seen.read(select)
    return Schema(
        dialect="sqlite",
        tables=tuple(
            Table(
                name=table.lower(),
                columns=tuple(seen.column(table.lower(), name) for name in names),
                foreign_keys=tuple(seen.keys(table.lower())),
            )
            for table, names in tables.items()
        ),
    )


class _Seen:
    """What gold SQL tells of columns: joins, numbers, text values."""

    def __init__(self, columns: Mapping[str, Mapping[str, str]]) -> None:
        self.columns = columns
        self.joins: Counter[tuple[Place, Place]] = Counter()
        self.numbers: set[Place] = set()
        self.values: dict[Place, set[str]] = defaultdict(set)

    def read(self, select: exp.Select) -> None:
        """One SELECT, without what is nested in it."""
        sources = {
            (t.alias or t.name).lower(): t.name.lower()
            for t in select.find_all(exp.Table)
            if t.find_ancestor(exp.Select) is select and t.name.lower() in self.columns
        }
        for node in select.find_all(exp.EQ, exp.GT, exp.LT, exp.GTE, exp.LTE, exp.Sum, exp.Avg):
            if node.find_ancestor(exp.Select) is not select:
                continue
            left = self._place(node.this, sources)
            right = node.args.get("expression")
            other = self._place(right, sources)
            if isinstance(node, exp.EQ) and left and other:
                self.joins[left, other] += 1
            elif left and isinstance(right, exp.Literal) and right.is_string:
                if isinstance(node, exp.EQ):
                    self.values[left].add(right.name)
            elif left and (right is None or isinstance(right, exp.Literal)):
                self.numbers.add(left)

    def _place(self, node: Any, sources: Mapping[str, str]) -> Place | None:
        if not isinstance(node, exp.Column):
            return None
        name = node.name.lower()
        named = [sources[node.table.lower()]] if node.table.lower() in sources else list(dict.fromkeys(sources.values()))
        holders = [t for t in named if name in self.columns[t]]
        return (holders[0], name) if len(holders) == 1 else None

    def column(self, table: str, name: str) -> Column:
        """With its values; INTEGER where it is used as a number and never compared with a text, else TEXT."""
        place = table, name.lower()
        values = tuple(sorted(self.values.get(place, ())))
        return Column(name=name, type="INTEGER" if place in self.numbers and not values else "TEXT", values=values)

    def keys(self, table: str) -> Iterator[ForeignKey]:
        """One key for every column of `table` that gold joins; the side that names the other table, or comes later, points."""
        best: dict[str, tuple[int, Place]] = {}
        for (a, b), count in self.joins.items():
            for mine, its in ((a, b), (b, a)):
                if mine[0] == table and its[0] != table and count >= MIN_KEY_USES and self._points(mine, its):
                    if mine[1] not in best or best[mine[1]][0] < count:
                        best[mine[1]] = (count, its)
        for column, (_, target) in best.items():
            yield ForeignKey(column=column, table=target[0], to_column=target[1])

    def _points(self, mine: Place, its: Place) -> bool:
        """Keys point at the table whose first column they are; where that tells nothing, at the smaller table."""

        def is_first(place: Place) -> bool:
            return next(iter(self.columns[place[0]])) == place[1]

        if is_first(mine) != is_first(its):
            return is_first(its)
        return (len(self.columns[mine[0]]), mine) > (len(self.columns[its[0]]), its)
