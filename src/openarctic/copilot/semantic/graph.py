"""How the rows of logical tables belong to one another, and how to join without counting a row twice.

A step goes from a table to another of which each row has at most one partner: many to one. Along such steps every row of the
first table stays one row, so sums over it stay right. The other way, one to many, multiplies rows (the "fan-out trap"): no path
takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openarctic.copilot.semantic.model import Relationship, SemanticModel
from openarctic.errors import UserError


@dataclass(frozen=True, slots=True)
class Step:
    """A join from table `here`, which may have many rows, to table `there`, of which each has one at most."""

    here: str
    there: str
    pairs: tuple[tuple[str, str], ...]  # (column here, column there)
    relationship: str
    is_inner: bool


class FanOutError(UserError):
    """There is no way without counting rows twice."""


class RelationshipGraph:
    """The steps between the tables of a model."""

    def __init__(self, model: SemanticModel) -> None:
        self._steps: dict[str, list[Step]] = {}
        names = {table.name.lower(): table.name for table in model.tables}
        for relationship in model.relationships:
            left, right = names.get(relationship.left_table.lower()), names.get(relationship.right_table.lower())
            if left and right and all(not pair.type for pair in relationship.relationship_columns):
                for step in _steps(relationship, left, right):
                    self._steps.setdefault(step.here, []).append(step)

    def reachable(self, table: str) -> set[str]:
        """The tables of which each row of `table` has at most one partner, with itself."""
        found, queue = {table}, deque([table])
        while queue:
            for step in self._steps.get(queue.popleft(), ()):
                if step.there not in found:
                    found.add(step.there)
                    queue.append(step.there)
        return found

    def home(self, tables: Iterable[str]) -> str:
        """The one of `tables` whose rows have at most one partner in each of the others. Raises FanOutError without one."""
        wanted = set(tables)
        homes = sorted(table for table in wanted if wanted <= self.reachable(table))
        if not homes:
            raise FanOutError(
                f"{' and '.join(sorted(wanted))} cannot be joined without counting rows twice",
                "no table of them is on the many side of all others; add a relationship, or measure each by itself",
            )
        return homes[0]

    def path(self, start: str, end: str, using: Sequence[str] = ()) -> tuple[Step, ...]:
        """The shortest way; `using` names the relationships to prefer where several are as short.

        Raises FanOutError where there is none, UserError where two are as short and nothing tells them apart.
        """
        ways = self._shortest(start, end)
        if not ways:
            raise FanOutError(
                f"there is no way from {start} to {end} that counts no row of {start} twice",
                f"a relationship must lead from {start} (many) to {end} (one)",
            )
        if len(ways) > 1 and using:
            preferred = {name.lower() for name in using}
            ways = [way for way in ways if any(step.relationship.lower() in preferred for step in way)] or ways
        if len(ways) > 1:
            told = " or ".join(" > ".join(step.relationship for step in way) for way in ways)
            raise UserError(f"{end} can be reached from {start} by {told}", "say which with using_relationships")
        return ways[0]

    def _shortest(self, start: str, end: str) -> list[tuple[Step, ...]]:
        level: list[tuple[Step, ...]] = [()]
        seen = {start}
        while level:
            found = [way for way in level if (way[-1].there if way else start) == end]
            if found:
                return found
            level = [
                (*way, step)
                for way in level
                for step in self._steps.get(way[-1].there if way else start, ())
                if step.there not in seen
            ]
            seen |= {way[-1].there for way in level}
        return []


def _steps(relationship: Relationship, left: str, right: str) -> Iterable[Step]:
    kind = relationship.relationship_type or "many_to_one"
    pairs = tuple((pair.left_column, pair.right_column) for pair in relationship.relationship_columns)
    is_inner = relationship.join_type == "inner"
    if kind in ("many_to_one", "one_to_one"):
        yield Step(left, right, pairs, relationship.name, is_inner)
    if kind in ("one_to_many", "one_to_one"):
        back = tuple((its, mine) for mine, its in pairs)
        yield Step(right, left, back, relationship.name, is_inner)
