"""What clients ask of a server: seeded requests of four kinds, the same ones for every server and every run.

Texts are of common words, about a token each; outputs have a fixed length, because the end token is forbidden by `logit_bias`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were "
    "all her she there would their we him been has when who will no more if out so up said what its about than into them can "
    "only other time new some could these two may first then do any like my now over such our man me even most made after also"
).split()


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """One completion: a prompt, and exactly so many tokens."""

    prompt: str
    max_tokens: int


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def _chat(rng: random.Random, index: int) -> ServeRequest:
    """Turns of different lengths."""
    return ServeRequest(_text(rng, int(rng.lognormvariate(4.3, 0.6))), min(128, max(16, int(rng.lognormvariate(4.0, 0.5)))))


def _long(rng: random.Random, index: int) -> ServeRequest:
    """Much to read, little to say."""
    return ServeRequest(_text(rng, 1000), 16)


def _shared(rng: random.Random, index: int) -> ServeRequest:
    """One long beginning for all, such as a system prompt, and some words of one's own."""
    return ServeRequest(f"{_text(random.Random(7), 600)} {_text(rng, 20)}", 32)


def _sql(rng: random.Random, index: int) -> ServeRequest:
    """A schema and a question, and as much SQL as most questions need."""
    from openarctic.bench.traces import sql_trace  # the names of traces must not cost a database

    return ServeRequest(rng.choice(sql_trace(index).prompts), 24)


TRACES: dict[str, Callable[[random.Random, int], ServeRequest]] = {"chat": _chat, "long": _long, "shared": _shared, "sql": _sql}


def serve_trace(name: str, count: int, seed: int = 0) -> list[ServeRequest]:
    """`count` requests of the kind `name`."""
    return [TRACES[name](random.Random(f"{name}-{seed}-{index}"), index) for index in range(count)]
