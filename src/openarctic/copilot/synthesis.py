"""Synthetic question-and-SQL pairs over any schema: more different questions than any small data set holds.

Every pattern draws tables, columns and values from the schema and says the same thing in English and in short SQL.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.prompt import target_text
from openarctic.copilot.schema import Column, Table

PLAIN = re.compile(r"[A-Za-z_]\w*")
AGGREGATES = {
    "MAX": ("maximum", "highest", "largest"),
    "MIN": ("minimum", "lowest", "smallest"),
    "AVG": ("average", "mean"),
    "SUM": ("total", "sum of all"),
}
COMPARISONS = {
    ">": ("greater than", "more than", "above", "over"),
    "<": ("less than", "below", "under"),
    ">=": ("at least", "no less than"),
    "<=": ("at most", "no more than"),
}


def words(name: str) -> str:
    """A name as a person says it: `birthDate` and `birth_date` are `birth date`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ")
    return " ".join(spaced.lower().split())


def plural(noun: str) -> str:
    """Good enough English plurals."""
    if noun.endswith("s"):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "ch", "sh")) else "s")


class Draw:
    """One table of a schema and the random choices of one pair."""

    def __init__(self, linked: LinkedSchema, table: Table, rng: random.Random) -> None:
        self.linked, self.table, self.rng = linked, table, rng
        self.name = table.name.lower()
        keys = {k.column.lower() for k in table.foreign_keys} | {c.lower() for c in table.primary_key}
        self.numbers = [c for c in table.columns if c.is_numeric and c.name.lower() not in keys]
        self.valued = [c for c in table.columns if c.values]
        self.first, self.second = rng.sample(list(table.columns), 2)
        noun = words(table.name)
        self.one, self.many = noun, plural(noun)

    def say(self, *forms: str) -> str:
        """One of the phrasings."""
        return self.rng.choice(forms)

    def value(self) -> tuple[Column, str] | None:
        """A column and one of its stored values that is easy to quote."""
        column = self.rng.choice(self.valued) if self.valued else None
        value = self.rng.choice(column.values) if column else ""
        return (column, value) if column and not re.search(r"[\"'\[\]\n]", value) else None

    def number(self) -> Column | None:
        """A number column that is no key."""
        return self.rng.choice(self.numbers) if self.numbers else None

    def neighbour(self) -> Table | None:
        """A table joined to this one by a foreign key."""
        schema = self.linked.schema
        others = [o for o, _, _ in schema.links(self.table.name) if o != self.name]
        other = schema.table(self.rng.choice(others)) if others else None
        return other if other and all(PLAIN.fullmatch(c.name) for c in other.columns) else None


def _c(column: Column, table: Table | None = None, other: Table | None = None) -> str:
    name = column.name.lower()
    if table and other and other.column(name):
        return f"{table.name.lower()}.{name}"
    return name


Pattern = Callable[[Draw], "tuple[str, str] | None"]


def _count(d: Draw) -> tuple[str, str]:
    return (
        d.say(f"How many {d.many} are there?", f"Count the {d.many}.", f"What is the number of {d.many}?"),
        f"SELECT COUNT(*) FROM {d.name}",
    )


def _list(d: Draw) -> tuple[str, str]:
    a, b = words(d.first.name), words(d.second.name)
    question = d.say(f"What are the {a} and {b} of all {d.many}?", f"Show the {a} and {b} of each {d.one}.")
    return question, f"SELECT {_c(d.first)}, {_c(d.second)} FROM {d.name}"


def _ordered(d: Draw) -> tuple[str, str]:
    a, b = words(d.first.name), words(d.second.name)
    down = d.rng.random() < 0.5
    order = "descending" if down else "ascending"
    question = d.say(
        f"List the {a} of {d.many} in {order} order of {b}.", f"What are the {plural(a)} of the {d.many}, sorted by {b} {order}?"
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} ORDER BY {_c(d.second)}{' DESC' if down else ''}"


