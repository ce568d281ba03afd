"""How long a regular expression or a terminal of Lark gets when its repetitions are written out.

What llguidance needs for a lexeme grows with that: `(a{1000}){1000}` is short, and takes half a minute and 600 MB. Rules of a
grammar, and the rest of JSON Schema, are bounded by llguidance's own limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

from openarctic.errors import UserError

MAX_DEPTH = 100  # of a JSON Schema; llguidance's own is 127
MAX_PROPERTIES = 1000  # of one object: the time grows with their square
_COUNTS = re.compile(r"\{(\d{0,9})(?:,(\d{0,9}))?\}")
_ESCAPED_NAME = re.compile(r"[pPxuU]\{[^}]{0,40}\}")
# A flag by which `#` begins a comment: what stands in brackets can then not be told from what does not.
_VERBOSE = re.compile(r"\(\?[a-zA-Z]{0,9}x")
_DEFINES = re.compile(r"[?!]?([A-Za-z_]\w*)(?:\[[^\]\n]{0,99}\])?(?:\.-?\d+)?[ \t]*:")
_LARK_TIMES = re.compile(r"~\s*(\d{1,9})(?:\s*\.\.\s*(\d{1,9}))?")
# Possessive, so that a text that does not end is read once.
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_REGEX = re.compile(r"/(?:[^/\\]|\\.)*+/?", re.DOTALL)
_BLANK = re.compile(r"[ \t\r]+")
_NAME = re.compile(r"[A-Za-z_]\w*")
_EMBEDDED = re.compile(r"%(?:json|regex)\s*(?=\{)")


class _Sum:
    """Adds up sizes, where a group's is known at its end and whatever came last may be repeated."""

    def __init__(self) -> None:
        self._groups = [0]
        self._last = 0

    def add(self, size: int) -> None:
        self._groups[-1] += size
        self._last = size

    def open(self) -> None:
        self._groups.append(0)

    def close(self) -> None:
        if len(self._groups) > 1:
            self.add(self._groups.pop())

    def repeat(self, low: str, high: str | None) -> None:
        times = max(int(low or 0), int(high or 0), 1)
        self._groups[-1] += self._last * (times - 1)
        self._last *= times

    @property
    def total(self) -> int:
        return sum(self._groups)


def regex_size(pattern: str) -> int:
    """Characters of a text that matches, all alternatives together."""
    if _VERBOSE.search(pattern):
        return len(pattern) * prod(max(int(a or 0), int(b or 0), 1) for a, b in _COUNTS.findall(pattern))
    size, at = _Sum(), 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            named = _ESCAPED_NAME.match(pattern, at + 1)
            at = named.end() if named else at + 2
            size.add(1)
            continue
        if char == "[":
            at = _end_of_class(pattern, at)
            size.add(1)
            continue
        counts = _COUNTS.match(pattern, at) if char == "{" else None
        if counts:
            size.repeat(counts[1], counts[2])
            at = counts.end()
            continue
        if char == "(":
            size.open()
        elif char == ")":
            size.close()
        elif char not in "|?*+":
            size.add(1)
        at += 1
    return size.total


def _end_of_class(pattern: str, at: int) -> int:
    at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def check_schema(schema: Any) -> None:
    """Raises UserError for a JSON Schema that is nested too deep, has an object of too many properties, or holds text that is
    not valid Unicode."""
    for _ in _patterns(schema):
        pass


def schema_size(schema: Any) -> int:
    """The longest pattern's. Raises UserError as `check_schema` does."""
    return max(map(regex_size, _patterns(schema)), default=0)


