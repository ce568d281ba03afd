"""Words and signs of procedural SQL (PL/pgSQL, Snowflake Scripting), with their places, so that statements can be cut out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openarctic.errors import UserError

Kind = Literal["word", "name", "text", "number", "sign"]

_PIECES = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<line>--[^\n]*)
    | (?P<dollar>\$(?P<tag>[A-Za-z_]\w*|)\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d+(?:\.(?!\.)\d*)?(?:[eE][+-]?\d+)?|\.\d+)
    | (?P<sign>:=|<<|>>|<=|>=|<>|!=|\|\||::|=>|\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Word:
    """`text` is as it stands, a dollar-quoted body without its quotes in `body`; `start` and `end` are places in the source."""

    kind: Kind
    text: str
    start: int
    end: int
    line: int
    body: str = ""

    @property
    def upper(self) -> str:
        """In upper case; empty for texts, so that `'BEGIN'` is no keyword."""
        return self.text.upper() if self.kind in ("word", "sign") else ""

    @property
    def value(self) -> str:
        """A name without its quotes."""
        return self.text[1:-1].replace('""', '"') if self.kind == "name" else self.text

    @property
    def nesting(self) -> int:
        """1 for a bracket that opens, -1 for one that closes, 0 for all else."""
        return (self.text in ("(", "[")) - (self.text in (")", "]"))


def split_at_commas(part: Sequence[Word]) -> list[list[Word]]:
    """Parted by commas outside of brackets; what is empty is left out."""
    parts: list[list[Word]] = [[]]
    depth = 0
    for word in part:
        depth += word.nesting
        if word.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(word)
    return [one for one in parts if one]


def words(source: str, dialect: str, first_line: int = 1) -> list[Word]:
    """All words. Raises UserError for a quote or comment that is never closed."""
    found: list[Word] = []
    place, line = 0, first_line
    while place < len(source):
        kind: Kind | None
        body = ""
        character = source[place]
        if source.startswith("/*", place):
            end, kind = _comment_end(source, place, line), None
        elif dialect == "snowflake" and source.startswith("//", place):
            end, kind = (source.find("\n", place) % (len(source) + 1)), None
        elif character in "'\"":
            end, kind = _quote_end(source, place, line, dialect), "text" if character == "'" else "name"
        else:
            match = _PIECES.match(source, place)
            assert match is not None
            end, kind = match.end(), _kind(match)
            if match["dollar"]:
                close = source.find(match["dollar"], end)
                if close < 0:
                    raise UserError(f"line {line}: {match['dollar']} is never closed")
                body, end, kind = source[end:close], close + len(match["dollar"]), "text"
        if kind is not None:
            found.append(Word(kind, source[place:end], place, end, line, body))
        line += source.count("\n", place, end)
        place = end
    return found


def _kind(match: re.Match[str]) -> Kind | None:
    for kind in ("word", "number", "sign"):
        if match[kind] is not None:
            return kind  # type: ignore[return-value]
    return None


def _quote_end(source: str, start: int, line: int, dialect: str) -> int:
    quote, place = source[start], start + 1
    is_marked = re.search(r"(?<![\w$])[eE]$", source[max(0, start - 2) : start]) is not None  # E'...', but not date'...'
    escapes = quote == "'" and (dialect == "snowflake" or (dialect == "postgres" and is_marked))
    while place < len(source):
        if escapes and source[place] == "\\":
            place += 2
        elif source.startswith(quote * 2, place):
            place += 2
        elif source[place] == quote:
            return place + 1
        else:
            place += 1
    raise UserError(f"line {line}: {quote} is never closed")


def _comment_end(source: str, start: int, line: int) -> int:
    end = source.find("*/", start + 2)
    if end < 0:
        raise UserError(f"line {line}: /* is never closed")
    if "/*" in source[start + 2 : end]:  # engines do not agree where such a comment ends
        raise UserError(f"line {line}: a comment stands in a comment", "write -- comments")
    return end + 2
