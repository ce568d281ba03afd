"""A wide schema must fit a bounded prompt: keep the tables that the question speaks of, and their neighbours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from openarctic.copilot.link import STOP_WORDS, ValueLink
from openarctic.copilot.schema import Schema, Table


def narrow(schema: Schema, question: str, links: Sequence[ValueLink], fits: Callable[[Schema], bool]) -> Schema:
    """The whole schema if it fits; else the best-scoring tables that do, in their own order (at least one)."""
    if fits(schema):
        return schema
    stems = {stem(w) for w in re.findall(r"[a-z0-9]+", question.lower()) if w not in STOP_WORDS}
    linked = {table for link in links for table, _ in link.places}
    scores = {t.name: _score(t, stems) + 3 * (t.name.lower() in linked) for t in schema.tables}
    for table in schema.tables:  # a table between two that matter is needed to join them
        scores[table.name] += 0.1 * sum(
            scores[o.name] for name, _, _ in schema.links(table.name) if (o := schema.table(name)) and o is not table
        )
    ranked = sorted(schema.tables, key=lambda t: -scores[t.name])
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(_subset(schema, ranked[:middle])):
            low = middle
        else:
            high = middle - 1
    return _subset(schema, ranked[:low])


def _subset(schema: Schema, tables: Sequence[Table]) -> Schema:
    chosen = {t.name for t in tables}
    return Schema(dialect=schema.dialect, tables=tuple(t for t in schema.tables if t.name in chosen))


def _score(table: Table, stems: set[str]) -> float:
    score = 2.0 * len(name_stems(table.name) & stems)
    return score + sum(0.5 * len(name_stems(c.name) & stems) / len(name_stems(c.name) or {""}) for c in table.columns)


def name_stems(name: str) -> set[str]:
    """The stems of a name's words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return {stem(w) for w in re.findall(r"[a-z0-9]+", spaced)}


def stem(word: str) -> str:
    """Plural and singular alike."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
