"""Suffix decoding from a table of all strings: slow, short and by the letter of spec/arctic-family.md section 10.2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

Strings = Counter[tuple[int, ...]]


def count_strings(texts: Iterable[Sequence[int]], depth: int) -> Strings:
    """How often every string of at most `depth` tokens occurs."""
    counts: Strings = Counter()
    for text in texts:
        for start in range(len(text)):
            for end in range(start + 1, min(start + depth, len(text)) + 1):
                counts[tuple(text[start:end])] += 1
    return counts


def draft(
    counts: Strings, context: Sequence[int], depth: int, limit: int, alpha: float, offset: float, floor: float
) -> tuple[list[int], list[float], int]:
    """Tokens, probabilities and match length of the best draft."""
    best: tuple[list[int], list[float], int] = ([], [], 0)
    most = 0.0
    children: dict[tuple[int, ...], list[int]] = {}
    for string in counts:
        children.setdefault(string[:-1], []).append(string[-1])
    for length in range(1, min(len(context), depth) + 1):
        node = tuple(context[len(context) - length :])
        if node not in counts:
            break
        budget = min(limit, int(alpha * length + offset))
        tokens: list[int] = []
        probabilities: list[float] = []
        p, score = 1.0, 0.0  # added up one by one: from Python 3.12 on, sum() rounds otherwise, and equal scores would differ
        while len(tokens) < budget and node in children:
            token = min(children[node], key=lambda t: (-counts[*node, t], t))
            p *= counts[*node, token] / counts[node]
            if p < floor:
                break
            tokens.append(token)
            probabilities.append(p)
            score += p
            node = (*node, token)
        if tokens and score >= most:
            best, most = (tokens, probabilities, length), score
    return best
