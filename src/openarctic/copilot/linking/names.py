"""Tables and columns by the words of their names, comments and synonyms.

A word of a question finds a name by its stem ("cities", "City"), by a part of a name written in one (`countrycode`), in full
where the name is short (`dept`, `qty`, `emp`), in two where the name is one word ("birth date", `birthdate`), by another word for
it ("nation", `country`), and with a typo.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from openarctic.copilot.linking.words import (
    FUNCTION_WORDS,
    content_stems,
    edits,
    folded,
    phrase_of,
    stem,
    synonyms_of_word,
    typo_limit,
    words_of,
)
from openarctic.copilot.schema import Schema, Table

TABLE, COLUMN, COMMENT = 1.0, 0.4, 0.2  # what a word in each is worth
ALIKE = 0.6  # what a word is worth that is there in another form
MIN_PART = 3  # letters of a part of a compound, or of a word cut short
LONG = 6  # letters of a word that another one may begin with

Synonym = tuple[str, str, str]  # what people say, the table, the column or nothing


class Mention(NamedTuple):
    """A word in the names of table number `table`, in that of its column number `column` (-1: its own), and what it is worth."""

    table: int
    column: int
    weight: float


@dataclass(frozen=True, slots=True)
class Named:
    """A word of a question, by its stem, and where it is mentioned."""

    stem: str
    mentions: tuple[Mention, ...]


class NameIndex:
    """The words of a schema's names. Build once, ask often."""

    def __init__(self, schema: Schema, synonyms: Iterable[Synonym] = ()) -> None:
        self.schema = schema
        self._mentions: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
        for number, table in enumerate(schema.tables):
            self._add_table(number, table)
        self._add_compounds()
        numbers = {table.name.lower(): number for number, table in enumerate(schema.tables)}
        for term, name, column in synonyms:
            number = numbers.get(name.lower(), -1)
            if number >= 0:
                self._add_synonym(term, number, column)
        self._known = {
            word: tuple(Mention(*place, weight) for place, weight in own.items()) for word, own in self._mentions.items()
        }

    def _add_table(self, number: int, table: Table) -> None:
        self._add(_stems(table.name), number, -1, TABLE)
        self._add(_comment_stems(table.comment), number, -1, COMMENT)
        for place, column in enumerate(table.columns):
            self._add(_stems(column.name), number, place, COLUMN)
            self._add(_comment_stems(column.comment), number, place, COMMENT)

    def _add_synonym(self, term: str, number: int, column: str) -> None:
        columns = self.schema.tables[number].columns
        place = next((i for i, c in enumerate(columns) if column and c.name.lower() == column.lower()), -1)
        if not column or place >= 0:
            self._add(_stems(term), number, place, COLUMN if column else TABLE)

    def _add(self, stems: Sequence[str], table: int, column: int, weight: float) -> None:
        """Each word of a name is a part of it: one of two is worth less than the only one."""
        share = weight / len(stems) ** 0.5 if stems else 0.0
        for word in stems:
            own = self._mentions[word]
            own[table, column] = max(share, own.get((table, column), 0.0))

    def _add_compounds(self) -> None:
        """`countrycode` is mentioned by "country" and by "code", if both are words of other names."""
        known = set(self._mentions)
        for word in sorted(known):
            for part in _parts(word, known):
                own = self._mentions[part]
                for place, weight in self._mentions[word].items():
                    own[place] = max(weight * ALIKE, own.get(place, 0.0))

    @cached_property
    def _by_letter(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for word in sorted(self._known):
            found[word[:1]].append(word)
        return found

    @cached_property
    def _table_words(self) -> list[frozenset[str]]:
        return [frozenset(_stems(table.name)) for table in self.schema.tables]

    def whole(self, named: Sequence[Named]) -> list[int]:
        """The tables of whose names a question has every word."""
        said = {item.stem for item in named}
        return [number for number, words in enumerate(self._table_words) if words and words <= said]

    def find(self, question: str) -> list[Named]:
        """The words of the question that names have, in its order, each once."""
        stems = list(dict.fromkeys(content_stems(question)))
        found = {word: mentions for word in stems if (mentions := self._mentioned(word))}
        for first, second in itertools.pairwise(stems):
            joined = (*self._known.get(first + second, ()), *self._under(self._longer(first + second)))
            for word in (first, second) if joined else ():
                found[word] = (*found.get(word, ()), *joined)
        return [Named(word, found[word]) for word in stems if word in found]

    def _mentioned(self, word: str) -> tuple[Mention, ...]:
        """Under the word itself; and, for less, under words that begin with it, or under those that it may stand for."""
        known = self._known.get(word, ())
        others = (*self._longer(word), *self._shorter(word, LONG - 1)) if known else self._alike(word)
        said_for_it = (other for other in synonyms_of_word(word) if other in self._known)
        return (*known, *self._under(dict.fromkeys((*others, *said_for_it))))

    def _under(self, words: Iterable[str]) -> Iterator[Mention]:
        return (Mention(m.table, m.column, m.weight * ALIKE) for word in words for m in self._known[word])

    def _longer(self, word: str) -> list[str]:
        """Words of names that begin with it, or that are spelt in another way: "enrollment" and `enrolment`."""
        if len(word) < LONG:
            return []
        likely = self._by_letter[word[0]]
        return [o for o in likely if o != word and (o.startswith(word) or (len(o) >= LONG and edits(word, o, 1) <= 1))]

    def _shorter(self, word: str, least: int) -> list[str]:
        """Words of names that it begins with, where it goes on for three letters or more: "employee" and `emp`."""
        return [word[:length] for length in range(least, len(word) - 2) if word[:length] in self._known]

    def _alike(self, word: str) -> Iterator[str]:
        """Words of names that an unknown word may stand for."""
        yield from self._longer(word)
        full = [stem(part) for part in phrase_of(word).split()]
        likely = [
            o for o in (*full, *_parts(word, self._known), *self._shorter(word, MIN_PART)) if o in self._known and o != word
        ]
        if likely:
            yield from dict.fromkeys(likely)
        elif limit := min(typo_limit(word), 1):
            yield from (other for other in self._by_letter[word[0]] if len(other) > 3 and edits(word, other, limit) <= limit)


def _stems(name: str) -> tuple[str, ...]:
    """The words of a name, as they are and in full."""
    plain = [stem(folded(word)) for word in words_of(name)]
    full = [stem(folded(word)) for word in phrase_of(name).split()]
    return tuple(dict.fromkeys((*full, *plain)) if len(full) == len(plain) == 1 else dict.fromkeys(full or plain))


def _comment_stems(comment: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(content_stems(comment[:400]))) if comment else ()


def _parts(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """A compound's two parts, if both are known: the cut that leaves the longest first part."""
    for cut in range(len(word) - MIN_PART, MIN_PART - 1, -1):
        first, second = word[:cut], stem(word[cut:])
        if first in known and second in known and second not in FUNCTION_WORDS:
            return first, second
    return ()


@lru_cache(maxsize=100_000)
def is_label(column: str) -> bool:
    """Whether a column of that name says what its rows are called: asked for by the name of the table alone."""
    return bool({"name", "title"}.intersection(_stems(column)))