def _patterns(schema: Any) -> Iterator[str]:
    """All texts under `pattern` and keys under `patternProperties`, however deep."""
    open_: list[tuple[Any, int]] = [(schema, 1)]
    while open_:
        value, depth = open_.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"the JSON schema is nested deeper than {MAX_DEPTH}")
        if isinstance(value, str):
            _check_unicode(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                _check_unicode(key)
                if key == "pattern" and isinstance(inner, str):
                    yield inner
                if key == "patternProperties" and isinstance(inner, dict):
                    yield from inner
                if key == "properties" and isinstance(inner, dict) and len(inner) > MAX_PROPERTIES:
                    raise UserError(
                        f"the JSON schema has an object of {len(inner)} properties, at most {MAX_PROPERTIES} are allowed"
                    )
                open_.append((inner, depth + 1))
        elif isinstance(value, list):
            open_ += [(inner, depth + 1) for inner in value]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError("the JSON schema holds text that is not valid Unicode") from error


def lark_size(source: str) -> int:
    """The longest lexeme's: a terminal with all terminals in it, or a pattern. Raises UserError as `check_schema`."""
    definitions, longest = _definitions(source)
    under_way: set[str] = set()

    @cache
    def size_of(name: str) -> int:
        if name in under_way or name not in definitions:
            return 1  # a terminal that holds itself is none; llguidance says so
        under_way.add(name)
        size = _Sum()
        for kind, value in definitions[name]:
            if kind == "name":
                size.add(size_of(value) if value.isupper() else 1)
            elif kind == "text":
                size.add(value)
            elif kind == "repeat":
                size.repeat(*value)
            elif kind == "open":
                size.open()
            else:
                size.close()
        under_way.remove(name)
        return size.total

    try:
        return max([longest, *(size_of(name) for name in definitions if name.isupper())])
    except RecursionError as error:
        raise UserError("the grammar's terminals are nested too deep") from error


def _definitions(source: str) -> tuple[dict[str, list[tuple[str, Any]]], int]:
    """What stands in each rule and terminal, and the longest pattern outside of terminals."""
    definitions: dict[str, list[tuple[str, Any]]] = {}
    body: list[tuple[str, Any]] = []
    longest = at = 0
    is_new_line = True
    while at < len(source):
        char = source[at]
        defined = _DEFINES.match(source, at) if is_new_line else None
        if defined:
            body = definitions.setdefault(defined[1], [])
            at = defined.end()
        elif name := _NAME.match(source, at):
            body.append(("name", name[0]))
            at = name.end()
        elif blank := _BLANK.match(source, at):
            at = blank.end()
            continue  # a new line stays one
        elif char == '"':
            end = _end_of(source, at, '"')
            longest = max(longest, end - at - 2)
            body.append(("text", max(0, end - at - 2)))
            at = end
        elif source.startswith("//", at) or char == "#":
            at = (source.find("\n", at) + 1 or len(source) + 1) - 1
        elif char == "/":
            end = _end_of(source, at, "/")
            size = regex_size(source[at + 1 : end - 1])
            longest = max(longest, size)
            body.append(("text", size))
            at = end
        elif char == "%" and (embedded := _EMBEDDED.match(source, at)):
            size, at = _embedded(source, embedded.end())
            longest = max(longest, size)
            body.append(("text", size))
        elif char in "~{" and (times := _LARK_TIMES.match(source, at) or _COUNTS.match(source, at)):
            body.append(("repeat", (times[1], times[2])))
            at = times.end()
        else:
            if char in "([":
                body.append(("open", None))
            elif char in ")]":
                body.append(("close", None))
            is_new_line = char == "\n"
            at += 1
            continue
        is_new_line = False
    return definitions, longest


def _end_of(source: str, at: int, mark: str) -> int:
    """After the text that begins with a mark and ends with the next one that is not escaped."""
    pattern = _TEXT if mark == '"' else _REGEX
    found = pattern.match(source, at)
    assert found, "the mark is there, and the rest is anything"
    return found.end()


def _embedded(source: str, at: int) -> tuple[int, int]:
    """The size of the JSON at that place, and where it ends. Raises UserError as `check_schema` does."""
    try:
        schema, end = json.JSONDecoder().raw_decode(source, at)
    except (ValueError, RecursionError):
        return 0, at + 1  # llguidance says what is wrong
    return schema_size(schema), end
