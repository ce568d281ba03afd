"""The latest answers by the ids that clients were given, so that a verdict can name one by its id alone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_ANSWERS = 1000


@dataclass(frozen=True, slots=True)
class Given:
    """What was asked and answered, and the name of the key that asked."""

    key: str
    question: str
    sql: str


class LatestAnswers:
    """As long as the process lives, and no more than `MAX_ANSWERS`."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, Given] = OrderedDict()

    def add(self, request_id: str, given: Given) -> None:
        """Remember one, and forget the oldest."""
        self._given[request_id] = given
        while len(self._given) > MAX_ANSWERS:
            self._given.popitem(last=False)

    def find(self, request_id: str, key: str) -> Given | None:
        """The answer of that id, if that key asked for it."""
        given = self._given.get(request_id)
        return given if given is not None and given.key == key else None
