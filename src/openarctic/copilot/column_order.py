"""The columns of a result in the order in which the question names them.

Of Spider's training queries whose columns the question all names, 95 % have them in its order. With groups that holds where the
group is named first ("the classes of races, and how many races each has": class, count); where the number is named first
("how many races each class has"), half of the queries have the group first nevertheless, and the model's order stays.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from openarctic.copilot.asked import AGGREGATES
from openarctic.copilot.features import Evidence
from openarctic.copilot.joins import short_text


def in_said_order(short_sql: str, evidence: Evidence) -> str:
    """The same SQL, its columns in the order of the question where it plainly names them all. Raises
    sqlglot.errors.SqlglotError for what cannot be parsed."""
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    if not isinstance(tree, exp.Select) or len(tree.expressions) < 2:
        return short_sql
    places = [_place(output, evidence) for output in tree.expressions]
    said = [place for place in places if place is not None]
    if len(set(said)) < len(places) or said == sorted(said):
        return short_sql
    ordered = [output for _, output in sorted(zip(said, tree.expressions, strict=True), key=lambda each: each[0])]
    are_counted = [output.find(exp.AggFunc) is not None for output in ordered]
    if are_counted[0] and not all(are_counted):
        return short_sql
    tree.set("expressions", ordered)
    return short_text(tree)


def _place(output: exp.Expr, evidence: Evidence) -> int | None:
    """The word of the question that first speaks of it; None where its name is not wholly said."""
    output = output.unalias()
    words = next((words for kind, words in AGGREGATES.items() if isinstance(output, kind)), None)
    if words is not None and (match := words.search(evidence.text)):
        return evidence.word_at(match.start())
    column = output.find(exp.Column)
    if column is None or isinstance(output, exp.Count):
        return None
    return evidence.first_said(column.name.lower(), column.table.lower())
