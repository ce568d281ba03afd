"""Every column of a query with the table that it belongs to."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.errors import OptimizeError
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from openarctic.copilot.schema import Schema
from openarctic.copilot.spelling import FOLDING


def qualified(query: exp.Query, schema: Schema, expand_stars: bool = False) -> exp.Query:
    """A copy with every name quoted and every column qualified; with stars written out if wanted.

    Raises SqlglotError for a column that no table in scope has.
    """
    # sqlglot lowers names of engines that ignore case, and folds those of the others as they do.
    is_cased = schema.dialect in FOLDING
    named = {node.name.lower() for node in query.find_all(exp.Table)}
    tables: dict[str, object] = {
        (t.name if is_cased else t.name.lower()): {(c.name if is_cased else c.name.lower()): "text" for c in t.columns}
        for t in schema.tables
        if t.name.lower() in named
    }
    known = MappingSchema(tables, dialect=schema.dialect, normalize=False)
    try:
        result = qualify(query.copy(), schema=known, dialect=schema.dialect, expand_stars=expand_stars, identify=True)
    except AssertionError as error:  # sqlglot's own doubts
        raise OptimizeError("this cannot be followed") from error
    assert isinstance(result, exp.Query)
    return result
