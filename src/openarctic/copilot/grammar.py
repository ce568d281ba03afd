"""A grammar for one schema: every text it accepts parses, and names only tables and columns that exist.

Written in llguidance's Lark dialect for the short SQL of `joins`, letter for letter as sqlglot prints it, so that the model
never has to choose between spellings. What a context-free grammar cannot hold (is the column's table in FROM?) is
checked on the tree afterwards.
"""

from __future__ import annotations

import json

from openarctic.copilot.joins import identifier
from openarctic.copilot.schema import Schema, Table

_RULES = r"""
start: " " query
query: core (set_operator core)* order? limit?
set_operator: " UNION " | " UNION ALL " | " INTERSECT " | " EXCEPT "
core: "SELECT " "DISTINCT "? item (", " item)* " FROM " from where? (group having?)?
item: "*" | TABLE ".*" | expression (" AS " ALIAS)?
from: source ((", " source) | join)*
join: (" JOIN " | " LEFT JOIN ") source (" ON " condition)?
source: TABLE (" AS " ALIAS)? | "(" query ")" (" AS " ALIAS)?
where: " WHERE " condition
group: " GROUP BY " expression (", " expression)*
having: " HAVING " condition
order: " ORDER BY " key (", " key)*
key: expression (" DESC" | " ASC")?
limit: " LIMIT " /[1-9][0-9]{0,5}/ (" OFFSET " /[0-9]{1,6}/)?
condition: predicate ((" AND " | " OR ") predicate)*
predicate: "NOT "? (comparison | membership | "EXISTS(" query ")" | "(" condition ")")
comparison: expression (operator expression | " BETWEEN " expression " AND " expression | " LIKE " STRING
          | " IS NULL" | " IS NOT NULL")
membership: expression " IN (" (query | literal (", " literal)*) ")"
operator: " = " | " != " | " > " | " < " | " >= " | " <= "
expression: term ((" + " | " - " | " * " | " / ") term)*
term: function | column | literal | "(" query ")" | "(" expression ")"
function: ("COUNT" | "SUM" | "AVG" | "MIN" | "MAX") "(" ("*" | "DISTINCT "? expression) ")"
        | ("ABS" | "LENGTH" | "LOWER" | "UPPER" | "ROUND") "(" expression ")"
        | "SUBSTRING(" expression (", " /[0-9]{1,3}/)~1..2 ")"
        | "CAST(" expression " AS " ("INTEGER" | "REAL" | "TEXT") ")"
literal: STRING | /-?[0-9]{1,12}(\.[0-9]{1,6})?/ | "NULL"
STRING: /'([^'\\\x00-\x1f]|''){0,80}'/
ALIAS: /t[1-9]|[a-d]/
"""


def schema_grammar(schema: Schema) -> str:
    """The grammar of every query over `schema`, as text for `Engine.generate(grammar=...)`."""
    tables = [_name(t.name) for t in schema.tables]
    columns = sorted({_name(c.name) for t in schema.tables for c in t.columns})
    qualified = [f"{json.dumps(_name(t.name) + '.')} {_choice(_own(t))}" for t in schema.tables]
    return "\n".join(
        [
            _RULES.strip(),
            f"TABLE: {_choice(tables)}",
            f"COLUMN: {_choice(columns)}",
            f"column: COLUMN | ALIAS \".\" COLUMN | {' | '.join(f'q{i}' for i in range(len(qualified)))}",
            *(f"q{i}: {rule}" for i, rule in enumerate(qualified)),
            "",
        ]
    )


def _own(table: Table) -> list[str]:
    return [_name(c.name) for c in table.columns]


def _choice(names: list[str]) -> str:
    return "(" + " | ".join(json.dumps(n, ensure_ascii=False) for n in names) + ")"


def _name(name: str) -> str:
    return identifier(name.lower()).sql(dialect="sqlite")
