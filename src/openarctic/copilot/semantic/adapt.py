"""A verified query for other values: changed only where the change can be proved to be the one that the question makes.

The two questions differ in nothing but values (`verified.Change`). A text may change where the SQL compares it, to the letter,
with the very column that holds both the old and the new one, wherever it occurs. A number may change where the SQL has it exactly
once, as a LIMIT or in a comparison with something that is no number. Where the old value hides in another text, in a name or in a
number computed from it, nothing is changed and nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from openarctic.copilot.schema import Schema
from openarctic.copilot.semantic.verified import Change
from openarctic.copilot.semantic.words import find_words, normal_words

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def adapted(tree: exp.Query, changes: Sequence[Change], schema: Schema) -> exp.Query | None:
    """The query (over base tables) with the new values, or None where that cannot be proved right."""
    olds = [change.old for change in changes]
    if len(set(olds)) < len(olds):
        return None
    origins = _origins(tree, schema)
    if origins is None:
        return None
    replaced: list[tuple[exp.Literal, exp.Expr]] = []
    for change in changes:
        found = _texts(tree, change, origins) if change.places else _number(tree, change)
        if not found or _is_hidden(tree, change, found):
            return None
        replaced += [(literal, _like(literal, change.new)) for literal in found]
    pairs = {id(old): new for old, new in replaced}
    copy = tree.copy()
    for old, new in zip(tree.find_all(exp.Literal), list(copy.find_all(exp.Literal)), strict=True):
        if id(old) in pairs:
            new.replace(pairs[id(old)])
    return copy


def _like(literal: exp.Literal, text: str) -> exp.Expr:
    return exp.Literal.string(text) if literal.is_string else exp.Literal.number(text)


def _texts(tree: exp.Expr, change: Change, origins: Sequence[tuple[str, str] | None]) -> list[exp.Literal]:
    """Every literal that is the old text, if all of them are compared with the right column; else none."""
    found = []
    for literal, origin in zip(tree.find_all(exp.Literal), origins, strict=True):
        if literal.is_string and literal.name == change.old:
            if origin is None or origin not in change.places:
                return []
            found.append(literal)
    return found


def _number(tree: exp.Expr, change: Change) -> list[exp.Literal]:
    """The one literal that is the old number, where it is a limit or compared."""
    same = [literal for literal in tree.find_all(exp.Literal) if literal.name == change.old]
    if len(same) != 1:
        return []
    parent = same[0].parent
    is_limit = isinstance(parent, exp.Limit) and "." not in change.new
    if isinstance(parent, _COMPARISONS):
        other = parent.expression if parent.this is same[0] else parent.this
        is_computed = other.find(exp.Literal, exp.Null) is not None and not _is_year(other)
        return [] if isinstance(other, exp.Literal) or is_computed else same
    return same if is_limit else []


def _is_year(other: exp.Expr) -> bool:
    """strftime('%Y', d) and the like: the text in it is a form, not a value."""
    return all("%" in literal.name or literal.name.lower() == "year" for literal in other.find_all(exp.Literal))


def _is_hidden(tree: exp.Expr, change: Change, found: Iterable[exp.Literal]) -> bool:
    """Whether the old value is part of another literal or of a name that the query gives."""
    part = normal_words(change.old)
    known = {id(literal) for literal in found}
    for node in tree.find_all(exp.Literal, exp.Identifier):
        if id(node) in known:
            continue
        is_given_name = isinstance(node, exp.Identifier) and isinstance(node.parent, exp.Alias | exp.TableAlias)
        if isinstance(node, exp.Literal) or is_given_name:
            words = normal_words(node.name.replace("_", " ").replace("%", " "))
            if any(True for _ in find_words(words, part)) or change.old.lower() in node.name.lower():
                return True
    return False


def _origins(tree: exp.Query, schema: Schema) -> list[tuple[str, str] | None] | None:
    """For each literal, in the order of the tree, the base column that it is compared with; None where scopes are not clear."""
    copy = tree.copy()
    literals = list(copy.find_all(exp.Literal))
    mapping: dict[str, object] = {t.name.lower(): {c.name.lower(): "text" for c in t.columns} for t in schema.tables}
    try:
        qualify(copy, schema=mapping, dialect=schema.dialect, expand_stars=False, identify=False, quote_identifiers=False)
        scopes = {id(column): scope for scope in traverse_scope(copy) for column in scope.columns}
    except (SqlglotError, RecursionError):
        return None
    return [_compared(literal, scopes) for literal in literals]


def _compared(literal: exp.Literal, scopes: dict[int, Scope]) -> tuple[str, str] | None:
    parent = literal.parent
    if isinstance(parent, exp.EQ | exp.NEQ):
        other = parent.expression if parent.this is literal else parent.this
    elif isinstance(parent, exp.In) and parent.this is not literal:
        other = parent.this
    else:
        return None
    return _base_column(other, scopes.get(id(other))) if isinstance(other, exp.Column) else None


def _base_column(column: exp.Column, scope: Scope | None) -> tuple[str, str] | None:
    """(table, column) that a column is, through subqueries and CTEs that only pass it on."""
    if scope is None:
        return None
    source = scope.sources.get(column.table)
    if isinstance(source, exp.Table):
        return source.name.lower(), column.name.lower()
    if not isinstance(source, Scope) or not isinstance(source.expression, exp.Select):
        return None
    for shown in source.expression.selects:
        if shown.alias_or_name.lower() == column.name.lower():
            inner = shown.this if isinstance(shown, exp.Alias) else shown
            return _base_column(inner, source) if isinstance(inner, exp.Column) else None
    return None
