"""Which cell values of the database does a question speak of?

First come spans of the question that are a value in all but case, the longest first. What is left is compared in looser ways:
quoted texts, plurals, accents and punctuation (PLAIN), typos, initials ("NY"), short forms of months, days and states, adjectives
of places. The result goes into the prompt as hints, into the mending of what the model writes, and into the confidence of an
answer.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.copilot.linking.store import INITIALS, LOWER, PLAIN, open_store
from openarctic.copilot.linking.words import (
    FUNCTION_WORDS,
    QUOTED,
    SHORT_FORMS,
    STOP_WORDS,
    Token,
    edits,
    folded,
    grams,
    initials_of,
    name_stems,
    places_of,
    plain_key,
    stem,
    tokens_of,
    typo_limit,
    value_words,
    words_of,
)
from openarctic.copilot.schema import Schema

MAX_SPAN_WORDS = 6
MAX_VALUES = 3
MAX_PLACES = 2
MAX_HOLDERS = 50  # columns that are looked at for one value
MAX_QUOTED_CHARS = 60
CORRECTIONS = 3  # of one word
CANDIDATES = 40  # words whose distance is measured for one correction
SURE_WORD = 7  # letters of a lower-case word that may alone be a value with a typo


@dataclass(frozen=True, slots=True)
class ValueLink:
    """A value as it is stored, and up to two (table, column) places that hold it, in lower case.

    `said` is what the question has in its place; `holders` are all the places that were found, of which `places` are chosen.
    """

    value: str
    places: tuple[tuple[str, str], ...]
    said: str = ""
    holders: tuple[tuple[str, str], ...] = field(default=(), repr=False)


_Row = tuple[str, str, str]  # table, column, value as it is stored


@dataclass(frozen=True, slots=True)
class _Span:
    """Words `first` to `last` (included) of a question."""

    first: int
    last: int
    text: str
    is_quoted: bool = False

    @property
    def words(self) -> range:
        return range(self.first, self.last + 1)

    def __len__(self) -> int:
        return self.last - self.first + 1


_Found = tuple[_Span, list[_Row]]  # words of the question, and the stored values that they are


class ValueIndex:
    """The sampled text values of a schema. Build once, ask often, from any thread.

    `near` finds values also where the question writes them in another way. With a `folder`, a large index is kept there under
    the `name` of the database.
    """

    def __init__(self, schema: Schema, *, near: bool = True, folder: Path | None = None, name: str = "") -> None:
        self.schema, self.near = schema, near
        self._folder, self._name = folder, name
        self._lock = threading.Lock()

    @cached_property
    def _store(self) -> sqlite3.Connection | None:
        if not any(column.values for table in self.schema.tables for column in table.columns):
            return None
        return open_store(self.schema, self._folder, self._name)

    @cached_property
    def _name_words(self) -> frozenset[str]:
        """The stems of all words in names: a question that has them speaks of tables and columns."""
        names = {t.name for t in self.schema.tables} | {c.name for t in self.schema.tables for c in t.columns}
        return frozenset(itertools.chain.from_iterable(name_stems(n) | set(map(stem, words_of(n))) for n in names))

    @cached_property
    def _word_count(self) -> int:
        return int(self._query("SELECT count(*) FROM word")[0][0])

    def links(self, question: str, limit: int = MAX_VALUES) -> tuple[ValueLink, ...]:
        """At most `limit` values named in `question`, in its order; longer spans are preferred, and what is written alike."""
        with self._lock:
            if self._store is None:
                return ()
            tokens = tokens_of(question)
            exact = _disjoint(self._exact(question, tokens))
            near = self._near(question, tokens, exact) if self.near else []
        wider = [found for found in near if any(_is_inside(span, found[0]) for span, _ in exact)]
        kept = [found for found in exact if not any(_is_inside(found[0], span) for span, _ in wider)]
        chosen = _in_order([*kept, *wider])[:limit]
        chosen += [found for found in _in_order(near) if found not in wider][: limit - len(chosen)]
        return tuple(_link(span, rows) for span, rows in _in_order(chosen))

    def _exact(self, question: str, tokens: Sequence[Token]) -> list[_Found]:
        """Spans that are values in all but case, longest first. Short codes must match to the letter: "IT" is a department."""
        spans = [s for s in _spans(question, tokens) if not _is_common(s)]
        rows = self._rows(LOWER, {s.text.lower() for s in spans})
        found = []
        for span in spans:
            own = rows.get(span.text.lower(), [])
            if len(span.text) <= 3:
                own = [row for row in own if row[2] == span.text]
            if own:
                found.append((span, own))
        return found

    def _near(self, question: str, tokens: Sequence[Token], exact: Sequence[_Found]) -> list[_Found]:
        """Spans that are values in a looser sense: outside the exact ones, or around them."""
        taken = {i for span, _ in exact for i in span.words}
        spans = [s for s in (*_quoted(question, tokens), *_spans(question, tokens)) if self._is_free(s, exact, taken)]
        found = self._quoted_values([s for s in spans if s.is_quoted])
        found += self._looked_up([(s, plain_key(s.text), PLAIN) for s in spans if self._may_vary(s, tokens)])
        found += self._adjectives(spans)
        found += self._mistyped(spans, tokens)
        found += self._shortened(spans, tokens)
        return _disjoint(sorted(found, key=lambda item: (not item[0].is_quoted, -len(item[0]))))

    @staticmethod
    def _is_free(span: _Span, exact: Sequence[_Found], taken: set[int]) -> bool:
        """Nothing of it is taken, or it holds more than all that is."""
        if taken.isdisjoint(span.words):
            return True
        touched = [other for other, _ in exact if not set(other.words).isdisjoint(span.words)]
        return all(_is_inside(other, span) for other in touched)

    def _quoted_values(self, spans: Sequence[_Span]) -> list[_Found]:
        """Quotes make a value of anything: 't', "yes". One to the letter wins, and up to three letters only that does."""
        rows = self._rows(LOWER, {s.text.strip().lower() for s in spans})
        found = []
        for span in spans:
            own = rows.get(span.text.strip().lower(), [])
            same = [row for row in own if row[2].strip() == span.text.strip()]
            if same or (own and len(span.text.strip()) > 3):
                found.append((span, same or own))
        return found

    def _may_vary(self, span: _Span, tokens: Sequence[Token]) -> bool:
        """Whether it has a word that is neither part of a name nor common: the others are seldom values in another form."""
        return (span.is_quoted and len(span.text) > 3) or any(self._is_telling(folded(tokens[i].text)) for i in span.words)

    def _is_telling(self, word: str) -> bool:
        return len(word) > 3 and word not in FUNCTION_WORDS and word not in STOP_WORDS and stem(word) not in self._name_words

    def _looked_up(self, wanted: Sequence[tuple[_Span, str, int]]) -> list[_Found]:
        found = []
        for kind in (LOWER, PLAIN, INITIALS):
            own = [(span, key) for span, key, its in wanted if its == kind and key]
            rows = self._rows(kind, {key for _, key in own})
            found += [(span, _nearest(span.text, rows[key])) for span, key in own if key in rows]
        return found

    def _adjectives(self, spans: Sequence[_Span]) -> list[_Found]:
        """Adjectives of places: "Asian" is of Asia."""
        single = [s for s in spans if len(s) == 1 and self._is_telling(folded(s.text))]
        found = self._looked_up([(span, place, LOWER) for span in single for place in places_of(span.text)])
        return [(span, rows) for span, rows in found if rows[0][2][:1].isupper()]

    def _shortened(self, spans: Sequence[_Span], tokens: Sequence[Token]) -> list[_Found]:
        """Initials of values ("NY"), values that are the initials of what is said, and short forms either way."""
        names: list[tuple[_Span, str, int]] = []
        codes: list[tuple[_Span, str, int]] = []
        for span in spans:
            letters, own = span.text.replace(".", ""), [tokens[i] for i in span.words]
            if len(span) == 1 and stem(folded(letters)) in self._name_words:
                continue
            if len(span) == 1 and letters.isupper() and 2 <= len(letters) <= 5:
                names += [(span, letters.lower(), INITIALS)]
                names += [(span, full, PLAIN) for full in SHORT_FORMS.get(letters.lower(), ())]
            elif all(token.text[:1].isupper() for token in own) and folded(own[0].text) not in FUNCTION_WORDS:
                others = SHORT_FORMS.get(plain_key(span.text), ())
                codes += [(span, other, LOWER) for other in (*others, initials_of(span.text)) if other]
        found = [(s, rows) for s, rows in self._looked_up(names) if rows[0][2][:1].isupper()]
        return found + [(s, rows) for s, rows in self._looked_up(codes) if rows[0][2].isupper() or _is_short_form(rows[0][2])]

    def _mistyped(self, spans: Sequence[_Span], tokens: Sequence[Token]) -> list[_Found]:
        """Spans that are values when one or two of their words are corrected."""
        corrections = self._corrections(tokens, {i for span in spans for i in span.words})
        wanted = []
        for span in spans:
            wrong = [i for i in span.words if i in corrections]
            if not 1 <= len(wrong) <= 2 or (len(span) == 1 and not _is_sure(tokens[wrong[0]], span)):
                continue
            choices = [corrections[i] if i in wrong else [tokens[i].text] for i in span.words]
            wanted += [(span, plain_key(" ".join(words)), PLAIN) for words in itertools.product(*choices)]
        return self._looked_up(wanted)

    def _corrections(self, tokens: Sequence[Token], places: Iterable[int]) -> dict[int, list[str]]:
        """By its place, a word that no value has, and the words of values that it may have been meant to be."""
        words = {i: "".join(value_words(tokens[i].text)) for i in places}
        asked = {i: word for i, word in words.items() if word.isalpha() and typo_limit(word) and self._is_strange(word)}
        known = self._known_words(set(asked.values()) | {stem(word) for word in asked.values()})
        found = {}
        for i, word in asked.items():
            if word not in known and stem(word) not in known and (near := self._near_words(word)):
                found[i] = near
        return found

    def _is_strange(self, word: str) -> bool:
        """In no name of the schema, nor nearly, and no word that all questions have."""
        if word in FUNCTION_WORDS or stem(word) in self._name_words:
            return False
        return not any(name[:1] == word[0] and edits(stem(word), name, 1) <= 1 for name in self._name_words if len(name) > 3)

    def _known_words(self, words: set[str]) -> set[str]:
        return {str(word) for (word,) in self._query_in("SELECT text FROM word WHERE text IN ({})", words)}

    def _near_words(self, word: str) -> list[str]:
        """Up to `CORRECTIONS` words of values, those that differ least first; the first letter is right."""
        own = grams(word)
        postings = self._query_in("SELECT words FROM gram WHERE gram IN ({})", own)
        if not postings:
            return []
        shared = np.bincount(np.frombuffer(b"".join(blob for (blob,) in postings), dtype=np.int32), minlength=self._word_count)
        limit = typo_limit(word)
        enough = max(2, len(own) - 4 * limit)  # a wrong letter spoils three groups, two swapped ones four
        likely = np.flatnonzero(shared >= enough)
        likely = likely[np.argsort(-shared[likely], kind="stable")][:CANDIDATES]
        texts = [str(t) for (t,) in self._query_in("SELECT text FROM word WHERE id IN ({})", map(int, likely))]
        measured = sorted((edits(word, text, limit), text) for text in texts if text[0] == word[0])
        return [text for distance, text in measured if distance <= limit and not _is_inflected(word, text)][:CORRECTIONS]

    def _rows(self, kind: int, keys: Iterable[str]) -> dict[str, list[_Row]]:
        """The stored values under each of `keys`, in the schema's order."""
        found: dict[str, list[_Row]] = {}
        sql = (
            "SELECT entry.key, tbl, col, text FROM entry "
            "JOIN value ON value.id = entry.value JOIN place ON place.id = value.place "
            f"WHERE kind = {kind} AND key IN ({{}}) ORDER BY value.id"
        )
        for key, table, column, text in self._query_in(sql, keys):
            found.setdefault(key, []).append((table, column, text))
        return found

    def _query_in(self, sql: str, values: Iterable[object]) -> list[tuple[Any, ...]]:
        """`sql` for many values; `{}` is where their marks go."""
        rows: list[tuple[Any, ...]] = []
        wanted = list(values)
        for i in range(0, len(wanted), 500):
            some = wanted[i : i + 500]
            rows += self._query(sql.format(", ".join("?" * len(some))), some)
        return rows

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        assert self._store is not None
        return self._store.execute(sql, tuple(values)).fetchall()


