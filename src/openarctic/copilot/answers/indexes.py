"""Indexes that a query would use if they were there. This is advice: nothing is ever created."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sqlglot import exp

from openarctic.copilot.answers.execution_plan import PlanStep
from openarctic.copilot.answers.phrases import conjuncts
from openarctic.copilot.joins import identifier
from openarctic.copilot.schema import Schema

WORTHWHILE_ROWS = 1000
DIALECTS = ("sqlite", "postgres")
_MADE_FOR_THIS = re.compile(r"look up (?P<table>\S+) by (?P<columns>.*), with an index made for this query alone")


def missing_indexes(tree: exp.Expr, steps: Sequence[PlanStep], schema: Schema) -> list[str]:
    """One line an index: for tables of `WORTHWHILE_ROWS` or more that are read whole although a column is compared with a value,
    and for those that SQLite indexes anew for each run."""
    if schema.dialect not in DIALECTS:
        return []
    names = {t.alias_or_name.lower(): t.name for t in tree.find_all(exp.Table)}
    found: dict[tuple[str, str], str] = {}
    for step in steps:
        name = names.get(step.table.lower(), step.table)
        table = schema.table(name)
        size = 0 if table is None else table.row_count or table.row_estimate or 0
        if table is None or table.is_view or size < WORTHWHILE_ROWS:
            continue
        if made := _MADE_FOR_THIS.match(step.text):
            for column in re.split(r" AND ", made["columns"]):
                found[table.name, column.strip()] = "an index is made for it at every run"
        elif step.kind == "scan":
            for column in _compared(tree, step.table.lower(), schema):
                if not table.primary_key or column.lower() != table.primary_key[0].lower():
                    found[table.name, column] = f"{size:,} rows are read to find those with the right {column}"
    return [f"CREATE INDEX ON {_name(table)} ({_name(column)}): {why}" for (table, column), why in found.items()]


def _name(name: str) -> str:
    return identifier(name).sql()


def _compared(tree: exp.Expr, alias: str, schema: Schema) -> Iterator[str]:
    """Columns of a table that must equal a value or lie in a range or list."""
    for where in tree.find_all(exp.Where):
        for condition in conjuncts(where.this):
            column = condition.this
            is_comparison = isinstance(condition, exp.EQ | exp.In | exp.GT | exp.GTE | exp.LT | exp.LTE | exp.Between)
            if not is_comparison or not isinstance(column, exp.Column) or condition.args.get("query"):
                continue
            is_value = not isinstance(condition.args.get("expression"), exp.Column)
            if is_value and (column.table.lower() == alias or (not column.table and _is_only(where, column, alias, schema))):
                yield column.name


def _is_only(where: exp.Where, column: exp.Column, alias: str, schema: Schema) -> bool:
    """Whether a plain column is of that table."""
    select = where.find_ancestor(exp.Select)
    for table in select.find_all(exp.Table) if select is not None else []:
        known = schema.table(table.name)
        if table.alias_or_name.lower() == alias and known is not None and known.column(column.name):
            return True
    return False
