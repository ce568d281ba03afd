"""The text of a follow-up while it is read: what has been understood of it, what is left, and the changes that follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import NamedTuple, TypeVar

from sqlglot import exp

from openarctic.copilot.conversation.mentions import FILLER, WORD, Vocabulary
from openarctic.copilot.conversation.query import Place, Query
from openarctic.copilot.linking.numbers import TENS, UNITS
from openarctic.copilot.linking.words import name_stems, stem
from openarctic.copilot.schema import Table

T = TypeVar("T")
MAX_NAME_WORDS = 4
DETERMINERS = r"(?:(?:the|their|its|his|her|each|every|a|an|of|them|those|these|all|number)\s+)*"
NUMBERS = {**UNITS, **{word: TENS[word] for word in ("twenty", "thirty", "forty", "fifty")}, "dozen": 12, "hundred": 100}
NUMBER = rf"(?:\d[\d,]*(?:\.\d+)?(?:[kKmM]|\s+(?:thousand|million|billion))?|{'|'.join(NUMBERS)})(?![\w.]*\w)"
YEAR = r"(?:1[5-9]|20)\d\d"
_REPLACING = re.compile(
    r"^\W*(?:(?:and|or|ok|okay|now|but|so|then)\W+)*(?:(?:what|how)\s+about|and\b|same\b|the same\b|or\b)|\binstead\b|"
    r"\bwhat (?:if|of)\b",
    re.I,
)
_OF_THEM = re.compile(
    r"\b(?:of|from|among|amongst) (?:them|those|these)\b|\b(?:only|just) (?:those|these|the ones?|ones)\b|\b(?:them|"
    r"those|these)\b",
    re.I,
)
_WIDENING = re.compile(r"\b(?:also|too|as well|plus|additionally)\b|\badd\b|\binclud(?:e|ing)\b", re.I)


class Stage(IntEnum):
    """The order in which changes are made, whatever the order in which they are said."""

    FILTER = 0
    GROUP = 1
    SHOW = 2
    AGGREGATE = 3
    COUNT = 4
    ORDER = 5
    LIMIT = 6


class Change(NamedTuple):
    """What to do with the query, and at which stage; it gives the words for it."""

    stage: Stage
    apply: Callable[[Query], str]


class Noun(NamedTuple):
    """A word of a follow-up and the table that it names, if it does; empty where the text ends."""

    word: str
    table: Table | None
    start: int
    end: int


@dataclass
class Said:
    """A follow-up over the earlier `query`."""

    text: str
    query: Query
    vocabulary: Vocabulary
    dialect: str
    earlier: Query | None = None  # the query before that
    changes: list[Change] = field(default_factory=list)
    explained: set[str] = field(default_factory=set)
    bounded: set[Place] = field(default_factory=set)  # columns to which this follow-up has set a bound

    def __post_init__(self) -> None:
        self._used = [False] * len(self.text)
        self.is_widening = bool(_WIDENING.search(self.text))
        self.is_of_them = bool(_OF_THEM.search(self.text))
        self.is_replacing = bool(_REPLACING.search(self.text)) and not self.is_of_them

    def change(self, stage: Stage, apply: Callable[[Query], str]) -> None:
        """Another change."""
        self.changes.append(Change(stage, apply))

    def take(self, pattern: str) -> re.Match[str] | None:
        """The first place where the pattern (any case) fits what has not been understood yet; it is then."""
        for match in re.finditer(pattern, self.text, re.IGNORECASE):
            if match.end() > match.start() and self.is_free(match.start(), match.end()):
                self.use(match.start(), match.end())
                return match
        return None

    def sees(self, pattern: str) -> re.Match[str] | None:
        """As `take`, but it stays to be understood."""
        found = (m for m in re.finditer(pattern, self.text, re.IGNORECASE) if self.is_free(m.start(), m.end()))
        return next(found, None)

    def take_other_table(self, pattern: str) -> Table | None:
        """As `take`, where the pattern's `noun` names a table that the query does not read."""
        match = self.sees(pattern)
        table = self.vocabulary.table(match["noun"]) if match else None
        if match is None or table is None or self.query.reads(table):
            return None
        self.use(match.start(), match.end())
        return table

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing of that part has been understood."""
        return not any(self._used[start:end])

    def use(self, start: int, end: int) -> None:
        """That part is understood."""
        self._used[start:end] = [True] * (end - start)

    def explain(self, names: Iterable[str]) -> None:
        """Words of these names need no other meaning."""
        for name in names:
            self.explained |= name_stems(name)

    def columns_after(self, position: int) -> list[Place]:
        """The column named right after that position (two for a name in two parts); its words are understood then."""
        skipped = re.compile(rf"\s*{DETERMINERS}", re.IGNORECASE).match(self.text, position)
        start = skipped.end() if skipped else position
        words = [m for m in WORD.finditer(self.text, start)][:MAX_NAME_WORDS]
        for count in range(len(words), 0, -1):
            first, last = words[0].start(), words[count - 1].end()
            if "," not in self.text[first:last] and (places := self._columns_between(first, last)):
                self.use(position, last)
                return places
        return []

    def noun_after(self, position: int, lead: str = "") -> Noun:
        """The word that follows the `lead` right after that position; whether it is understood already does not matter."""
        match = re.compile(rf"{lead}(\w+)", re.IGNORECASE).match(self.text, position)
        if match is None:
            return Noun("", None, position, position)
        return Noun(match[1], self.vocabulary.table(match[1]), *match.span(1))

    def list_after(self, position: int) -> list[Place]:
        """Columns named one after the other: `names, ages and the city`. Empty where what follows is none."""
        found: list[Place] = []
        for places in self.series(position, self.columns_after, r",\s*and|,|and|&|as well as|plus"):
            found += [p for p in places if p not in found]
        return found

    def series(self, position: int, read: Callable[[int], T | None], joint: str) -> Iterator[T]:
        """What `read` finds (and takes) from that position on, one after the other with a joint between."""
        while found := read(position):
            yield found
            match = re.compile(rf"\s*(?:{joint})\s+", re.IGNORECASE).match(self.text, self._used_until(position))
            if match is None:
                return
            position = match.end()

    def _used_until(self, position: int) -> int:
        """Where what is understood from that position on ends."""
        end = position
        while end < len(self.text) and (self._used[end] or not self.text[position : end + 1].strip()):
            end += 1
        return end

    def columns_before(self, position: int) -> list[Place]:
        """The column named right before that position, perhaps with `is`, `of` or the like between."""
        words = [m for m in WORD.finditer(self.text[:position])]
        while words and words[-1].group().lower() in ("is", "are", "of", "was", "were", "that", "which", "a", "the", "be"):
            words.pop()
        for count in range(min(MAX_NAME_WORDS, len(words)), 0, -1):
            first, last = words[-count].start(), words[-1].end()
            if words[-count].group().lower() not in FILLER and (places := self._columns_between(first, last)):
                self.use(first, last)
                return places
        return []

    def _columns_between(self, start: int, end: int) -> list[Place]:
        return self.vocabulary.columns(self.text[start:end], self.query) if self.is_free(start, end) else []

    def settle(self, query: Query) -> None:
        """On rows that were limited what follows is about those rows where the follow-up says so, else about all."""
        if self.is_of_them:
            query.settle()

    def keep(self, query: Query, place: Place, condition: Callable[[exp.Column], exp.Expr]) -> None:
        """One more condition on rows."""
        self.settle(query)
        if not place.table:
            query.nest()
        query.keep(place, condition)

    def left(self) -> list[str]:
        """The words that nothing explains."""
        words = [m.group() for m in WORD.finditer(self.text) if self.is_free(m.start(), m.end())]
        return [w for w in words if w.lower() not in FILLER and stem(w.lower()) not in self.explained]

    def left_text(self) -> str:
        """What is left, as it was typed, with its fillers taken off both ends."""
        spans = [m for m in WORD.finditer(self.text) if self.is_free(m.start(), m.end())]
        spans = [m for m in spans if m.group().lower() not in FILLER]
        return self.text[spans[0].start() : spans[-1].end()] if spans else ""


def number_of(text: str) -> float | int:
    """`12`, `1,200`, `5k`, `three`."""
    low = text.lower().replace(",", "")
    if low in NUMBERS:
        return NUMBERS[low]
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", low)
    assert match is not None, text
    factor = {"": 1, "k": 10**3, "m": 10**6, "thousand": 10**3, "million": 10**6, "billion": 10**9}[match[2]]
    value = Fraction(match[1]) * factor  # exact, also where a float is not: keys of 17 digits, 1.001 million
    return int(value) if value.denominator == 1 else float(match[1]) * factor
