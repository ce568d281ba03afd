"""What a question asks for, read from its words alone: which operations, how many rows, how many columns, a single number.

Only what words say plainly is read; where they say nothing the field is None or absent, and nobody is held to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlglot import exp

# An operation of a query, and the words that ask for it. `extreme` is a MAX, a MIN, or ORDER BY with LIMIT.
CUES: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"\b({pattern})\b", re.IGNORECASE)
    for name, pattern in {
        "count": "how many|numbers? of|counts? of|count the|count how|number",
        "average": "average|averages|averaged|mean|avg",
        "sum": "(?:total|sum|overall)(?! numbers?| count)|altogether|how much",
        "extreme": r"most|least|fewest|maximum|minimum|max|min|top|best|worst|first|last|earliest|latest|newest|oldest|"
        r"youngest|highest|lowest|largest|smallest|biggest|greatest|longest|shortest|heaviest|lightest|cheapest|richest|"
        r"poorest|closest|nearest|strongest|fastest|slowest|\w{3,}iest",
        "group": "each|every|per|by each|for all the different|respectively|common(?:ly)?|frequent(?:ly)?",
        "order": "sort|sorted|sorting|order(?:ed)? (?:by|of|in|from)|in (?:\\w+ )?order|ascending|descending|alphabetical(?:ly)?|"
        "lexicographical(?:ly)?|ranked|rank",
        "distinct": "different|distinct|unique|distinctive|differing",
        "negation": "not|no|without|never|none|cannot|except|excluding|other than|nor|neither|(?:do|does|did|is|are|was|were|has|"
        "have|ca)n't|lack|lacks|lacking",
        "compare": "more|less|fewer|at least|at most|over|above|below|under|greater|larger|smaller|higher|lower|older|younger|"
        "longer|shorter|after|before|since|between|exceed|exceeds|exceeding|bigger|no less|no more",
        "both": "both|as well as|and also|in common|shared by|intersection",
        "pattern": "contain|contains|containing|start|starts|starting|begin|begins|beginning|end|ends|ending|substring|include|"
        "includes|including|letter|word|prefix",
    }.items()
}
# What stands before a number, and how it is compared; the first that fits is meant.
COMPARATORS: tuple[tuple[str, type[exp.Binary]], ...] = (
    (r"(?:at least|(?:no|not) (?:less|fewer|lower|smaller|younger) than|(?:a )?minimum of|(?:on|at) (?:and|or) (?:above|over)|"
     r"(?:more|greater|higher|larger|bigger) than or equal to)", exp.GTE),
    (r"(?:at most|(?:no|not) (?:more|greater|higher|larger|older) than|up to|(?:a )?maximum of|at (?:and|or) (?:below|under)|"
     r"(?:less|fewer|lower|smaller) than or equal to)", exp.LTE),
    (r"(?:(?:more|greater|higher|bigger|larger|taller|longer|heavier|older|newer|later|faster) than|more \w+ than|"
     r"over|above|exceeding|exceeds?|beyond)", exp.GT),
    (r"(?:(?:less|fewer|lower|smaller|shorter|lighter|younger|cheaper|earlier|slower) than|less \w+ than|under|below)", exp.LT),
    (r"(?:exactly|equal to|precisely)", exp.EQ),
)  # fmt: skip
SMALL_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_N = r"(\d{1,3}|" + "|".join(SMALL_NUMBERS) + ")"
_SUPERLATIVE = (
    r"(?:most|least|fewest|top|best|worst|first|last|earliest|latest|newest|oldest|youngest|highest|lowest|largest|smallest|"
    r"biggest|greatest|longest|shortest|heaviest|lightest|cheapest)"
)
_TOP = re.compile(rf"\b(?:{_SUPERLATIVE} {_N}|{_N} (?:\w+ )?{_SUPERLATIVE})\b", re.IGNORECASE)
_ONE = re.compile(rf"\bthe (?:\w+ )?{_SUPERLATIVE}\b", re.IGNORECASE)
_EACH = re.compile(r"\b(each|every|per|respectively|different .* and (?:how many|the number))\b", re.IGNORECASE)
_HOW_MANY = re.compile(
    r"^\W*(?:how many|how much|count|(?:what|give|tell|find|show|return)\b.{0,12}\b(?:total )?(?:number|count) of)\b", re.I
)
_OPENING = re.compile(
    r"^\W*(?:(?:please|can you|could you)\s+)?(?:what (?:is|are|was|were)|what|which|who|whose|where|when|show(?: me)?|"
    r"list(?: out)?|find(?: out)?|give(?: me)?|return|tell(?: me)?|display|get|report|provide|name|compute|calculate)\b"
    r"\s*(?:all\b)?",
    re.IGNORECASE,
)
# Where the words about what is wanted end, and those about which rows begin.
_ENDING = re.compile(
    r"\b(?:whose|that|which|who|where|with|having|sorted|sort|ordered|order(?:ed)? by|in (?:\w+ )?order|ascending|descending|"
    r"for (?:each|every|all|those|the)|of (?:each|every|all|those|the)|from|in the|when|if|"
    r"has|have|had|is|are|was|were|do|does|did)\b",
    re.IGNORECASE,
)
_AND = re.compile(r",\s*and\b|,|\band\b|\bas well as\b|\balong with\b|\btogether with\b", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])")


@dataclass(frozen=True, slots=True)
class Asked:
    """`cues`: operations by name of `CUES`. `rows`: how many are wanted ("top 3"), `columns`: how many things are named before
    the words that say of which rows. `is_number`: one number is wanted. `numbers`: those that the question states."""

    cues: frozenset[str]
    rows: int | None
    columns: int | None
    is_number: bool
    numbers: tuple[float, ...]


def read_question(question: str) -> Asked:
    """What `question` asks for."""
    cues = frozenset(name for name, pattern in CUES.items() if pattern.search(question))
    is_each = bool(_EACH.search(question))
    is_number = bool(_HOW_MANY.match(question)) and not is_each
    top = _TOP.search(question)
    rows = _small(next(g for g in top.groups() if g)) if top else None
    if rows is None and not is_number and not is_each and _ONE.search(question):
        rows = 1
    numbers = tuple(float(m.replace(",", "")) for m in NUMBER.findall(question))
    return Asked(cues, rows, 1 if is_number else _columns(question), is_number, numbers)


def _small(text: str) -> int:
    return SMALL_NUMBERS.get(text.lower()) or int(text)


def _columns(question: str) -> int | None:
    opening = _OPENING.match(question)
    if opening is None:
        return None
    wanted = question[opening.end() :].strip(" ?.")
    ending = _ENDING.search(wanted)
    wanted = wanted[: ending.start()] if ending else wanted
    return sum(bool(part.strip()) for part in _AND.split(wanted)) or None
