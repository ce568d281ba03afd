"""Does every number of a text stand in the rows, or follow from them? Decided from text and rows alone, without the code that
wrote the text.

A number is at home when it is in a cell (as printed: rounded to the decimals that it has), within a text or date of a cell, or
in a column's name; when it counts the rows; when it is the sum of a column over "all N rows"; when it is `N rows` that share a
value; and `P % = A / B` when that is right and A and B are at home.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?|\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?", re.ASCII)
_SHARE = re.compile(r"(?P<p>-?[\d,.]*\d) % = (?P<a>-?[\d,.]*\d) / (?P<b>-?[\d,.]*\d)", re.ASCII)
_TOTAL = re.compile(r" in all [\d,]*\d rows", re.ASCII)
_SHARED = re.compile(r" rows share ", re.ASCII)
_SLACK = Decimal("1e-9")


def untraceable(text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The numbers of a text that nothing in the rows accounts for; empty when all are at home."""
    values = [_decimal(v) for row in rows for v in row if isinstance(v, int | float) and not isinstance(v, bool)]
    in_texts = {token for v in (*columns, *_texts(rows)) for token in _NUMBER.findall(v)}
    in_texts |= {token.lstrip("-") for token in in_texts}
    sums = _sums(columns, rows)
    repeats = set(_repeats(columns, rows))
    shares = {m.start("p"): m for m in _SHARE.finditer(text)}
    lost = []
    for match in _NUMBER.finditer(text):
        token = match[0]
        if match.start() in shares and token not in in_texts:
            if not _is_right(shares[match.start()]):
                lost.append(token)
            continue
        number = Decimal(token.replace(",", ""))
        is_sum = _TOTAL.match(text, match.end()) or any(m.span("b") == match.span() for m in shares.values())
        if (
            token in in_texts
            or number == len(rows)
            or any(_rounds_to(v, number, token) for v in values if v is not None)
            or (is_sum and any(_rounds_to(s, number, token) for s in sums))
            or (_SHARED.match(text, match.end()) and int(number) in repeats)
        ):
            continue
        lost.append(token)
    return lost


def _texts(rows: Sequence[Sequence[Any]]) -> list[str]:
    return [str(v) for row in rows for v in row if not isinstance(v, int | float | None)]


def _decimal(value: float) -> Decimal | None:
    return Decimal(repr(value)) if math.isfinite(value) else None


def _rounds_to(value: Decimal, number: Decimal, token: str) -> bool:
    """Whether the value, written with the token's decimals, is the number."""
    if value == number:
        return True
    exponent = number.as_tuple().exponent
    if "e" in token or not isinstance(exponent, int):
        return abs(value - number) <= abs(value) * _SLACK
    if exponent == 0 and value != value.to_integral_value():
        return abs(value - number) <= abs(value) * _SLACK  # no fraction may be lost
    try:
        return value.quantize(Decimal(1).scaleb(exponent), rounding=ROUND_HALF_EVEN) == number
    except InvalidOperation:
        return False


def _sums(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Decimal]:
    sums = []
    for i in range(len(columns)):
        cells = [row[i] for row in rows if row[i] is not None]
        if cells and all(isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c) for c in cells):
            sums.append(sum((Decimal(repr(c)) for c in cells), Decimal(0)))
    return sums


def _repeats(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    return [n for i in range(len(columns)) for n in Counter(repr(row[i]) for row in rows).values()]


def _is_right(share: re.Match[str]) -> bool:
    percent, part, whole = (Decimal(share[k].replace(",", "")) for k in ("p", "a", "b"))
    return whole != 0 and abs(100 * part / whole - percent) <= Decimal("0.051")
