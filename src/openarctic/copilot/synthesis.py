"""Synthetic question-and-SQL pairs over any schema: more different questions than any small data set holds.

Every pattern draws tables, columns and values from the schema and says the same thing in English and in short SQL.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.joins import RESERVED
from openarctic.copilot.schema import Column, Table
from openarctic.copilot.wording import plural, words

PLAIN = re.compile(r"[A-Za-z_]\w*")
AWKWARD = re.compile(r"[\"'\[\]\n]|^\s|\s$")
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


class Draw:
    """One table of a schema and the random choices of one pair."""

    def __init__(self, linked: LinkedSchema, table: Table, rng: random.Random) -> None:
        self.linked, self.table, self.rng = linked, table, rng
        self.name = table.name.lower()
        self.keys = keys = {k.column.lower() for k in table.foreign_keys} | {c.lower() for c in table.primary_key}
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
        return (column, value) if column and not AWKWARD.search(value) else None

    def number(self) -> Column | None:
        """A number column that is no key."""
        return self.rng.choice(self.numbers) if self.numbers else None

    def neighbour(self) -> Table | None:
        """A table joined to this one by a foreign key."""
        schema = self.linked.schema
        others = [o for o, _, _ in schema.links(self.table.name) if o != self.name]
        other = schema.table(self.rng.choice(others)) if others else None
        return other if other and is_plain(other) else None


def _c(column: Column, table: Table | None = None, other: Table | None = None) -> str:
    name = column.name.lower()
    if table and other and other.column(name):
        return f"{table.name.lower()}.{name}"
    return name


def is_plain(table: Table) -> bool:
    """Whether no name of the table needs quotes."""
    return all(PLAIN.fullmatch(n) and n.lower() not in RESERVED for n in (table.name, *(c.name for c in table.columns)))


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
    if AWKWARD.search(value):
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


def _text_column(d: Draw) -> Column | None:
    """A column of words that is no key."""
    texts = [c for c in d.table.columns if not c.is_numeric and c.name.lower() not in d.keys]
    return d.rng.choice(texts) if texts else None


def _another(d: Draw, *taken: Column) -> Column | None:
    others = [c for c in d.table.columns if c not in taken]
    return d.rng.choice(others) if others else None


def _two_values(d: Draw) -> tuple[Column, str, str] | None:
    """A column of the table and two of its stored values that are easy to quote."""
    columns = [(c, [v for v in c.values if not AWKWARD.search(v)]) for c in d.valued]
    columns = [(c, values) for c, values in columns if len(values) >= 2]
    if not columns:
        return None
    column, values = d.rng.choice(columns)
    first, second = d.rng.sample(values, 2)
    return column, first, second


def _both_ends(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    name = words(column.name)
    pairs = [("MIN", "minimum"), ("MAX", "maximum"), ("AVG", "average"), ("SUM", "total")]
    chosen = d.rng.sample(pairs, d.rng.choice((2, 2, 3)))
    spoken = ", ".join(w for _, w in chosen[:-1]) + " and " + chosen[-1][1]
    question = d.say(
        f"What are the {spoken} {name} of all {d.many}?",
        f"Show the {spoken} {name} of the {d.many}.",
        f"Give the {spoken} {name}.",
    )
    return question, f"SELECT {', '.join(f'{f}({_c(column)})' for f, _ in chosen)} FROM {d.name}"


def _between(d: Draw) -> tuple[str, str] | None:
    column = d.number()
    if column is None:
        return None
    low = d.rng.choice((1, 5, 10, 100, 1000, d.rng.randrange(2000)))
    high = low + d.rng.choice((4, 10, 50, 500))
    a = words(d.first.name)
    question = d.say(
        f"What are the {plural(a)} of {d.many} with {words(column.name)} between {low} and {high}?",
        f"Find the {a} of every {d.one} whose {words(column.name)} is between {low} and {high}.",
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {_c(column)} BETWEEN {low} AND {high}"


def _like(d: Draw) -> tuple[str, str] | None:
    column = _text_column(d)
    if column is None:
        return None
    name, a = words(column.name), words(d.first.name)
    part = d.rng.choice("ABCDEFGHJKLMNPRSTW")
    kind = d.rng.randrange(3)
    if kind == 0:
        said, pattern = d.say(f"starts with {part}", f"begins with the letter {part}", f"starting with '{part}'"), f"{part}%"
    elif kind == 1:
        part = part.lower()
        said, pattern = d.say(f"ends with {part}", f"ends in the letter '{part}'"), f"%{part}"
    else:
        part = d.rng.choice(("son", "an", "er", "ing", "East", "New", "Mar", "in", "data", "art"))
        said, pattern = d.say(f"contains '{part}'", f"contains the word {part}", f'includes the substring "{part}"'), f"%{part}%"
    negated = d.rng.random() < 0.15
    said = said.replace("contains", "does not contain").replace("starts", "does not start") if negated else said
    negated = negated and " not " in said
    condition = f"{_c(column)} {'NOT LIKE' if negated else 'LIKE'} '{pattern}'"
    if d.rng.random() < 0.3:
        return f"How many {d.many} have a {name} that {said}?", f"SELECT COUNT(*) FROM {d.name} WHERE {condition}"
    question = d.say(
        f"What are the {plural(a)} of {d.many} whose {name} {said}?", f"Show the {a} of each {d.one} whose {name} {said}."
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {condition}"


def _not_equal(d: Draw) -> tuple[str, str] | None:
    found = d.value()
    if found is None:
        return None
    column, value = found
    a, where = words(d.first.name), words(column.name)
    question = d.say(
        f"What are the {plural(a)} of {d.many} whose {where} is not {value}?",
        f"List the {a} of all {d.many} except those with {where} {value}.",
        f"Which {plural(a)} belong to {d.many} that do not have the {where} {value}?",
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {_c(column)} != '{value}'"


def _either(d: Draw) -> tuple[str, str] | None:
    found = _two_values(d)
    if found is None:
        return None
    column, one, two = found
    a, where = words(d.first.name), words(column.name)
    condition = f"{_c(column)} = '{one}' OR {_c(column)} = '{two}'"
    if d.rng.random() < 0.3:
        return f"How many {d.many} have {where} {one} or {two}?", f"SELECT COUNT(*) FROM {d.name} WHERE {condition}"
    question = d.say(
        f"What are the {plural(a)} of {d.many} whose {where} is {one} or {two}?",
        f"Show the {a} of {d.many} with {where} either {one} or {two}.",
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {condition}"


def _value_and_number(d: Draw) -> tuple[str, str] | None:
    found, number = d.value(), d.number()
    if found is None or number is None or found[0] == number:
        return None
    column, value = found
    operator = d.rng.choice(list(COMPARISONS))
    word, limit = d.rng.choice(COMPARISONS[operator]), d.rng.choice((1, 3, 10, 20, 100, 500))
    condition = f"{_c(column)} = '{value}' AND {_c(number)} {operator} {limit}"
    a = words(d.first.name)
    question = d.say(
        f"What are the {plural(a)} of {d.many} with {words(column.name)} {value} and {words(number.name)} {word} {limit}?",
        f"Find the {a} of {d.many} whose {words(column.name)} is {value} and whose {words(number.name)} is {word} {limit}.",
    )
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {condition}"


def _aggregate_where(d: Draw) -> tuple[str, str] | None:
    found, number = d.value(), d.number()
    if found is None or number is None or found[0] == number:
        return None
    column, value = found
    function = d.rng.choice(list(AGGREGATES))
    word = d.rng.choice(AGGREGATES[function])
    question = d.say(
        f"What is the {word} {words(number.name)} of {d.many} whose {words(column.name)} is {value}?",
        f"Find the {word} {words(number.name)} for the {words(column.name)} {value}.",
    )
    return question, f"SELECT {function}({_c(number)}) FROM {d.name} WHERE {_c(column)} = '{value}'"


def _shared(d: Draw) -> tuple[str, str] | None:
    """Values that rows of two kinds have in common (INTERSECT), or only the first kind has (EXCEPT)."""
    found = _two_values(d)
    other = _another(d, found[0]) if found else None
    if found is None or other is None:
        return None
    column, one, two = found
    a, where = words(other.name), words(column.name)
    if d.rng.random() < 0.5:
        operator = "INTERSECT"
        question = d.say(
            f"Which {plural(a)} are shared by {d.many} with {where} {one} and {d.many} with {where} {two}?",
            f"What are the {plural(a)} that have both {d.many} with {where} {one} and {d.many} with {where} {two}?",
        )
    else:
        operator = "EXCEPT"
        question = d.say(
            f"Which {plural(a)} have {d.many} with {where} {one} but none with {where} {two}?",
            f"What are the {plural(a)} of {d.many} with {where} {one} that do not have any {d.many} with {where} {two}?",
        )
    select = f"SELECT {_c(other)} FROM {d.name} WHERE {_c(column)} ="
    return question, f"{select} '{one}' {operator} {select} '{two}'"


def _grouped_order(d: Draw) -> tuple[str, str]:
    a = words(d.first.name)
    down = d.rng.random() < 0.6
    if d.rng.random() < 0.5:
        question = d.say(
            f"List each {a} and its number of {d.many}, sorted by that number in {'descending' if down else 'ascending'} order.",
            f"How many {d.many} are there per {a}? Order by the count from {'high to low' if down else 'low to high'}.",
        )
        order = " DESC" if down else ""
        return question, f"SELECT {_c(d.first)}, COUNT(*) FROM {d.name} GROUP BY {_c(d.first)} ORDER BY COUNT(*){order}"
    count = d.rng.choice((1, 3, 3, 5))
    least = "fewest" if not down else "most"
    question = (
        f"What are the {count} {plural(a)} with the {least} {d.many}?" if count > 1 else f"Which {a} has the {least} {d.many}?"
    )
    order = " DESC" if down else " ASC"
    return question, f"SELECT {_c(d.first)} FROM {d.name} GROUP BY {_c(d.first)} ORDER BY COUNT(*){order} LIMIT {count}"


def _whole_extreme(d: Draw) -> tuple[str, str] | None:
    """Several columns of the row with the largest or smallest number, or of all rows in its order."""
    column, third = d.number(), _another(d, d.first, d.second)
    if column is None or column in (d.first, d.second):
        return None
    chosen = [d.first, d.second, *([third] if third and d.rng.random() < 0.3 and third != column else [])]
    spoken = ", ".join(words(c.name) for c in chosen[:-1]) + " and " + words(chosen[-1].name)
    down = d.rng.random() < 0.6
    select = f"SELECT {', '.join(_c(c) for c in chosen)} FROM {d.name} ORDER BY {_c(column)}{' DESC' if down else ''}"
    if d.rng.random() < 0.5:
        word = d.rng.choice(("highest", "largest", "most") if down else ("lowest", "smallest", "least"))
        return f"Show the {spoken} of the {d.one} with the {word} {words(column.name)}.", f"{select} LIMIT 1"
    order = "descending" if down else "ascending"
    return f"What are the {spoken} of the {d.many} in {order} order of {words(column.name)}?", select


def _join_parts(d: Draw) -> tuple[Table, str, str] | None:
    """A neighbour, the FROM clause over both, and how it is called."""
    other = d.neighbour()
    return (other, f"{d.name}, {other.name.lower()}", words(other.name)) if other else None


def _join_extreme(d: Draw) -> tuple[str, str] | None:
    parts = _join_parts(d)
    if parts is None:
        return None
    other, tables, noun = parts
    numbers = [c for c in other.columns if c.is_numeric and not c.name.lower().endswith(("id", "code"))]
    if not numbers:
        return None
    column = d.rng.choice(numbers)
    down = d.rng.random() < 0.6
    word = d.rng.choice(("highest", "largest") if down else ("lowest", "smallest"))
    a = words(d.first.name)
    question = d.say(
        f"What is the {a} of the {d.one} whose {noun} has the {word} {words(column.name)}?",
        f"Find the {a} of the {d.one} with the {word} {words(column.name)} of its {noun}.",
    )
    selected = _c(d.first, d.table, other)
    return question, f"SELECT {selected} FROM {tables} ORDER BY {_c(column, other, d.table)}{' DESC' if down else ''} LIMIT 1"


def _join_group(d: Draw) -> tuple[str, str] | None:
    """A count or an aggregate of the neighbour's rows for each row of this table."""
    parts = _join_parts(d)
    if parts is None:
        return None
    other, tables, noun = parts
    a = _c(d.first, d.table, other)
    least = d.rng.randrange(2, 5)
    numbers = [c for c in other.columns if c.is_numeric and not c.name.lower().endswith(("id", "code"))]
    kind = d.rng.randrange(3)
    if kind == 0:
        question = d.say(
            f"What are the {plural(words(d.first.name))} of {d.many} with at least {least} {plural(noun)}?",
            f"Which {d.many} have {least} or more {plural(noun)}? Give their {words(d.first.name)}.",
        )
        return question, f"SELECT {a} FROM {tables} GROUP BY {a} HAVING COUNT(*) >= {least}"
    if kind == 1 or not numbers:
        question = d.say(
            f"How many {plural(noun)} are there for each {d.one}? List the {words(d.first.name)} and the number.",
            f"Show the {words(d.first.name)} of each {d.one} and the number of its {plural(noun)}.",
        )
        return question, f"SELECT {a}, COUNT(*) FROM {tables} GROUP BY {a}"
    column = d.rng.choice(numbers)
    function = d.rng.choice(list(AGGREGATES))
    word = d.rng.choice(AGGREGATES[function])
    question = f"For each {d.one}, show the {words(d.first.name)} and the {word} {words(column.name)} of its {plural(noun)}."
    return question, f"SELECT {a}, {function}({_c(column, other, d.table)}) FROM {tables} GROUP BY {a}"


