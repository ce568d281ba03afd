"""Follow-ups that compare a number: `older than 30`, `between 50 and 100`, `with more than 3 orders`, `and 5?`."""

from __future__ import annotations

import re
from datetime import date

from sqlglot import exp

from openarctic.copilot.asked import COMPARATORS
from openarctic.copilot.conversation.dates import COMPARED, date_place, keep_within
from openarctic.copilot.conversation.mentions import root
from openarctic.copilot.conversation.query import CannotEdit, Place, Query, key_names
from openarctic.copilot.conversation.said import NUMBER, YEAR, Said, Stage, number_of

_SAYS = {exp.GTE: "at least", exp.LTE: "at most", exp.GT: "above", exp.LT: "below", exp.EQ: "exactly"}


def read_comparisons(said: Said) -> None:
    """Bounds on a column, on the number of each group, or on the number of rows of another table."""
    for pattern, kind in COMPARATORS:
        while match := said.take(rf"\b(?P<how>{pattern})\s+(?P<number>{NUMBER})(?:\s*(?:years|year)(?:\s+old)?\b)?"):
            _comparison(said, match, kind, number_of(match["number"]))


def _comparison(said: Said, match: re.Match[str], kind: type[exp.Binary], number: float | int) -> None:
    after = _noun_after(said, match.end())
    if isinstance(after, str):
        said.change(Stage.FILTER, lambda q: _keep_counted(said, q, after, kind, number))
        return
    place = after or _compared_column(said, match)
    if place is None:
        if not said.query.is_grouped:
            raise CannotEdit("it is not clear what is compared")
        said.change(Stage.FILTER, lambda q: _keep_groups(q, kind, number))
        return
    said.change(Stage.FILTER, lambda q: _compare(said, q, place, kind, number))


def _noun_after(said: Said, position: int) -> Place | str | None:
    """`more than 3 orders` counts rows of a table; `more than 100 dollars` says a unit; `over 5000 salary` names a column."""
    noun = said.noun_after(position, r"\s+(?!\d)")
    if not said.is_free(position, noun.end):
        return None
    places = said.vocabulary.columns(noun.word, said.query)
    column = said.query.described(places[0]) if len(places) == 1 else None
    if noun.table is not None or (column is not None and column.is_numeric):
        said.use(position, noun.end)
        return places[0] if noun.table is None else noun.table.name.lower()
    return None


def _compared_column(said: Said, match: re.Match[str]) -> Place | None:
    """Named before it, told by its adjective, compared in the earlier query, or the only number that is shown."""
    if number := _number_of_table(said, match):
        return number
    if before := said.columns_before(match.start()):
        return before[0]
    word = re.search(r"(?:more|less)\s+(\w+)\s+than|(\w+er)\s+than", match["how"], re.IGNORECASE)
    if word and (places := said.vocabulary.adjective(root(word[1] or word[2]), said.query)):
        return places[0]
    compared = [p for part, p in said.query.filters() if isinstance(part, COMPARED) and p is not None]
    if compared and (said.is_replacing or not said.query.is_grouped):
        return compared[-1]
    try:
        return said.query.only_number() if said.query.is_listing else None
    except CannotEdit:
        return None


def _number_of_table(said: Said, match: re.Match[str]) -> Place | None:
    """`payments over 500`: the only number that a payment has, if it is that table's rows that are read."""
    noun = re.search(r"(\w+)\s+(?:that are\s+|of\s+|with\s+)?$", said.text[: match.start()])
    table = said.vocabulary.table(noun[1]) if noun else None
    if table is None or not said.query.reads(table):
        return None
    numbers = [c for c in table.columns if c.is_numeric and c.name.lower() not in key_names(table) and not c.is_year]
    if len(numbers) != 1:
        return None
    said.explain([table.name])
    return Place.of(table, numbers[0])


def _compare(said: Said, query: Query, place: Place, kind: type[exp.Binary], number: float | int) -> str:
    if place not in said.bounded:  # of "at least 300 and at most 500" both hold
        query.drop_filters(lambda part, p: p == place and _is_bound(part) and (said.is_replacing or not said.is_of_them))
    said.bounded.add(place)
    said.keep(query, place, lambda c: kind(this=c, expression=exp.convert(number)))
    return f"{query.called(place)} {_SAYS[kind]} {number}"


def _is_bound(part: exp.Expr) -> bool:
    """Whether a new bound takes the place of this one: a number in the place of a number."""
    return isinstance(part, (*COMPARED, exp.EQ, exp.Between))


def _keep_groups(query: Query, kind: type[exp.Binary], number: float | int) -> str:
    aggregate = query.aggregates[-1] if query.aggregates else exp.Count(this=exp.Star())
    query.select.having(kind(this=aggregate.copy(), expression=exp.convert(number)), copy=False)
    return f"{aggregate.sql()} {_SAYS[kind]} {number}"


def _keep_counted(said: Said, query: Query, table: str, kind: type[exp.Binary], number: float | int) -> str:
    counts = [a for a in query.aggregates if isinstance(a, exp.Count)]
    if query.is_grouped and counts:
        return _keep_groups(query, kind, number)
    said.settle(query)
    query.keep_related(table, lambda count: kind(this=count, expression=exp.convert(number)))
    return f"with {_SAYS[kind]} {number} {table}"


def read_range(said: Said) -> None:
    """`between 50 and 100`: of a number, or of years."""
    match = said.take(rf"\b(?:between|from)\s+(?P<low>{NUMBER})\s+(?:and|to)\s+(?P<high>{NUMBER})")
    if match is None:
        return
    low, high = number_of(match["low"]), number_of(match["high"])
    is_years = all(re.fullmatch(YEAR, match[k]) for k in ("low", "high"))
    dates = said.vocabulary.dates(said.query) if is_years else []
    if dates:
        place = date_place(said, dates)
        said.change(Stage.FILTER, lambda q: keep_within(said, q, place, date(int(low), 1, 1), date(int(high), 12, 31)))
        return
    before = said.columns_before(match.start())
    compared = [p for part, p in said.query.filters() if isinstance(part, (*COMPARED, exp.Between)) and p is not None]
    place = before[0] if before else compared[-1] if compared else said.query.only_number()

    def apply(query: Query) -> str:
        query.drop_filters(lambda part, p: p == place and _is_bound(part))
        said.keep(query, place, lambda c: exp.Between(this=c, low=exp.convert(low), high=exp.convert(high)))
        return f"{query.called(place)} from {low} to {high}"

    said.change(Stage.FILTER, apply)


def read_bare_number(said: Said) -> None:
    """`and 5?` after a query with one number in its conditions."""
    if said.changes or not said.is_replacing:
        return
    match = said.sees(rf"\b{NUMBER}")
    numbers = _numbers_in(said.query)
    if match is None or len(numbers) != 1:
        return
    said.use(match.start(), match.end())
    new = number_of(match.group())

    def apply(query: Query) -> str:
        (old,) = _numbers_in(query)
        old.replace(exp.convert(new))
        return f"{new} instead of {old.name}"

    said.change(Stage.FILTER, apply)


def _numbers_in(query: Query) -> list[exp.Literal]:
    clauses = [query.select.args.get(k) for k in ("where", "having")]
    return [n for c in clauses if c is not None for n in c.find_all(exp.Literal) if not n.is_string]
