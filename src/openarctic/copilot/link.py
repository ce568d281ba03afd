"""Lexical linking: which cell values of the database does a question speak of?

Longest spans win; a span links only to values that are equal without regard to case (or to a simple plural). The result
goes into the prompt as hints, into the grammar as string literals, and into the confidence of an answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from openarctic.copilot.schema import Schema

MAX_SPAN_WORDS = 6
MAX_VALUES = 3
WORD = re.compile(r"[^\W_][\w.&\-]*|_|'s", re.UNICODE)

# Words that are often cell values but mean something else in a question.
STOP_WORDS = frozenset(
    "the a an of in on at to is are was were be and or not by for with from that which who what where when how many "
    "much all each any every their there than more less most least name names id number list show find give return "
    "me do does did have has it its as no yes male female other type date year day time code city country state first "
    "last one two three".split()
)


@dataclass(frozen=True, slots=True)
class ValueLink:
    """A value as it is stored, and up to two (table, column) places that hold it."""

    value: str
    places: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ValueIndex:
    """Every sampled text value of a schema, by its lower-case form. Build once, ask often."""

    schema: Schema

    @cached_property
    def _places(self) -> dict[str, list[tuple[str, str, str]]]:
        places: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for table in self.schema.tables:
            for column in table.columns:
                for value in column.values:
                    places[value.strip().lower()].append((table.name.lower(), column.name.lower(), value))
        return dict(places)

    def links(self, question: str, limit: int = MAX_VALUES) -> tuple[ValueLink, ...]:
        """At most `limit` values named in `question`, in its order; longer spans are preferred."""
        if not self._places:
            return ()
        words = [(m.start(), m.end()) for m in WORD.finditer(question)]
        taken: set[int] = set()
        found: list[tuple[int, list[tuple[str, str, str]]]] = []
        for length in range(MAX_SPAN_WORDS, 0, -1):
            for i in range(len(words) - length + 1):
                if any(k in taken for k in range(i, i + length)):
                    continue
                span = question[words[i][0] : words[i + length - 1][1]].rstrip(".")
                places = self._lookup(span, length)
                if places:
                    taken.update(range(i, i + length))
                    found.append((i, places))
        found.sort(key=lambda item: item[0])
        return tuple(_value_link(places) for _, places in found[:limit])

    def _lookup(self, span: str, length: int) -> list[tuple[str, str, str]]:
        low = span.lower()
        is_code = span.isupper() and span != "A"  # which begins sentences
        if length == 1 and not is_code and (low in STOP_WORDS or len(span) <= 2):
            return []
        places = self._places.get(low, [])
        if len(span) <= 3:  # short codes must match to the letter: "IT" is a department, "it" is not
            places = [p for p in places if p[2] == span]
        return places


def _value_link(places: list[tuple[str, str, str]]) -> ValueLink:
    distinct = list(dict.fromkeys((table, column) for table, column, _ in places))
    return ValueLink(value=places[0][2], places=tuple(distinct[:2]))
