"""What the words of a follow-up name: columns, tables and cell values, those of the earlier query first."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sqlglot import exp

from openarctic.copilot.conversation.query import Place, Query
from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.linking.words import name_stems, stem
from openarctic.copilot.schema import Column, Schema, Table

MAX_WORDS = 6
MAX_NEAR = 5
WORD = re.compile(r"[^\W_](?:[\w.&\-]*\w)?|'s", re.UNICODE)

# Words that say nothing by themselves: what is left of a follow-up when it is read may hold these only.
FILLER = frozenset(
    "a an the and or but of in on at to for from with by as is are was were be been being do does did has have had having that "
    "which who whom whose what where when how me us i we you please show give list find get tell see display let can could "
    "would will want like them they their theirs these those this it its he she his her him one ones there here all any some "
    "only just now also too well then so ok okay yes same instead again question result results rows row answer ask about "
    "more many much each every per made make into out up than among within during live lives living located based come comes "
    "coming belong belongs belonging work works working name named called whole entire s 's "
    "cost costs costing earn earns earning paid pay pays paying made placed bought ordered speak speaks speaking spoken use uses "
    "using used took taken take takes sold released published held written created weigh weighs happened happen took".split()
)
# Adjectives and the columns that they are about.
ADJECTIVES = {
    "old": ("age",), "young": ("age",), "expensive": ("price", "cost", "fee", "rate"), "cheap": ("price", "cost", "fee", "rate"),
    "tall": ("height",), "high": ("height", "elevation"), "heavy": ("weight",), "light": ("weight",),
    "long": ("length", "duration", "milliseconds"), "short": ("length", "duration", "milliseconds", "height"),
    "populous": ("population",), "populated": ("population",), "fast": ("speed", "time"), "slow": ("speed", "time"),
    "rich": ("income", "wealth", "salary"), "paid": ("salary", "wage", "income"), "earning": ("salary", "wage", "income"),
    "rated": ("rating", "stars", "score"), "large": ("area", "size", "population", "capacity"),
    "big": ("area", "size", "population", "capacity"), "small": ("area", "size", "population", "capacity"),
    "new": (), "recent": (), "late": (), "early": (), "costly": ("price", "cost"), "pricy": ("price", "cost"),
}  # fmt: skip
DATED = frozenset(("new", "recent", "late", "early"))
BIRTH = re.compile(r"birth", re.IGNORECASE)
_FLAGS = (("t", "f"), ("y", "n"), ("yes", "no"), ("true", "false"), ("1", "0"))
# Words that add nothing to the name of a column.
_GENERIC = re.compile(r"\s+(?:numbers?|values?|info|information|details|data)$", re.IGNORECASE)
_PLACES = re.compile(r"city|town|country|nation|state|region|province|county|continent|location|district|place", re.IGNORECASE)


class Mention(NamedTuple):
    """A value as it is stored, where it stands, and the part of the text that names it."""

    value: str
    places: list[Place]
    start: int
    end: int


@dataclass(frozen=True)
class Vocabulary:
    """The cell values of a schema by their lower-case form, and the names of its columns. Build once, use for many follow-ups.
    `near` finds values that are written in another way, where there is one for this schema."""

    schema: Schema
    near: ValueIndex | None = None

    @cached_property
    def _values(self) -> dict[str, list[tuple[Place, str]]]:
        found: dict[str, list[tuple[Place, str]]] = defaultdict(list)
        for table in self.schema.tables:
            for column in table.columns:
                for value in column.values:
                    key = " ".join(value.lower().split())
                    found[key].append((Place.of(table, column), value))
        return dict(found)

    @cached_property
    def _tables(self) -> dict[frozenset[str], Table]:
        found: dict[frozenset[str], Table] = {}
        for table in self.schema.tables:
            found.setdefault(frozenset(name_stems(table.name)), table)
        return found

    def value(self, span: str) -> list[tuple[Place, str]]:
        """Every column that holds the value, in any case, singular or plural."""
        low = " ".join(span.lower().split())
        found = self._values.get(low)
        if found is None and " " not in low and len(low) > 3:
            found = self._values.get(stem(low)) or self._values.get(low + "s")
        return found or []

    def mentions(self, text: str, query: Query) -> Iterator[Mention]:
        """The values that a text names, longest spans first, each with the places nearest to the query."""
        words = [(m.start(), m.end()) for m in WORD.finditer(text)]
        taken: set[int] = set()
        for length in range(min(MAX_WORDS, len(words)), 0, -1):
            for i in range(len(words) - length + 1):
                if not taken.isdisjoint(range(i, i + length)):
                    continue
                start, end = words[i][0], words[i + length - 1][1]
                span = text[start:end]
                if length == 1 and (span.lower() in FILLER or span.isdigit()):
                    continue
                places = nearest(self.value(span), query)
                if places:
                    taken.update(range(i, i + length))
                    yield Mention(places[0][1], [p for p, _ in places], start, end)
        spans = [words[i] for i in taken]
        yield from (m for m in self._near_mentions(text, query) if not any(m.start < e and s < m.end for s, e in spans))

    def _near_mentions(self, text: str, query: Query) -> Iterator[Mention]:
        """Values with typos, in short forms, or as adjectives (`French`)."""
        for link in self.near.links(text, MAX_NEAR) if self.near is not None else ():
            start = text.find(link.said)
            if start < 0 or all(word.lower() in FILLER for word in link.said.split()):
                continue
            places = nearest([(Place(*holder), link.value) for holder in link.holders or link.places], query)
            if places:
                yield Mention(link.value, [p for p, _ in places], start, start + len(link.said))

    def columns(self, span: str, query: Query) -> list[Place]:
        """The column that a phrase names (two for a name in two parts); empty where none is."""
        found = self._columns(span, query)
        shorter = _GENERIC.sub("", span)
        return found or (self._columns(shorter, query) if shorter.strip() and shorter != span else [])

    def _columns(self, span: str, query: Query) -> list[Place]:
        wanted = {stem(w) for w in re.findall(r"[a-z0-9]+", span.lower()) if w not in ("the", "their", "of", "s", "its")}
        if not wanted:
            return []
        for output in query.names:
            if output and name_stems(output) == wanted and not _is_column(output, query):
                return [Place("", output)]
        found: list[tuple[tuple[float, ...], Place]] = []
        shown = query.shown
        if wanted == {"name"} and shown is not None and len(whole := query.labels(shown)) == 2:
            return whole
        for table, distance in self._near(query):
            for i, column in enumerate(table.columns):
                fit = _fit(wanted, column, table)
                if fit is not None:
                    found.append(((fit, distance, table is not shown, i), Place.of(table, column)))
            if wanted == name_stems(table.name) and (distance > 0 or table is not shown):
                found += [((0.2, distance, 0, i), p) for i, p in enumerate(query.labels(table))]
        if not found:
            return []
        best = min(found)[0][:2]
        label = [place for score, place in found if score[:2] == best and score[0] == 0.2]
        return label if len(label) == 2 else [min(found)[1]]

    def adjective(self, word: str, query: Query) -> list[Place]:
        """The column that an adjective (or its comparative) is about."""
        base = root(word)
        if base in DATED:
            return self.dates(query)[:1]
        births = [p for p in self.dates(query) if BIRTH.search(p.column)] if base in ("old", "young") else []
        found = [place for noun in ADJECTIVES.get(base, ()) for place in self.columns(noun, query)[:1]]
        found.sort(key=lambda place: place.table not in (_shown_name(query), ""))
        return found[:1] or births[:1]

    def table(self, span: str) -> Table | None:
        """The table that a phrase names."""
        return self._tables.get(frozenset(stem(w) for w in re.findall(r"[a-z0-9]+", span.lower())))

    def dates(self, query: Query) -> list[Place]:
        """Columns of dates or years, the query's own and the nearest first; births last."""
        found = []
        for table, distance in self._near(query):
            for i, column in enumerate(table.columns):
                if column.is_date or column.is_year:
                    place = Place.of(table, column)
                    is_used = any(p == place and not part.find(exp.Null) for part, p in query.filters())
                    found.append(((not is_used, distance, bool(BIRTH.search(column.name)), i), place))
        return [place for _, place in sorted(found)]

    def flags(self, query: Query) -> Iterator[tuple[str, Place, str | bool | int, str | bool | int]]:
        """Columns that say yes or no of a row: the word for it, the column, and its two values."""
        for table in query.tables:
            for column in table.columns:
                values = _flag_values(column)
                word = " ".join(w for w in re.findall(r"[a-z0-9]+", column.name.lower()) if w not in ("is", "has", "was"))
                if values is not None and word:
                    yield word, Place.of(table, column), *values

    def places_shown(self, query: Query) -> list[Place]:
        """Columns that say where the rows that are asked for are, cities first."""
        table = query.shown
        if table is None:
            return []
        found = [c for c in table.columns if is_place(c.name)]
        found.sort(key=lambda c: not re.search(r"city|town|location", c.name, re.IGNORECASE))
        return [Place.of(table, c) for c in found]

    def _near(self, query: Query) -> list[tuple[Table, int]]:
        """Tables at most two joins away, the nearest first."""
        found = [(t, d) for name, d in query.near(2) if (t := self.schema.table(name)) is not None]
        return sorted(found, key=lambda item: item[1])


