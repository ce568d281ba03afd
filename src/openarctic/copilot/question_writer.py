"""Questions for queries, written by a model that learned to ask them, and kept where it finds the query back.

A model that was trained both ways (`NanoRecipe.turned_share`) is given the schema and a query, and writes the questions that
people might ask for it (back-translation: Sennrich et al. 2016, arXiv:1511.06709). A question is kept if the same model, asked
it, comes to a query of the same rows: what does not say enough, or something else, is left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlglot.errors import SqlglotError

from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.joins import expand, mend
from openarctic.copilot.prompt import turned_text
from openarctic.copilot.transfer import Rows
from openarctic.copilot.vote import result_key
from openarctic.generator import GREEDY, Sampling

if TYPE_CHECKING:
    from openarctic.engine import Engine

BATCH = 16  # queries asked for at a time
QUESTIONS = 3  # for one query
MAX_QUESTION_TOKENS = 60
MAX_SQL_TOKENS = 120
# SQL that was copied instead of said: a keyword in capitals, a function's name before its bracket.
_COPIED = re.compile(r"\b(SELECT|FROM|WHERE|GROUP BY|ORDER BY|HAVING|COUNT|SUM|AVG|MIN|MAX)\b|\w\(\w+\)|\(\*\)")
CREATIVE = Sampling(temperature=0.8, top_p=0.95, n=QUESTIONS, stop="\n")


class QuestionWriter:
    """Writes for the databases whose schemas and files are given."""

    def __init__(self, engine: Engine, linked: Mapping[str, LinkedSchema], files: Mapping[str, Path]) -> None:
        self.engine, self.linked = engine, linked
        self.rows = {name: Rows(files[name]) for name in linked if name in files}
        self.prefixes: dict[str, list[int]] = {}

    def write(self, queries: Sequence[tuple[str, str]], on_done: Callable[[int], None] = lambda count: None) -> Iterator[Pair]:
        """Pairs of questions and the queries (database, short SQL), one at most for a query, the same ones every time.

        `on_done` hears how many queries are done.
        """
        ordered = sorted(queries)  # those of a database share its schema's prefix
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            yield from self._understood(self._questions(batch))
            on_done(start + len(batch))

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
        """Of each query's questions one that the model answers with the query's rows, drawn by chance."""
        streams = [
            [self.engine.submit(self._ids(p.database, p.prompt), sampling=GREEDY, max_tokens=MAX_SQL_TOKENS) for p in pairs]
            for pairs in asked
        ]
        for pairs, answers in zip(asked, streams, strict=True):
            texts = [stream.result()[0].text for stream in answers]
            good = [pair for pair, text in zip(pairs, texts, strict=True) if self._is_same(pair, text)]
            if good:
                yield random.Random(good[0].sql).choice(good)

    def _is_same(self, pair: Pair, written: str) -> bool:
        """Whether the SQL that was written returns the rows of the pair's."""
        if " ".join(written.split()) == pair.sql:
            return True
        schema = self.linked[pair.database].schema
        try:
            mine, its = (expand(sql, schema) for sql in (pair.sql, mend(written.strip(), schema)))
        except SqlglotError:
            return False
        wanted, found = (self.rows[pair.database].run(sql) for sql in (mine, its))
        return wanted is not None and found is not None and result_key(wanted) == result_key(found)

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
