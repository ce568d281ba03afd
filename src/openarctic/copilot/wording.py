"""English for names: words of a column or table name, plurals and singulars, and lists of things."""

from __future__ import annotations

import re
from collections.abc import Sequence

MONTHS = tuple("january february march april may june july august september october november december".split())
_SAME_IN_SINGULAR = ("ss", "us", "is", "news", "series", "species")
# Plurals that have an s more and nothing else, unlike `statuses`, `batches` and `categories`.
_ONLY_AN_S_MORE = ("ouses", "auses", "caches", "movies", "cookies", "calories")


def words(name: str) -> str:
    """A name as a person says it: `birthDate` and `birth_date` are `birth date`. Nothing else of it is lost: comparing names, as
    `linking.words` does, is rougher."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ")
    return " ".join(spaced.lower().split())


def plural(noun: str) -> str:
    """Good enough English plurals. Training pairs are made with them: a change here makes other pairs."""
    if noun.endswith("s"):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "ch", "sh")) else "s")


def several(noun: str) -> str:
    """`plural`, also of what is no plain word: `class`, `people`, `col2`, `sum(x)`."""
    if noun.endswith("ss"):
        return noun + "es"
    if noun.endswith("people") or not noun[-1:].isalpha():
        return noun
    return plural(noun)


def singular(noun: str) -> str:
    """One of them: `categories` is `category`; what is no plural stays."""
    if not noun.endswith("s") or noun.endswith(_SAME_IN_SINGULAR):
        return noun
    if noun.endswith(_ONLY_AN_S_MORE):
        return noun[:-1]
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    return noun[:-2] if noun.endswith(("xes", "ches", "shes", "sses", "uses")) else noun[:-1]


def listed(items: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def counted(number: str, noun_plural: str) -> str:
    """`3 customers`, `1 customer`."""
    return f"{number} {singular(noun_plural) if number == '1' else noun_plural}"
