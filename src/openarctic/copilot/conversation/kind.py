"""Is a question about the earlier one, or new?"""

from __future__ import annotations

import re
from enum import Enum

from openarctic.copilot.conversation.query import Query
from openarctic.copilot.linking.words import name_stems, stem
from openarctic.copilot.schema import Schema, Table

SHORT_WORDS = 7


class Kind(Enum):
    """What a question is to the earlier one. `OWN` is new and `MAYBE` a follow-up where it can be read as one, both with signs of
    the other: how they were read has to be said."""

    NEW = "new"
    OWN = "own"
    MAYBE = "maybe"
    FOLLOW_UP = "follow-up"


_LEAD = re.compile(
    r"^\W*(?:(?:ok|okay|please|great|thanks|now|so)\W+)*(?:and\b|what about|how about|only\b|just\b|also\b|but\b|"
    r"instead\b|same\b|the same\b|plus\b|then\b|or\b|not\b|"
    r"without\b|except\b|excluding\b|sort|order (?:them|it|by|those)|rank (?:them|by|those)|group (?:them|it|by)|by\b|"
    r"per\b|for each|break|split|top\b|the top|"
    r"first\b|the first|bottom|limit|add\b|include\b|remove\b|drop\b|hide\b|as a\b|reverse|which (?:one|of)|who (?:of|"
    r"among)|more\b|next|the next|with\b|to\b|from\b|in\b|"
    r"the others?|the rest|show all|all of)",
    re.IGNORECASE,
)
_ANAPHOR = re.compile(
    r"\b(?:them|those|these|they|theirs?|it|its|ones?|he|she|his|hers?|him|the (?:same|rest|others?|latter|former)|"
    r"(?:is|are|in|of|as|sort|do|plot|chart|"
    r"draw|reverse|than|from|about|count|sum|like|undo|for|on|to|for) (?:that|this)|that again)\b",
    re.IGNORECASE,
)
_EMPTY_COUNT = re.compile(
    r"^\W*(?:and\s+)?how many(?:\s+(?:are there|is that|are that|rows|results|in total|are they))*\W*$", re.IGNORECASE
)
_THEIR_COUNT = re.compile(
    r"^\W*(?:and\s+)?(?:how many|which|what) \w+ (?:do|did|does|have|has|had|is|was|are|were) (?:they|he|she|it|that|"
    r"those|these)\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"^\W*(?:and\s+|now\s+)?(?:who|which|what)\s+(?:are|is|were|was)\s+(?:they|those|these|that|it)\W*$|^\W*(?:undo|"
    r"go back|back|reverse|descending|ascending|"
    r"the other way(?: a?round)?|all|everything|again)\W*$",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(?:what|which|who|whose|when|where|how|list|show|find|give|count|name|return|tell|are there|is there|do|"
    r"does|display|get|calculate|compute)\b",
    re.IGNORECASE,
)
_WHO = re.compile(r"^\W*(?:who|which ones?)\b", re.IGNORECASE)
_AND = re.compile(r"^\W*(?:and|but|or|also)\b", re.IGNORECASE)
_WHOLE_QUESTION = re.compile(
    rf"^\W*(?:(?:ok|okay|now|so|then|and|but|please)\W+)+{_QUESTION.pattern.removeprefix('^')}", re.IGNORECASE
)


def kind_of(text: str, schema: Schema, query: Query | None) -> Kind:
    """Whether a question is about the earlier one. `query` is the earlier one's; without it everything is new."""
    if query is None:
        return Kind.NEW
    if _WHOLE.search(text) or _EMPTY_COUNT.search(text) or _THEIR_COUNT.search(text):
        return Kind.FOLLOW_UP
    tables = _tables_in(text, schema)
    anaphor = _ANAPHOR.search(text)
    if anaphor is not None and not any(start < anaphor.start() for start, _ in tables):
        return Kind.FOLLOW_UP
    if _LEAD.search(text):
        if tables and _WHOLE_QUESTION.search(text):
            return Kind.MAYBE if _AND.search(text) else Kind.OWN
        return Kind.FOLLOW_UP
    num_words = len(re.findall(r"\w+", text))
    if tables and _WHO.search(text):
        return Kind.MAYBE
    if tables:
        own = {t.name.lower() for t in query.tables}
        is_same = any(table.name.lower() in own for _, table in tables) and bool(query.filters())
        if num_words > SHORT_WORDS or not is_same:
            return Kind.NEW
        return Kind.OWN if _QUESTION.search(text) else Kind.MAYBE
    return Kind.FOLLOW_UP if num_words <= SHORT_WORDS and not _QUESTION.search(text) else Kind.MAYBE


def _tables_in(text: str, schema: Schema) -> list[tuple[int, Table]]:
    """The tables that a text names, with where; `order` as a verb is none."""
    words = [(m.start(), m.group().lower()) for m in re.finditer(r"[a-z0-9]+", text, re.IGNORECASE)]
    found = []
    for table in schema.tables:
        stems = name_stems(table.name)
        said = [
            (i, start)
            for i, (start, word) in enumerate(words)
            if stem(word) in stems and not (word == "order" and words[i + 1 : i + 2] and words[i + 1][1] in ("by", "them", "it"))
        ]
        if stems and stems <= {stem(words[i][1]) for i, _ in said}:
            found.append((min(start for _, start in said), table))
    return sorted(found, key=lambda f: f[0])