def _join_value_count(d: Draw) -> tuple[str, str] | None:
    """Rows of this table counted, or a number of theirs aggregated, for a value of the neighbour."""
    parts = _join_parts(d)
    if parts is None:
        return None
    other, tables, noun = parts
    values = [(c, v) for c in other.columns for v in c.values[:200] if not AWKWARD.search(v)]
    if not values:
        return None
    column, value = d.rng.choice(values)
    where = f"WHERE {_c(column, other, d.table)} = '{value}'"
    number = d.number()
    if number is None or d.rng.random() < 0.5:
        question = d.say(
            f"How many {d.many} are there for the {noun} with {words(column.name)} {value}?",
            f"Count the {d.many} of the {noun} {value}.",
            f"How many {d.many} does the {noun} {value} have?",
        )
        return question, f"SELECT COUNT(*) FROM {tables} {where}"
    function = d.rng.choice(list(AGGREGATES))
    word = d.rng.choice(AGGREGATES[function])
    question = f"What is the {word} {words(number.name)} of {d.many} for the {noun} {value}?"
    return question, f"SELECT {function}({_c(number, d.table, other)}) FROM {tables} {where}"


def _bridge(d: Draw) -> tuple[str, str] | None:
    """This table, one that links it, and the one beyond."""
    middle = d.neighbour()
    if middle is None:
        return None
    schema = d.linked.schema
    beyond = sorted({o for o, _, _ in schema.links(middle.name)} - {d.name, middle.name.lower()})
    far = schema.table(d.rng.choice(beyond)) if beyond else None
    if far is None or not is_plain(far):
        return None
    values = [(c, v) for c in far.columns for v in c.values[:200] if not AWKWARD.search(v)]
    if not values:
        return None
    column, value = d.rng.choice(values)

    def name(c: Column, table: Table) -> str:
        low = c.name.lower()
        return f"{table.name.lower()}.{low}" if sum(low in t.column_names for t in (d.table, middle, far)) > 1 else low

    noun, a = words(far.name), words(d.first.name)
    question = d.say(
        f"What are the {plural(a)} of {d.many} that have the {noun} {value}?",
        f"Show the {a} of {d.many} whose {noun} has {words(column.name)} {value}.",
        f"Find the {a} of every {d.one} with a {noun} whose {words(column.name)} is {value}.",
    )
    tables = f"{d.name}, {middle.name.lower()}, {far.name.lower()}"
    return question, f"SELECT {name(d.first, d.table)} FROM {tables} WHERE {name(column, far)} = '{value}'"


