"""Numbers in words: "two thousand", "twenty-five", "at least three"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

UNITS = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split(),
        range(20),
        strict=True,
    )
)
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
MAX_WORDS = 20  # of one number
_WORD = re.compile(r"[^\W\d_]+|\d[\d,]*(?:\.\d+)?")
_BETWEEN = re.compile(r"[\s\-‐‑]*")


def spelled(words: Sequence[str]) -> tuple[int, int]:
    """The number that the first (lower-case) words spell, and how many words it takes (0: they spell none)."""
    total = part = 0
    length = 0
    last = ""
    for word in words:
        if word in UNITS and last not in ("unit",):
            part, last = part + UNITS[word], "unit"
        elif word in TENS and last in ("", "scale"):
            part, last = part + TENS[word], "tens"
        elif word in _SCALES and last:
            scale = _SCALES[word]
            if scale == 100:
                part *= 100
            else:
                total, part = total + part * scale, 0
            last = "scale"
        else:
            break
        length += 1
    return total + part, length


def spelled_numbers(question: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, number) of every number in words. A word between "hundred" and the rest ("and") ends it."""
    found = list(_WORD.finditer(question))
    words = [match.group().lower() for match in found]
    i = 0
    while i < len(words):
        if not spelled(words[i : i + 1])[1]:
            i += 1
            continue
        run = 1  # words that only spaces or hyphens part
        while (
            run < MAX_WORDS
            and i + run < len(words)
            and _BETWEEN.fullmatch(question, found[i + run - 1].end(), found[i + run].start())
        ):
            run += 1
        number, length = spelled(words[i : i + run])
        yield found[i].start(), found[i + length - 1].end(), number
        i += length


def with_digits(question: str) -> str:
    """The question with numbers of several words in digits: "more than two thousand" is "more than 2000".

    Single words stay as they are: models know them, and "one" is often no number.
    """
    parts, end = [], 0
    for start, stop, number in spelled_numbers(question):
        if _WORD.fullmatch(question, start, stop) is None:
            parts += [question[end:start], str(number)]
            end = stop
    return "".join([*parts, question[end:]])