def _spans(question: str, tokens: Sequence[Token]) -> list[_Span]:
    """All spans of up to `MAX_SPAN_WORDS` words, the longest first."""
    return [
        _Span(i, i + length - 1, question[tokens[i].start : tokens[i + length - 1].end].rstrip("."))
        for length in range(MAX_SPAN_WORDS, 0, -1)
        for i in range(len(tokens) - length + 1)
    ]


def _quoted(question: str, tokens: Sequence[Token]) -> list[_Span]:
    """What stands in quotes, whatever its length."""
    found = []
    for match in QUOTED.finditer(question):
        text = next(filter(None, match.groups()))
        inside = [i for i, token in enumerate(tokens) if match.start() <= token.start and token.end <= match.end()]
        if inside and len(text) <= MAX_QUOTED_CHARS:
            found.append(_Span(inside[0], inside[-1], text, is_quoted=True))
    return found


def _is_common(span: _Span) -> bool:
    """Whether a single word is too short or too usual to be taken for a value; codes in capitals are not, but "A"."""
    if len(span) > 1 or (span.text.isupper() and span.text != "A"):
        return False
    return span.text.lower() in STOP_WORDS or len(span.text) <= 2


def _is_sure(token: Token, span: _Span) -> bool:
    """Whether one word that is no value to the letter may be one with a typo."""
    return span.is_quoted or token.is_capital or len(token.text) >= SURE_WORD