def _without_value(d: Draw) -> tuple[str, str] | None:
    """Rows of this table that no row of the neighbour with a value belongs to."""
    schema = d.linked.schema
    for other, mine, its in schema.links(d.table.name):
        table = schema.table(other)
        if not (d.table.primary_key and mine == d.table.primary_key[0].lower() and other != d.name and table):
            continue
        values = [(c, v) for c in table.columns for v in c.values[:200] if not AWKWARD.search(v)]
        if not values:
            continue
        column, value = d.rng.choice(values)
        a, noun = words(d.first.name), plural(words(other))
        question = d.say(
            f"What are the {plural(a)} of {d.many} that have no {noun} with {words(column.name)} {value}?",
            f"Find the {a} of {d.many} without {noun} whose {words(column.name)} is {value}.",
        )
        nested = f"SELECT {its} FROM {other} WHERE {column.name.lower()} = '{value}'"
        return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE NOT {mine} IN ({nested})"
    return None


def _count_without(d: Draw) -> tuple[str, str] | None:
    for other, mine, its in d.linked.schema.links(d.table.name):
        if d.table.primary_key and mine == d.table.primary_key[0].lower() and other != d.name:
            noun = plural(words(other))
            question = d.say(f"How many {d.many} do not have any {noun}?", f"Count the {d.many} without {noun}.")
            return question, f"SELECT COUNT(*) FROM {d.name} WHERE NOT {mine} IN (SELECT {its} FROM {other})"
    return None


