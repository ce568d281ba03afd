"""Two orders of the same short SQL: as it is written, and as it is worked off (a plan).

    SELECT name FROM singer WHERE age > 30 ORDER BY age      written: what is wanted comes before where it is
    FROM singer WHERE age > 30 SELECT name ORDER BY age      worked off: tables, rows, groups, columns, order

A model that writes plans chooses tables first, and then only columns that they hold. Nothing else differs: `to_plan` and
`from_plan` move whole clauses, in nested queries and on both sides of set operators too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

TargetForm = Literal["sql", "plan"]
TARGET_FORMS = get_args(TargetForm)

_WRITTEN = ("SELECT", "FROM", "WHERE", "GROUP BY", "HAVING", "ORDER BY", "LIMIT")
_WORKED_OFF = ("FROM", "WHERE", "GROUP BY", "HAVING", "SELECT", "ORDER BY", "LIMIT")
_SET_OPERATORS = ("UNION ALL", "UNION", "INTERSECT", "EXCEPT")
# Texts and quoted names are passed over; sqlglot writes keywords in capitals, names of the short SQL are in lower case.
_TOKEN = re.compile(rf"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[()]|\b(?:{"|".join((*_WRITTEN, *_SET_OPERATORS))})\b""")


def to_plan(short_sql: str) -> str:
    """Clauses in the order in which they are worked off."""
    return _reordered(short_sql, _WORKED_OFF)


def from_plan(plan: str) -> str:
    """Clauses in SQL's order; what is SQL already stays as it is."""
    return _reordered(plan, _WRITTEN)


def _reordered(text: str, order: Sequence[str]) -> str:
    marks, nested = _scan(text)
    for start, end in nested:  # clauses only change places, so no position moves
        if text.startswith(("SELECT ", "FROM "), start):
            text = text[:start] + _reordered(text[start:end], order) + text[end:]
    if not marks:
        return text
    pieces: list[str] = [text[: marks[0][0]].strip()]
    clauses: list[tuple[str, str]] = []
    for (start, keyword), (end, _) in pairwise([*marks, (len(text), "")]):
        if keyword in _SET_OPERATORS:
            pieces += [*_sorted(clauses, order), text[start:end].strip()]
            clauses = []
        else:
            clauses.append((keyword, text[start:end].strip()))
    return " ".join(filter(None, [*pieces, *_sorted(clauses, order)]))


def _sorted(clauses: list[tuple[str, str]], order: Sequence[str]) -> list[str]:
    return [text for _, text in sorted(clauses, key=lambda clause: order.index(clause[0]))]


def _scan(text: str) -> tuple[list[tuple[int, str]], list[tuple[int, int]]]:
    """Keywords outside of parentheses with their places, and what the outermost parentheses hold."""
    marks: list[tuple[int, str]] = []
    nested: list[tuple[int, int]] = []
    depth = opened = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "(":
            if depth == 0:
                opened = match.end()
            depth += 1
        elif token == ")":
            depth -= 1
            if depth == 0:
                nested.append((opened, match.start()))
        elif depth == 0 and token[0] not in "'\"":
            marks.append((match.start(), token))
    return marks, nested
