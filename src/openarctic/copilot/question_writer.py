"""Questions for queries, written by a model that learned to ask them, and kept where it finds the query back.

A model that was trained both ways (`NanoRecipe.turned_share`) is given the schema and a query, and writes the questions that
people might ask for it (back-translation: Sennrich et al. 2016, arXiv:1511.06709). A question is understood if the same model,
asked it several times, comes to the query's rows more often than to any other rows: what does not say enough, or something
else, is left out. Of what is understood the question is kept that the model was least sure of: there is more to learn from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlglot.errors import SqlglotError

from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.joins import expand, mend
from openarctic.copilot.prompt import turned_text
from openarctic.copilot.transfer import Rows
from openarctic.copilot.vote import result_key
from openarctic.generator import Sampling

if TYPE_CHECKING:
    from openarctic.engine import Engine

BATCH = 16  # queries asked for at a time
QUESTIONS = 3  # for one query
ANSWERS = 8  # to one question
MAX_QUESTION_TOKENS = 60
MAX_SQL_TOKENS = 120
# SQL that was copied instead of said: a keyword in capitals, a function's name before its bracket.
_COPIED = re.compile(r"\b(SELECT|FROM|WHERE|GROUP BY|ORDER BY|HAVING|COUNT|SUM|AVG|MIN|MAX)\b|\w\(\w+\)|\(\*\)")
CREATIVE = Sampling(temperature=0.8, top_p=0.95, n=QUESTIONS, stop="\n")
ANSWERING = Sampling(temperature=0.6, n=ANSWERS)


class QuestionWriter:
    """Writes for the databases whose schemas and files are given."""

    def __init__(self, engine: Engine, linked: Mapping[str, LinkedSchema], files: Mapping[str, Path]) -> None:
        self.engine, self.linked = engine, linked
        self.rows = {name: Rows(files[name]) for name in linked if name in files}
        self.prefixes: dict[str, list[int]] = {}

    def write(self, queries: Sequence[tuple[str, str]]) -> Iterator[list[Pair]]:
        """For every `BATCH` of the queries (database, short SQL) the pairs of questions and queries, one at most for a query.

        The same ones every time, wherever it begins. Those of a database should stand together: they share its schema's prefix.
        """
        for start in range(0, len(queries), BATCH):
            yield list(self._understood(self._questions(queries[start : start + BATCH])))

    def _questions(self, queries: Sequence[tuple[str, str]]) -> list[list[Pair]]:
        """For each query what the model asks, without repeats, the most probable first."""
        streams = [
            self.engine.submit(self._ids(name, turned_text(sql)), sampling=CREATIVE, max_tokens=MAX_QUESTION_TOKENS)
            for name, sql in queries
        ]
        asked = []
        for (name, sql), stream in zip(queries, streams, strict=True):
            texts = [c.text.strip() for c in stream.result() if c.finish_reason == "stop"]
            asked.append([self.linked[name].pair(name, text, sql) for text in dict.fromkeys(texts) if is_said(text)])
        return asked

    def _understood(self, asked: Sequence[Sequence[Pair]]) -> Iterator[Pair]:
        """Of each query's questions the one that is understood with the fewest votes; of equals the first."""
        streams = [
            [self.engine.submit(self._ids(p.database, p.prompt), sampling=ANSWERING, max_tokens=MAX_SQL_TOKENS) for p in pairs]
            for pairs in asked
        ]
        for pairs, answers in zip(asked, streams, strict=True):
            texts = [[c.text for c in stream.result()] for stream in answers]
            votes = [self._votes(pair, written) for pair, written in zip(pairs, texts, strict=True)]
            good = [(count, place) for place, count in enumerate(votes) if count]
            if good:
                yield pairs[min(good)[1]]

    def _votes(self, pair: Pair, written: Sequence[str]) -> int:
        """How many of the answers return the rows of the pair's query; 0 where more agree on other rows."""
        wanted = self._key(pair.database, pair.sql)
        if wanted is None:
            return 0
        found: Counter[Hashable] = Counter()
        for text, times in Counter(text.strip() for text in written).items():
            key = wanted if " ".join(text.split()) == pair.sql else self._key(pair.database, text)
            if key is not None:
                found[key] += times
        return found[wanted] if found and found[wanted] == max(found.values()) else 0

    def _key(self, name: str, sql: str) -> Hashable:
        """Equal for equal rows; None for what does not run."""
        schema = self.linked[name].schema
        try:
            rows = self.rows[name].run(expand(mend(sql, schema), schema))
        except SqlglotError:
            return None
        return None if rows is None else result_key(rows)

    def _ids(self, name: str, text: str) -> list[int]:
        """Begin token, schema, and what follows."""
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None and tokenizer.bos_id is not None
        if name not in self.prefixes:
            self.prefixes[name] = [tokenizer.bos_id, *tokenizer.encode(self.linked[name].text())]
        return self.prefixes[name] + tokenizer.encode(text)


def is_said(question: str) -> bool:
    """Whether it is put in words, and not in SQL."""
    return bool(question) and not _COPIED.search(question)
