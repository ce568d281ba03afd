"""The columns of a result in the order in which the question names them.

Of Spider's training queries whose columns the question all names, 95 % have them in its order. With groups that holds where the
group is named first ("the classes of races, and how many races each has": class, count); where the number is named first
("how many races each class has"), half of the queries have the group first nevertheless, and the model's order stays. It also
stays where a name is said twice, or not in one piece: then it may be a condition that was named first.
"""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp

from openarctic.copilot.features import Evidence
from openarctic.copilot.joins import short_text

_NUMBER_OF = re.compile(r"\b(?:how many|numbers? of|count of)\b", re.IGNORECASE)


def in_said_order(short_sql: str, evidence: Evidence) -> str:
    """The same SQL, its columns in the order of the question where it plainly names them all. Raises
    sqlglot.errors.SqlglotError for what cannot be parsed."""
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    if not isinstance(tree, exp.Select) or len(tree.expressions) < 2 or _has_ordinals(tree):
        return short_sql
    places = [_place(output, evidence) for output in tree.expressions]
    said = [place for place in places if place is not None]
    if len(set(said)) < len(places) or said == sorted(said):
        return short_sql
    ordered = [output for _, output in sorted(zip(said, tree.expressions, strict=True), key=lambda each: each[0])]
    if isinstance(ordered[0].unalias(), exp.Count):
        return short_sql
    tree.set("expressions", ordered)
    return short_text(tree)


def _has_ordinals(tree: exp.Select) -> bool:
    """Whether GROUP BY or ORDER BY means a column by its number."""
    clauses = (tree.args.get(part) for part in ("group", "order"))
    keys = (key for clause in clauses if clause is not None for key in clause.expressions)
    return any(isinstance(key.this if isinstance(key, exp.Ordered) else key, exp.Literal) for key in keys)


def _place(output: exp.Expr, evidence: Evidence) -> int | None:
    """The word of the question that speaks of it: of a plain column, or of a number of rows; None where none or several do."""
    output = output.unalias()
    if isinstance(output, exp.Count):
        found = list(_NUMBER_OF.finditer(evidence.text))
        return evidence.word_at(found[0].start()) if len(found) == 1 else None
    if isinstance(output, exp.Column) and not isinstance(output.this, exp.Star):
        return evidence.said_once(output.name.lower(), output.table.lower())
    return None
