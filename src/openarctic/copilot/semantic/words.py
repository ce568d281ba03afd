"""Questions as sequences of comparable words: case, punctuation, politeness and the way of writing numbers do not matter.

Nothing that may change an answer is touched: symbols such as < and % stay words of their own, and so do plurals, negations and
small words ("by", "per", "not").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from openarctic.copilot.linking.numbers import spelled

_WORD = re.compile(r"(?:\d[\d,]*\d|\d)(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*|[^\s\w]|_|\w")
_SILENT = frozenset(".,;:?!\"'`´‘’“”„()[]{}_«»…·—–")
_ARTICLES = frozenset(("the", "a", "an"))
_POLITE = tuple(
    tuple(phrase.split())
    for phrase in (
        "please", "kindly", "can you", "could you", "would you", "show me", "show", "give me", "give", "tell me", "list",
        "display", "find", "get", "what is", "what are", "what's", "i want to see", "i want to know", "i want", "let me see",
    )
)  # fmt: skip


def normal_words(question: str) -> tuple[str, ...]:
    """The words of a question in their comparable form, in order."""
    raw = [m.group() for m in _WORD.finditer(unicodedata.normalize("NFKC", question))]
    words = list(_spoken(raw))
    words = list(_numbers(words))
    while (lead := next((p for p in _POLITE if tuple(words[: len(p)]) == p), None)) and len(words) > len(lead):
        words = words[len(lead) :]
    if len(words) > 1 and words[-1] == "please":
        words.pop()
    return tuple(words)


def _spoken(raw: list[str]) -> Iterator[str]:
    """Lower case, without punctuation and articles. A last or a capital A is a name: "grade A"."""
    for i, token in enumerate(raw):
        is_minus = token == "-" and i + 1 < len(raw) and raw[i + 1][0].isdigit() and (i == 0 or not raw[i - 1][-1].isalnum())
        if token in _SILENT or (token in "-‐‑" and not is_minus):
            continue
        word = token.casefold().replace("’", "'")
        is_last = all(later in _SILENT for later in raw[i + 1 :])
        if word in _ARTICLES and not is_last and (token.islower() or i == 0):
            continue
        yield word.removesuffix("'s") if word != "what's" else word


def _numbers(words: list[str]) -> Iterator[str]:
    """Digits for numbers in words ("two hundred", "twenty-five"), and numbers without separators of thousands."""
    i = 0
    while i < len(words):
        value, length = spelled(words[i:])
        if length:
            yield str(value)
            i += length
        else:
            yield _digits(words[i])
            i += 1


def _digits(word: str) -> str:
    if not word[0].isdigit():
        return word
    number = word.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number  # leading zeros belong to codes


def is_number(word: str) -> bool:
    """Whether a normal word is a number."""
    return re.fullmatch(r"\d+(\.\d+)?", word) is not None


def find_words(words: tuple[str, ...], part: tuple[str, ...]) -> Iterable[int]:
    """Where `part` begins in `words`."""
    if not part:
        return ()
    return (i for i in range(len(words) - len(part) + 1) if words[i : i + len(part)] == part)
