"""Which names of a statement are tables of the database, each in its own scope.

The guard and the policy both stand on this one reading: a name is a CTE only where that CTE is visible (in what follows it in its
WITH, in the body of that WITH, and in itself when the WITH is recursive); everywhere else it is a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp


@dataclass(slots=True)
class Names:
    """The table nodes of a tree: `tables` of the database, `functions` read as tables, and `ctes` with what refers to each."""

    tables: list[exp.Table] = field(default_factory=list)
    functions: list[exp.Table] = field(default_factory=list)
    ctes: list[tuple[exp.CTE, list[exp.Table]]] = field(default_factory=list)


def read_names(tree: exp.Expr) -> Names:
    """Sort every `exp.Table` below `tree`. Names are compared without regard to case."""
    names = Names()
    _visit(tree, {}, names)
    return names


def with_clause(node: exp.Expr) -> exp.With | None:
    """The WITH that belongs to a node."""
    clause = node.args.get("with_") or node.args.get("with")
    return clause if isinstance(clause, exp.With) else None


def _visit(node: exp.Expr, visible: dict[str, list[exp.Table]], names: Names) -> None:
    clause = with_clause(node)
    if clause is not None:
        for cte in clause.expressions:
            references: list[exp.Table] = []
            names.ctes.append((cte, references))
            following = {**visible, cte.alias.lower(): references}
            _visit(cte.this, following if clause.args.get("recursive") else visible, names)
            visible = following
    if isinstance(node, exp.Table):
        _sort(node, visible, names)
    for child in node.iter_expressions():
        if child is not clause:
            _visit(child, visible, names)


def _sort(node: exp.Table, visible: dict[str, list[exp.Table]], names: Names) -> None:
    if not isinstance(node.this, exp.Identifier):
        names.functions.append(node)
    elif node.name.lower() in visible and not (node.args.get("db") or node.args.get("catalog")):
        visible[node.name.lower()].append(node)
    else:
        names.tables.append(node)
