"""How a value of a result is written in a sentence: grouped digits, few decimals, ISO dates, one line of clean text."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

MAX_LABEL = 60  # characters of a text value
MAX_READ = 400  # of them that are looked at
MAX_SAMPLED = 1000  # values of a column that tell how its fractions are written
DECIMALS = 2
SMALL_DECIMALS = 4  # of numbers below 1
SHORT_DECIMALS = 4  # a number with no more is written as it is
NOISE = 1e-12  # relative: 0.1 + 0.2 is written 0.3
LARGE, TINY = 1e15, 1e-4  # beyond these, powers of ten

_MONEY = re.compile(
    r"price|amount|revenue|sales|salar|cost|profit|payment|turnover|fee|budget|income|wage|spen[dt]", re.IGNORECASE
)
_UNGROUPED = re.compile(r"(^|[_ ])(id|ids|no|nr|code|zip|year|yr|phone|key|number)$|^year|year$|(?<=[a-z])Id$", re.IGNORECASE)
_MIDNIGHT = re.compile(r"^(\d{4}-\d{2}-\d{2})[ T]00:00(:00(\.0+)?)?$")


class Written(NamedTuple):
    """A value as text; `is_exact` tells that nothing was rounded or cut away."""

    text: str
    is_exact: bool = True


def is_money(values: Iterable[Any], column: str) -> bool:
    """Whether a column's fractions are written with two decimals: by its name, or because some value has just two."""
    return bool(_MONEY.search(column)) or any(
        isinstance(v, float) and 1 <= abs(v) < LARGE and _has_places(v, DECIMALS) and not _has_places(v, DECIMALS - 1)
        for v in islice(values, MAX_SAMPLED)
    )


def written(value: Any, column: str = "", with_cents: bool = False) -> Written:
    """A cell in words; the column's name tells numbers that are names (no grouping); `with_cents`: two decimals."""
    if value is None:
        return Written("NULL")
    if isinstance(value, bool):
        return Written("true" if value else "false")
    if isinstance(value, int):
        return Written(str(value) if _UNGROUPED.search(column) else f"{value:,}")
    if isinstance(value, float):
        return _number(value, with_cents)
    if isinstance(value, list | dict):
        return label(json.dumps(value, ensure_ascii=False, default=str))
    return label(str(value))


def label(text: str) -> Written:
    """A text on one line, without characters that steer a terminal; long ones end in an ellipsis, never within a number."""
    if midnight := _MIDNIGHT.match(text):
        return Written(midnight[1])
    clean = one_line(text[:MAX_READ])  # a cell may have a hundred million characters
    if len(clean) <= MAX_LABEL and len(text) <= MAX_READ:
        return Written(clean or "''", clean == text)
    return Written(re.sub(r"[\d.,+eE-]*$", "", clean[: MAX_LABEL - 1]).rstrip() + "…", False)


def one_line(text: str) -> str:
    """Without line ends and characters that steer a terminal."""
    return " ".join("".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in text).split())


def is_number(value: Any) -> bool:
    """A number that can be compared and added; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_places(value: float, places: int) -> bool:
    return abs(round(value, places) - value) <= NOISE * max(abs(value), TINY)


def _number(value: float, with_cents: bool) -> Written:
    size = abs(value)
    if not math.isfinite(value) or (size and not TINY <= size < LARGE):
        return Written(repr(value))
    for places in range(DECIMALS if with_cents else 0, SHORT_DECIMALS + 1):
        if _has_places(value, places):
            return Written(f"{value:,.{places}f}")
    return Written(f"{value:,.{DECIMALS if size >= 1 else SMALL_DECIMALS}f}", False)
