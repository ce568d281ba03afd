"""What users ask, for speculation: SQL questions that come again with other values, and beginnings of free text.

The SQL prompts are those of `openarctic ask` on the bundled sample, and so belong to arctic-nano. The n-th draw of a trace is
always the same, and no two draws are: a request that came before to the letter would be too easy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from openarctic.copilot.databases import read_schema
from openarctic.copilot.grammar import schema_grammar
from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.prompt import question_text, schema_text
from openarctic.copilot.sample import sample_database
from openarctic.copilot.schema import Schema

QUESTIONS = (
    "How many customers are from {city}?",
    "List the names of products with a price above {number}.",
    "What is the total amount of payments by method after {year}?",
    "Show the names of employees who work in stores in {city}.",
    "Which products of the category {category} have less than {number} in stock?",
    "What is the average salary of employees hired after {year}?",
    "How many orders were placed in {year} by customers from {city}?",
    "List the names and prices of products in the category {category}.",
)
VALUES = {
    "city": ("Berlin", "Hamburg", "Paris", "Lyon", "Madrid", "Oslo", "Stockholm", "Rome", "Vienna", "Dublin", "Lisbon", "Warsaw"),
    "category": ("Tents", "Backpacks", "Footwear", "Clothing", "Cooking", "Sleeping", "Climbing", "Lighting"),
    "year": tuple(str(year) for year in range(2015, 2025)),
    "number": tuple(str(number) for number in range(5, 400, 15)),
}
OPENINGS = (
    "Once upon a time, in a village by the sea,",
    "The history of bread begins",
    "Dear neighbours,\n\nI am writing to tell you that",
    "The difference between weather and climate is",
    "When the last train had left the station, she",
    "A good walk needs nothing but",
    "In my opinion, the best thing about winter is",
    "The old clock on the wall had stopped, and",
)
PER_DRAW = 4


@dataclass(frozen=True, slots=True)
class Trace:
    """Prompts of one draw, and how to answer them."""

    prompts: list[str]
    max_tokens: int
    temperature: float
    seed: int
    grammar: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The fields of the job."""
        return {name: getattr(self, name) for name in self.__slots__}


def text_trace(draw: int) -> Trace:
    """Free text at a temperature that keeps it from repeating itself."""
    rng = random.Random(draw)
    return Trace(rng.sample(OPENINGS, PER_DRAW), 48, 0.8, 1000 * draw)


def sql_trace(draw: int, *, with_grammar: bool = False) -> Trace:
    """Greedy SQL for questions whose values are drawn."""
    rng = random.Random(draw)
    schema, index = _sample()
    questions = [
        question.format(**{name: rng.choice(values) for name, values in VALUES.items()})
        for question in rng.sample(QUESTIONS, PER_DRAW)
    ]
    shown = schema_text(schema)
    prompts = [shown + question_text(question, index.links(question)) for question in questions]
    return Trace(prompts, 96, 0.0, 0, schema_grammar(schema) if with_grammar else None)


@cache
def _sample() -> tuple[Schema, ValueIndex]:
    schema = read_schema(sample_database())
    return schema, ValueIndex(schema)