def _compared_to_group(d: Draw) -> tuple[str, str] | None:
    """Larger than the largest, or smaller than the smallest, of the rows with a value."""
    found, number = d.value(), d.number()
    if found is None or number is None or found[0] == number:
        return None
    column, value = found
    up = d.rng.random() < 0.6
    a = words(d.first.name)
    every = d.rng.random() < 0.5
    function = ("MAX" if up else "MIN") if every else ("MIN" if up else "MAX")
    question = (
        f"What are the {plural(a)} of {d.many} whose {words(number.name)} is {'larger' if up else 'smaller'} than that of "
        f"{'every' if every else 'any'} {d.one} with {words(column.name)} {value}?"
    )
    nested = f"SELECT {function}({_c(number)}) FROM {d.name} WHERE {_c(column)} = '{value}'"
    return question, f"SELECT {_c(d.first)} FROM {d.name} WHERE {_c(number)} {'>' if up else '<'} ({nested})"


PATTERNS: tuple[Pattern, ...] = (
    _count, _list, _ordered, _aggregate, _most_common, _group_count, _group_aggregate, _extreme, _distinct,
    _equals, _equals, _compared, _above_average, _having, _join, _join_count, _join_value, _join_value, _without,
    _both_ends, _between, _like, _like, _not_equal, _either, _value_and_number, _aggregate_where, _shared, _shared,
    _grouped_order, _whole_extreme, _join_extreme, _join_group, _join_group, _join_value_count, _join_value_count,
    _bridge, _bridge, _without_value, _count_without, _compared_to_group,
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
        if len(table.columns) < 2 or not is_plain(table):
            continue
        result = rng.choice(PATTERNS)(Draw(linked, table, rng))
        if result:
            question, sql = result
            yield linked.pair(name, question, sql)
            made += 1
