"""How tables hang together: the foreign keys as a graph, and the tables that are needed to join others."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from openarctic.copilot.schema import Schema

MAX_BETWEEN = 2  # tables on the way from one chosen table to another


class JoinGraph:
    """Tables by their number in the schema, joined where a key leads from one to the other.

    Where no key is declared, a column that has the name of the only key column of exactly one other table is taken for one.
    """

    def __init__(self, schema: Schema) -> None:
        numbers = {table.name.lower(): number for number, table in enumerate(schema.tables)}
        pairs: set[tuple[int, int]] = set()
        for number, table in enumerate(schema.tables):
            targets = [numbers[key.table.lower()] for key in table.foreign_keys if key.table.lower() in numbers]
            pairs.update((number, target) for target in targets)
        pairs.update(_unsaid(schema))
        both = sorted({(a, b) for a, b in pairs if a != b} | {(b, a) for a, b in pairs if a != b})
        self.edges: npt.NDArray[np.int64] = np.array(both, dtype=np.int64).reshape(-1, 2)
        self._neighbours: dict[int, list[int]] = defaultdict(list)
        for a, b in both:
            self._neighbours[a].append(b)

    def between(self, present: Iterable[int], new: int) -> list[int]:
        """The tables on the shortest way from any of `present` to `new`, without both ends; none where there is no short way."""
        queue: deque[tuple[int, list[int]]] = deque((table, []) for table in present)
        seen = {table for table, _ in queue}
        while queue:
            table, path = queue.popleft()
            for other in self._neighbours.get(table, ()):
                if other == new:
                    return path
                if other not in seen and len(path) < MAX_BETWEEN:
                    seen.add(other)
                    queue.append((other, [*path, other]))
        return []

    def spread(self, scores: npt.NDArray[np.float32], decay: float, steps: int) -> npt.NDArray[np.float32]:
        """Scores [tables, words]: for each word, the most that the table or one at `steps` joins at most has, less with each."""
        for _ in range(steps if len(self.edges) else 0):
            wider = scores.copy()
            np.maximum.at(wider, self.edges[:, 0], decay * scores[self.edges[:, 1]])
            scores = wider
        return scores


def _unsaid(schema: Schema) -> Iterable[tuple[int, int]]:
    """Joins by equal names of columns, of tables that declare no key."""
    owners: dict[str, list[int]] = defaultdict(list)
    for number, table in enumerate(schema.tables):
        if len(table.primary_key) == 1 and table.primary_key[0].lower() not in ("id", "name", "code"):
            owners[table.primary_key[0].lower()].append(number)
    for number, table in enumerate(schema.tables):
        if not table.foreign_keys:
            for column in table.column_names:
                if len(own := owners.get(column, [])) == 1 and own[0] != number:
                    yield number, own[0]
