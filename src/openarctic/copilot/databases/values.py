"""Samples of cell values: what a question may name. Every kind of database samples by these rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

VALUES_PER_COLUMN = 4000
VALUE_CHARS = 60
SCANNED_ROWS = 50_000  # the first rows of a huge table stand for it
DIGITS = re.compile(r"[\d.\-:/ ]+")


def quoted(name: str) -> str:
    """The name as an identifier of standard SQL."""
    return '"' + name.replace('"', '""') + '"'


def is_linkable(value: str) -> bool:
    """Worth finding in a question: a short text that is not just a number, date or code of digits."""
    return 1 <= len(value) <= VALUE_CHARS and not DIGITS.fullmatch(value)


def linkable(values: Iterable[Any]) -> tuple[str, ...]:
    """The texts among `values` that are worth finding."""
    return tuple(value for value in values if isinstance(value, str) and is_linkable(value))
