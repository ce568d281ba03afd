"""A grammar for one schema: every text it accepts parses, names only what exists, and takes columns from tables in FROM.

Written in llguidance's Lark dialect for the short SQL of `joins`, letter for letter as sqlglot prints it, so that the model
never has to choose between spellings. A context-free grammar cannot ask whether a column's table is in FROM, but a
finite list of FROM clauses can be unrolled: each table, and each group of tables that keys connect, has rules of its own over
just its columns. The parser follows all of them at once, and what SELECT has named leaves only the FROM clauses that hold it.
Queries over aliases (a table joined with itself) and over subqueries in FROM are outside that list; their scope is checked on
the tree afterwards. Joins of more tables, and groups beyond the limit, cannot be written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice, permutations

from openarctic.copilot.joins import find_bridge, find_join, identifier
from openarctic.copilot.plan import TargetForm
from openarctic.copilot.schema import Column, Schema, Table

MAX_SCOPES = 160
MAX_TABLES = 4

_SHARED = r"""
%llguidance {"no_forcing": true}
start: " " query
set_operator: " UNION " | " UNION ALL " | " INTERSECT " | " EXCEPT "
limit: " LIMIT " /[1-9][0-9]{0,5}/ (" OFFSET " /[0-9]{1,6}/)?
literal: STRING | /-?[0-9]{1,12}(\.[0-9]{1,6})?/ | "NULL"
aliased: TABLE " AS " ALIAS
list: query | literal (", " literal)*
STRING: /'([^'\\\x00-\x1f]|''){0,80}'/
ALIAS: /t[1-9]|[a-d]/
JOIN: " JOIN " | " LEFT JOIN "
COMPARE: " = " | " != " | " > " | " < " | " >= " | " <= "
ARITHMETIC: " + " | " - " | " * " | " / "
CHOSEN: ("COUNT" | "MIN" | "MAX") "("
SUMMED: ("SUM" | "AVG") "("
SCALAR: ("ABS" | "LENGTH" | "LOWER" | "UPPER" | "ROUND") "("
TYPE: " AS " ("INTEGER" | "REAL" | "TEXT") ")"
"""

# The rules of one scope: `@` is its name. COLUMN_@ and from_@ follow; STAR_@ is what may stand for all columns of a table,
# NUMBER_@ those that can be summed.
_SCOPED = r"""
query_@: core_@ (" ORDER BY " key_@ (", " key_@)*)? limit?
core_@: {core}
item_@: "*" | STAR_@ | expression_@ (" AS " ALIAS)?
group_@: " GROUP BY " computed_@ (", " computed_@)* (" HAVING " condition_@)?
key_@: computed_@ (" DESC" | " ASC")?
condition_@: predicate_@ ((" AND " | " OR ") predicate_@)*
predicate_@: "NOT "? (comparison_@ | "EXISTS(" query ")" | "(" condition_@ ")")
comparison_@: expression_@ (COMPARE expression_@ | " BETWEEN " expression_@ " AND " expression_@
     | (" LIKE " | " NOT LIKE ") STRING | " IS NULL" | " IS NOT NULL" | " IN (" list ")")
expression_@: term_@ (ARITHMETIC term_@)*
computed_@: named_@ (ARITHMETIC term_@)*
term_@: named_@ | literal
named_@: COLUMN_@ | call_@ | "(" (query | expression_@) ")"
sum_@: addend_@ (ARITHMETIC addend_@)*
addend_@: NUMBER_@ | call_@ | literal | "(" (query | expression_@) ")"
call_@: CHOSEN ("*" | "DISTINCT "? expression_@) ")" | SUMMED "DISTINCT "? sum_@ ")" | SCALAR expression_@ ")"
     | "SUBSTRING(" expression_@ (", " /[0-9]{1,3}/)~1..2 ")" | "CAST(" expression_@ TYPE
