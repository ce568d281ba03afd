"""Training pairs from verified questions: the lines that `examples.read_pairs` and `openarctic train sft` read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.merge_subqueries import merge_subqueries
from sqlglot.optimizer.qualify import qualify

from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand, identifier, shorten
from openarctic.copilot.plan import TargetForm
from openarctic.copilot.prompt import target_text
from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic.expressions import read_query
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.model import SemanticModel, VerifiedQuery
from openarctic.errors import OpenArcticError

PairForm = Literal["spider", "sft"]


class PairWriter:
    """Makes lines for one database. `skipped` tells which questions have no line, and why."""

    def __init__(self, schema: Schema, db_id: str, model: SemanticModel | None = None, form: TargetForm = "sql") -> None:
        self.layer = SemanticLayer(model or SemanticModel(name=db_id), schema)
        self.linked = LinkedSchema(self.layer.logical)
        self.db_id, self.form = db_id, form
        self.skipped: list[tuple[str, str]] = []

    def lines(self, queries: Iterable[VerifiedQuery], form: PairForm) -> Iterator[str]:
        """One JSON object a query that the guard passes (and, for `sft`, that the short SQL can say)."""
        for query in queries:
            try:
                record = self._spider(query) if form == "spider" else self._sft(query)
            except (OpenArcticError, SqlglotError) as error:
                self.skipped.append((query.question, str(error).splitlines()[0]))
            else:
                yield json.dumps(record, ensure_ascii=False) + "\n"

    def _spider(self, query: VerifiedQuery) -> dict[str, str]:
        """`question`, `query` in SQLite's dialect, `db_id`: what Spider's files have."""
        return {"question": query.question, "query": self._sql(query), "db_id": self.db_id}

    def _sql(self, query: VerifiedQuery) -> str:
        dialect = self.layer.dialect
        checked = check(self.layer.physical(query.sql).sql(dialect=dialect), dialect, self.layer.base)
        flat = _flat(sqlglot.parse_one(checked.sql, read=dialect), self.layer.base)
        check(flat.sql(dialect=dialect), dialect, self.layer.base)
        return flat.sql(dialect="sqlite")

    def _sft(self, query: VerifiedQuery) -> dict[str, str]:
        """`prompt` as `ask` writes it, and `response`: the short SQL in the names that the prompt shows."""
        tree, logical = read_query(query.sql, self.layer.dialect), self.layer.logical
        for table in tree.find_all(exp.Table):
            found = self.layer.model.table(table.name)
            if found is not None and table.name != found.name:  # `__orders`
                table.set("this", identifier(found.name))
        short = shorten(tree.sql(dialect="sqlite"), logical)
        check(expand(short, logical, self.layer.dialect), self.layer.dialect, logical)
        prompt = self.linked.text() + self.linked.prompt(query.question)
        return {"prompt": prompt, "response": target_text(short, self.form)}


def _flat(tree: exp.Expr, schema: Schema) -> exp.Expr:
    """Without the subqueries that only gave columns their logical names: a model should learn the plain form."""
    if tree.find(exp.Subquery) is None:
        return tree
    mapping: dict[str, object] = {t.name.lower(): {c.name.lower(): "text" for c in t.columns} for t in schema.tables}
    return merge_subqueries(qualify(tree, schema=mapping, dialect=schema.dialect, identify=False, quote_identifiers=False))