def _flag_values(column: Column) -> tuple[str | bool | int, str | bool | int] | None:
    """What it holds for yes and for no."""
    if "BOOL" in column.type.upper():
        return True, False
    if column.is_numeric:
        return (1, 0) if re.match(r"(is|has|was)_|(is|has)(?=[A-Z])", column.name) else None
    for yes, no in _FLAGS:
        held = {v.lower() for v in column.values}
        if held and held <= {yes, no}:
            spelt = {v.lower(): v for v in column.values}
            return spelt.get(yes, yes), spelt.get(no, no)
    return None


def nearest(places: list[tuple[Place, str]], query: Query) -> list[tuple[Place, str]]:
    """In the order of their nearness: columns that the query filters or shows, its tables, the tables around."""
    filtered = {place for _, place in query.filters()}
    shown = _shown_name(query)
    scored = []
    for place, value in places:
        distance = query.distance(place.table)
        if distance is not None:
            scored.append(((place not in filtered, distance, place.table != shown), (place, value)))
    return [item for _, item in sorted(scored, key=lambda s: s[0])]


def _shown_name(query: Query) -> str:
    return "" if query.shown is None else query.shown.name.lower()


def _is_column(name: str, query: Query) -> bool:
    return any(t.column(name) for t in query.tables)


def _fit(wanted: set[str], column: Column, table: Table) -> float | None:
    """How well a phrase names a column: 0 is to the letter; None is not at all."""
    own, whole = name_stems(column.name), name_stems(table.name)
    if wanted == own:
        return 0.0
    joined = re.sub(r"[^a-z0-9]", "", column.name.lower())
    if len(wanted) > 1 and len(joined) == sum(map(len, wanted)) and all(w in joined for w in wanted):
        return 0.05
    if wanted == own | whole or (wanted - own <= whole and wanted & own == own):
        return 0.1
    if wanted < own:
        # `date` names `order_date`; the key of another table is no name of its own.
        extra = own - wanted
        return None if extra <= {"id", "key", "code"} or (wanted == {"name"} and not extra <= whole) else 0.3 + 0.1 * len(extra)
    return None


def is_place(name: str) -> bool:
    """Whether a column says where something is."""
    return bool(_PLACES.search(name))


def root(word: str) -> str:
    """`older`, `oldest` -> `old`; `heaviest` -> `heavy`; `largest` -> `large`."""
    low = word.lower()
    for ending in ("est", "er"):
        if low.endswith(ending) and len(low) > len(ending) + 2:
            short = low[: -len(ending)]
            if short.endswith("i"):
                return short[:-1] + "y"
            if short[-1:] == short[-2:-1] and short[:-1] in ADJECTIVES:
                return short[:-1]
            return short if short in ADJECTIVES or short + "e" not in ADJECTIVES else short + "e"
    return low
