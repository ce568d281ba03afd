"""How the tables of a schema are joined: the steps along foreign keys, or columns of one name where no key is declared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from openarctic.copilot.schema import ForeignKey, Schema, Table

MAX_STEPS = 4


class Step(NamedTuple):
    """From `table.column` to `other.to_column`; `is_to_one`: at most one row is there."""

    table: str
    column: str
    other: str
    to_column: str
    is_to_one: bool


class Keys:
    """The steps from table to table of a schema. Build once, use for many queries."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._steps: dict[str, list[Step]] = {}
        self._into: dict[str, list[tuple[Table, ForeignKey]]] = defaultdict(list)
        self._named: dict[str, list[Table]] = defaultdict(list)
        self._owners: dict[str, list[Table]] = defaultdict(list)
        for table in schema.tables:
            for key in table.foreign_keys:
                self._into[key.table.lower()].append((table, key))
            for name in table.column_names:
                if name.endswith(("id", "code")) and name != "id":
                    self._named[name].append(table)
                    if table.columns[0].name.lower() == name:
                        self._owners[name].append(table)

    def steps(self, name: str) -> list[Step]:
        """Keys out of a table (to one row) and into it (to many), then columns of the same name that name another table's row."""
        if name not in self._steps:
            self._steps[name] = list(self._found(name))
        return self._steps[name]

    def _found(self, name: str) -> Iterator[Step]:
        table = self.schema.table(name)
        if table is None:
            return
        known = {name}
        for key in table.foreign_keys:
            known.add(key.table.lower())
            yield Step(name, key.column.lower(), key.table.lower(), key.to_column.lower(), True)
        for other, key in self._into[name]:
            if other.name.lower() != name:
                known.add(other.name.lower())
                mine = (key.to_column or (table.primary_key or ("",))[0]).lower()
                yield Step(name, mine, other.name.lower(), key.column.lower(), other.primary_key == (key.column,))
        for shared in sorted(table.column_names & self._named.keys()):
            # A table's own id stands first in it; two that only point at the same third one are not joined.
            is_own = table.columns[0].name.lower() == shared
            for other in self._named[shared] if is_own else self._owners[shared]:
                if other.name.lower() not in known:
                    known.add(other.name.lower())
                    yield Step(name, shared, other.name.lower(), shared, other.columns[0].name.lower() == shared)

    def ways(self, tables: Sequence[str]) -> dict[str, list[Step]]:
        """The best way from any of these tables to each that is at most `MAX_STEPS` away: the shortest, of equal ones that which
        leads to one row."""
        found: dict[str, list[Step]] = {}
        edge: dict[str, list[Step]] = {name: [] for name in tables}
        seen = set(tables)
        for _ in range(MAX_STEPS):
            reached: dict[str, list[Step]] = {}
            for name, path in edge.items():
                for step in self.steps(name):
                    way = [*path, step]
                    before = reached.get(step.other)
                    if step.other not in seen and (before is None or _to_many(way) < _to_many(before)):
                        reached[step.other] = way
            seen |= reached.keys()
            found |= reached
            edge = reached
        return found


def _to_many(path: Sequence[Step]) -> int:
    return sum(not step.is_to_one for step in path)