def _aggregate(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    function = d.rng.choice(list(AGGREGATES))
    word = d.rng.choice(AGGREGATES[function])
    question = d.say(
        f"What is the {word} {words(column.name)} of all {d.many}?", f"Find the {word} {words(column.name)} of the {d.many}."
    )
    return question, f"SELECT {function}({_c(column)}) FROM {d.name}"


def _most_common(d: Draw) -> tuple[str, str]:
    a = words(d.first.name)
    question = d.say(f"Which {a} is the most common among {d.many}?", f"What is the {a} with the most {d.many}?")
    return question, f"SELECT {_c(d.first)} FROM {d.name} GROUP BY {_c(d.first)} ORDER BY COUNT(*) DESC LIMIT 1"


def _group_count(d: Draw) -> tuple[str, str]:
    a = words(d.first.name)
    question = d.say(
        f"How many {d.many} are there for each {a}?", f"Show each {a} and the number of {d.many}.", f"Count the {d.many} by {a}."
    )
    return question, f"SELECT {_c(d.first)}, COUNT(*) FROM {d.name} GROUP BY {_c(d.first)}"


def _group_aggregate(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None or column.name == d.first.name:
        return None
    function = d.rng.choice(list(AGGREGATES))
    word = d.rng.choice(AGGREGATES[function])
    a = words(d.first.name)
    question = d.say(
        f"What is the {word} {words(column.name)} of {d.many} for each {a}?",
        f"Show the {a} and the {word} {words(column.name)} by {a}.",
    )
    return question, f"SELECT {_c(d.first)}, {function}({_c(column)}) FROM {d.name} GROUP BY {_c(d.first)}"


def _extreme(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    down = d.rng.random() < 0.6
    word = d.rng.choice(("highest", "largest", "greatest") if down else ("lowest", "smallest", "least"))
    many = d.rng.choice((1, 1, 3, 5))
    a = words(d.first.name)
    question = f"What is the {a} of the {d.one} with the {word} {words(column.name)}?"
    if many > 1:
        question = f"What are the {plural(a)} of the {many} {d.many} with the {word} {words(column.name)}?"
    return question, f"SELECT {_c(d.first)} FROM {d.name} ORDER BY {_c(column)}{' DESC' if down else ''} LIMIT {many}"


def _distinct(d: Draw) -> tuple[str, str]:
    a = words(d.first.name)
    if d.rng.random() < 0.5:
        return f"How many different {plural(a)} do the {d.many} have?", f"SELECT COUNT(DISTINCT {_c(d.first)}) FROM {d.name}"
    return f"What are the different {plural(a)} of {d.many}?", f"SELECT DISTINCT {_c(d.first)} FROM {d.name}"


def _equals(d: Draw) -> tuple[str, str] | None:
    found = d.value()
    if found is None:
        return None
    column, value = found
    where, a = words(column.name), words(d.first.name)
    if d.rng.random() < 0.4:
        question = d.say(f"How many {d.many} have {where} {value}?", f"Count the {d.many} whose {where} is {value}.")
        return question, f"SELECT COUNT(*) FROM {d.name} WHERE {_c(column)} = '{value}'"
    question = d.say(
        f"What is the {a} of the {d.one} with {where} {value}?",
        f"Show the {a} of {d.many} whose {where} is {value}.",
        f"Find the {a} for {value}.",
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {_c(column)} = '{value}'"


def _compared(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    operator = d.rng.choice(list(COMPARISONS))
    word = d.rng.choice(COMPARISONS[operator])
    number = d.rng.choice((2, 5, 10, 50, 100, 1000, d.rng.randrange(3000)))
    head, what = (
        (f"How many {d.many} have", "COUNT(*)")
        if d.rng.random() < 0.4
        else (f"What are the {plural(words(d.first.name))} of {d.many} with", _c(d.first))
    )
    return f"{head} {words(column.name)} {word} {number}?", f"SELECT {what} FROM {d.name} WHERE {_c(column)} {operator} {number}"


def _above_average(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    up = d.rng.random() < 0.7
    question = (
        f"Which {plural(words(d.first.name))} of {d.many} have {words(column.name)} {'above' if up else 'below'} the average?"
    )
    return (
        question,
        f"SELECT {_c(d.first)} FROM {d.name} WHERE {_c(column)} {'>' if up else '<'} (SELECT AVG({_c(column)}) FROM {d.name})",
    )


def _having(d: Draw) -> tuple[str, str]:
    a, least = words(d.first.name), d.rng.randrange(2, 6)
    question = d.say(f"Which {plural(a)} have at least {least} {d.many}?", f"Show the {a} shared by at least {least} {d.many}.")
    return question, f"SELECT {_c(d.first)} FROM {d.name} GROUP BY {_c(d.first)} HAVING COUNT(*) >= {least}"


def _join(d: Draw) -> tuple[str, str] | None:
    other = d.neighbour()
    if other is None:
        return None
    theirs = d.rng.choice(other.columns)
    a, b = _c(d.first, d.table, other), _c(theirs, other, d.table)
    noun = words(other.name)
    question = d.say(
        f"Show the {words(d.first.name)} of each {d.one} and the {words(theirs.name)} of its {noun}.",
        f"For every {d.one}, what are its {words(d.first.name)} and the {words(theirs.name)} of the {noun}?",
    )
    return question, f"SELECT {a}, {b} FROM {d.name}, {other.name.lower()}"


def _join_count(d: Draw) -> tuple[str, str] | None:
    other = d.neighbour()
    if other is None:
        return None
    a, many = _c(d.first, d.table, other), plural(words(other.name))
    if d.rng.random() < 0.5:
        question = f"How many {many} does each {d.one} have? Show the {words(d.first.name)} and the count."
        return question, f"SELECT {a}, COUNT(*) FROM {d.name}, {other.name.lower()} GROUP BY {a}"
    question = f"What is the {words(d.first.name)} of the {d.one} with the most {many}?"
    return question, f"SELECT {a} FROM {d.name}, {other.name.lower()} GROUP BY {a} ORDER BY COUNT(*) DESC LIMIT 1"


def _join_value(d: Draw) -> tuple[str, str] | None:
    other = d.neighbour()
    valued = [c for c in other.columns if c.values] if other else []
    if other is None or not valued:
        return None
    column = d.rng.choice(valued)
    value = d.rng.choice(column.values)
    if re.search(r"[\"'\[\]\n]", value):
        return None
    question = d.say(
        f"What are the {plural(words(d.first.name))} of {d.many} whose {words(other.name)} has {words(column.name)} {value}?",
        f"Show the {words(d.first.name)} of {d.many} for the {words(other.name)} {value}.",
    )
    tables = f"{d.name}, {other.name.lower()}"
    return question, f"SELECT {_c(d.first, d.table, other)} FROM {tables} WHERE {_c(column, other, d.table)} = '{value}'"


def _without(d: Draw) -> tuple[str, str] | None:
    for other, mine, its in d.linked.schema.links(d.table.name):
        if d.table.primary_key and mine == d.table.primary_key[0].lower() and other != d.name:
            noun = plural(words(other))
            question = d.say(
                f"What are the {plural(words(d.first.name))} of {d.many} without any {noun}?",
                f"Find the {words(d.first.name)} of {d.many} that have no {noun}.",
            )
            return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE NOT {mine} IN (SELECT {its} FROM {other})"
    return None


PATTERNS: tuple[Pattern, ...] = (
    _count, _list, _ordered, _aggregate, _most_common, _group_count, _group_aggregate, _extreme, _distinct,
    _equals, _equals, _compared, _above_average, _having, _join, _join_count, _join_value, _join_value, _without,
)  # fmt: skip


def synthesise(databases: dict[str, LinkedSchema], count: int, seed: int) -> Iterator[Pair]:
    """`count` pairs over the databases (by name), the same ones for the same seed."""
    rng = random.Random(seed)
    names = sorted(databases)
    made = 0
    while made < count:
        name = rng.choice(names)
        linked = databases[name]
        table = rng.choice(linked.schema.tables)
        if len(table.columns) < 2 or not all(PLAIN.fullmatch(n) for n in (table.name, *(c.name for c in table.columns))):
            continue
        result = rng.choice(PATTERNS)(Draw(linked, table, rng))
        if result:
            question, sql = result
            yield Pair(name, linked.prompt(question), target_text(sql))
            made += 1