def _is_inflected(word: str, other: str) -> bool:
    """Whether one is the other with an ending of verbs and adjectives: "released" is no misspelt "release"."""
    short, long = sorted((word, other), key=len)
    return long.startswith(short.rstrip("e")) and long[len(short.rstrip("e")) :] in ("ed", "ing", "er", "ly", "est", "en")


def _is_short_form(text: str) -> bool:
    return plain_key(text) in SHORT_FORMS


def _is_inside(inner: _Span, outer: _Span) -> bool:
    """Whether `outer` has all words of `inner`, and more."""
    return outer.first <= inner.first and inner.last <= outer.last and len(inner) < len(outer)


def _disjoint(found: Iterable[_Found]) -> list[_Found]:
    """Those that share no word with an earlier one."""
    kept: list[_Found] = []
    taken: set[int] = set()
    for span, rows in found:
        if taken.isdisjoint(span.words):
            taken.update(span.words)
            kept.append((span, rows))
    return kept


def _in_order(found: Iterable[_Found]) -> list[_Found]:
    return sorted(found, key=lambda item: item[0].first)


def _nearest(said: str, rows: Sequence[_Row]) -> list[_Row]:
    """The rows of the one spelling that is most like what was said."""
    texts = dict.fromkeys(text for *_, text in rows)
    best = min(texts, key=lambda text: (folded(text) != folded(said), abs(len(text) - len(said))))
    return [row for row in rows if row[2] == best]


def _link(span: _Span, rows: Sequence[_Row]) -> ValueLink:
    holders = tuple(dict.fromkeys((table, column) for table, column, _ in rows))[:MAX_HOLDERS]
    return ValueLink(value=rows[0][2], places=holders[:MAX_PLACES], said=span.text, holders=holders)
