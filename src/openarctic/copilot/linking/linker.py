"""One schema, ready for many questions: what each speaks of, and what of the schema a model is shown for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openarctic.copilot.linking.choose import Size, chosen_part, links_within
from openarctic.copilot.linking.graph import JoinGraph
from openarctic.copilot.linking.names import NameIndex, Synonym
from openarctic.copilot.linking.numbers import spelled_numbers, with_digits
from openarctic.copilot.linking.values import ValueIndex, ValueLink
from openarctic.copilot.linking.words import content_stems
from openarctic.copilot.schema import Schema


@dataclass(frozen=True, slots=True)
class Links:
    """What a question speaks of.

    `shown` is the part of the schema for the prompt, the whole where it fits; `values` are cell values in it; `question` has
    numbers of several words in digits; `explained` are the stems of its words that are accounted for.
    """

    question: str
    values: tuple[ValueLink, ...]
    shown: Schema
    explained: frozenset[str]

    def coverage(self) -> float:
        """The share of the question's content words that names, synonyms, values and numbers explain: 0 to 1, and 1 where it has
        none."""
        stems = content_stems(self.question)
        known = sum(word in self.explained or word[0].isdigit() for word in stems)
        return known / len(stems) if stems else 1.0


class Linker:
    """What is shown has at most `limit` of what `size` measures (tokens). `synonyms` are (term, table, column or nothing), as of
    `SemanticModel.synonyms`. A large value index is kept in `folder` under `name` (see `ValueIndex`)."""

    def __init__(
        self,
        schema: Schema,
        size: Size,
        limit: int,
        synonyms: Iterable[Synonym] = (),
        folder: Path | None = None,
        name: str = "",
    ) -> None:
        self.schema, self._size, self._limit = schema, size, limit
        self.values = ValueIndex(schema, folder=folder, name=name)
        self._synonyms = tuple(synonyms)

    @cached_property
    def names(self) -> NameIndex:
        """Of all tables and columns."""
        return NameIndex(self.schema, self._synonyms)

    @cached_property
    def graph(self) -> JoinGraph:
        """Of all tables."""
        return JoinGraph(self.schema)

    @cached_property
    def fits_whole(self) -> bool:
        """Whether the whole schema fits the prompt: then it is shown for every question."""
        return self._size(self.schema) <= self._limit

    def link(self, question: str, context: str = "", *, values: bool = True) -> Links:
        """What the question speaks of; without `values`, no cell values. Tables that `context` names, what was asked before, are
        shown too."""
        found = self.values.links(question) if values else ()
        named = self.names.find(f"{question}\n{context}")
        shown = self.schema
        if not self.fits_whole:
            shown = chosen_part(self.names, self.graph, named, found, self._size, self._limit)
            found = links_within(found, shown)
        said = " ".join([*(link.said for link in found), *(question[start:end] for start, end, _ in spelled_numbers(question))])
        explained = frozenset([*(item.stem for item in named), *content_stems(said)])
        return Links(with_digits(question), found, shown, explained)