"""

_CORES: dict[TargetForm, str] = {
    "sql": '"SELECT " "DISTINCT "? item_@ (", " item_@)* " FROM " from_@ (" WHERE " condition_@)? group_@?',
    "plan": '"FROM " from_@ (" WHERE " condition_@)? group_@? " SELECT " "DISTINCT "? item_@ (", " item_@)*',
}


def schema_grammar(schema: Schema, form: TargetForm = "sql") -> str:
    """The grammar of every query over `schema`, written in that form, as text for `Engine.generate(grammar=...)`."""
    scoped = _SCOPED.replace("{core}", _CORES[form])
    scopes = _Scopes(schema)
    listed = list(islice(scopes.groups(), MAX_SCOPES))
    aliased, derived = range(len(listed), len(listed) + 2)  # scopes without a list of columns
    names = [str(n) for n in range(derived + 1)]
    columns = _choice(_name(c.name) for t in schema.tables for c in t.columns)
    summable = [_name(c.name) for t in schema.tables for c in t.columns if c.is_summable]
    numbers = _choice(summable) if summable else columns
    tables = _choice(_name(t.name) for t in schema.tables)
    return "\n".join(
        [
            _SHARED,
            f"TABLE: {tables}",
            f"query: {' | '.join(f'query_{n}' for n in names)} | core (set_operator core)+ limit?",
            f"core: {' | '.join(f'core_{n}' for n in names)}",
            *(scoped.replace("@", n) for n in names),
            *(scopes.rules(n, group) for n, group in enumerate(listed)),
            f'from_{aliased}: aliased (", " aliased | JOIN aliased (" ON " condition_{aliased})?)*',
            f'STAR_{aliased}: ALIAS ".*"\nCOLUMN_{aliased}: ALIAS "." {columns}\nNUMBER_{aliased}: ALIAS "." {numbers}',
            f'from_{derived}: "(" query ")" (" AS " ALIAS)?',
            f'STAR_{derived}: ALIAS ".*"\nCOLUMN_{derived}: {columns} | ALIAS ("." {columns})?',
            f"NUMBER_{derived}: COLUMN_{derived}",
            "",
        ]
    )


class _Scopes:
    """The groups of tables that one FROM may list. Names are lower case, in the schema's order."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.names = [t.name.lower() for t in schema.tables]
        self.near = {a: {b for b in self.names if b != a and find_join(schema, [a], b)} for a in self.names}

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Single tables, connected pairs and triples, pairs that only an ON can join, then larger connected groups."""
        groups: list[tuple[str, ...]] = [(name,) for name in self.names]
        yield from groups
        for size in range(2, MAX_TABLES + 1):
            groups = self._grown(groups)
            if size == MAX_TABLES:
                yield from (pair for pair in combinations(self.names, 2) if pair[1] not in self.near[pair[0]])
            yield from groups

    def _grown(self, groups: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
        grown = {frozenset((*g, new)) for g in groups for member in g for new in self.near[member].difference(g)}
        return sorted(tuple(sorted(group, key=self.names.index)) for group in grown)

    def rules(self, number: int, group: Sequence[str]) -> str:
        """The rules over the columns of `group`: a name that two of its tables hold may be written with its table.

        Without it, it means the first table in FROM that holds it (`joins.expand`).
        """
        tables = [t for name in group if (t := self.schema.table(name))]
        holders = Counter(name for t in tables for name in t.column_names)
        spellings = {(t.name, c.name): _spellings(t, c, holders) for t in tables for c in t.columns}
        numbers = [s for t in tables for c in t.columns if c.is_summable for s in spellings[t.name, c.name]]
        columns = [s for all_ways in spellings.values() for s in all_ways]
        return "\n".join(
            [
                f"from_{number}: {' | '.join(self._from(order, number) for order in self._orders(group))}",
                f"STAR_{number}: {_choice(_name(name) + '.*' for name in group)}",
                f"COLUMN_{number}: {_choice(columns)}",
                f"NUMBER_{number}: {_choice(numbers or columns)}",
            ]
        )

    def _orders(self, group: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The orders in which each table joins an earlier one; both orders of a pair."""
        for order in permutations(group):
            if len(order) == 2 or all(self.near[t].intersection(order[:i]) for i, t in enumerate(order) if i):
                yield order

    def _from(self, tables: Sequence[str], number: int) -> str:
        """The tables in this order; two that nothing connects need a condition, for else all their rows would be paired."""
        first, *others = (_text(_name(name)) for name in tables)
        if len(tables) == 2 and tables[1] not in self.near[tables[0]] and not find_bridge(self.schema, tables[:1], tables[1]):
            return f'{first} JOIN {others[0]} " ON " condition_{number}'
        return " ".join([first, *(f'(", " {other} | JOIN {other} (" ON " condition_{number})?)' for other in others)])


def _spellings(table: Table, column: Column, holders: Counter[str]) -> list[str]:
    """The plain name and, where other tables in FROM have it too, the one with its table."""
    name = _name(column.name)
    return [name, f"{_name(table.name)}.{name}"] if holders[column.name.lower()] > 1 else [name]


def _choice(names: Iterable[str]) -> str:
    return f"({' | '.join(sorted(set(map(_text, names))))})"


def _text(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _name(name: str) -> str:
    return identifier(name.lower()).sql(dialect="sqlite")
