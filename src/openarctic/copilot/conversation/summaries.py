"""Follow-ups that sum rows up: how many there are, one number about them, or one for each group."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp

from openarctic.copilot.conversation.dates import date_part
from openarctic.copilot.conversation.query import CannotEdit, Place, Query, in_words
from openarctic.copilot.conversation.said import Said, Stage
from openarctic.copilot.joins import identifier
from openarctic.copilot.wording import listed

AGGREGATES: dict[str, type[exp.AggFunc]] = {
    "average": exp.Avg, "mean": exp.Avg, "avg": exp.Avg, "total": exp.Sum, "sum": exp.Sum, "minimum": exp.Min, "min": exp.Min,
    "maximum": exp.Max, "max": exp.Max, "median": exp.Median,
    "lowest": exp.Min, "smallest": exp.Min, "highest": exp.Max, "largest": exp.Max, "biggest": exp.Max, "greatest": exp.Max,
}  # fmt: skip
_SAID = {exp.Avg: "average", exp.Sum: "total", exp.Min: "lowest", exp.Max: "highest", exp.Median: "median"}


# how many


def read_count(said: Said) -> None:
    """`how many are there?`, `how many different cities?`, `how many orders did they place?`"""
    other = said.take_other_table(
        r"\bhow many\s+(?P<noun>\w+)\s+(?:do|did|does|have|has|had|were|are)\s+(?:they|he|she|it|those|these)\b"
    )
    if other is not None:
        said.change(Stage.COUNT, lambda q: _count_related(q, other.name.lower()))
        return
    rest = (
        r"(?:\s+(?:of (?:them|those|these|the \w+)|are (?:there|they|those|these|that)|is (?:that|it|this)|was (?:that|it)|were "
        r"there|there are|there|in total|in all|altogether))*"
    )
    match = said.take(rf"\bhow many(?:\s+(?P<kind>different|distinct|unique|rows|results|entries|records))?{rest}")
    match = match or said.take(
        r"\bcount (?:them|those|these|it|the rows)\b|\b(?:the )?(?:number|count) of (?:them|those|these|rows)\b|"
        r"^\W*(?:the\s+)?count\W*$"
    )
    if match is None:
        return
    said.take(r"\b(?:in total|in all|altogether)\b")
    if (match.groupdict().get("kind") or "").lower() in ("different", "distinct", "unique"):
        places = said.columns_after(match.end())
        if not places:
            raise CannotEdit("it is not clear what is counted")
        said.change(Stage.COUNT, lambda q: _count(q, places[0]))
    elif _is_for_each(said, match.end()) and said.query.is_grouped:
        said.change(Stage.AGGREGATE, _count_each)
    else:
        said.change(Stage.COUNT, lambda q: _count(q, None))


def _count_related(query: Query, table: str) -> str:
    """The rows of a table that belong to those before, all together."""
    query.count_related(table)
    return f"their {table} counted"


def _is_for_each(said: Said, position: int) -> bool:
    """`how many customers?` counts what the query reads, `how many customers is that?` the rows that were asked for. Raises
    CannotEdit for another table: it is a new question."""
    table = said.noun_after(position, r"\s+").table
    if table is None:
        return False
    if not said.query.reads(table):
        raise CannotEdit("it counts something else")
    said.explain([table.name])
    return said.take(r"\b(?:is that|is it|was that|was it)\b") is None and not said.is_of_them


def _count_each(query: Query) -> str:
    query.show_for_each(exp.Count(this=exp.Star()), is_more=False)
    return "the number of rows for each"


def _count(query: Query, distinct: Place | None) -> str:
    if query.aggregates and not query.is_grouped and distinct is None:
        if not isinstance(query.aggregates[0], exp.Count):
            query.select.set("expressions", [exp.Count(this=exp.Star())])
        return "counted"
    query.count(distinct)
    return "counted" if distinct is None else f"different {distinct.column} counted"


# numbers about the rows


def read_aggregate(said: Said) -> None:
    """`the average price`, `and the maximum?`, `add them up`."""
    words = "|".join(w for w in AGGREGATES if not w.endswith("est"))
    match = said.take(
        rf"\b(?:the\s+|their\s+|an?\s+)?(?P<word>{words})(?:\s+(?:number|amount|value)(?!\w))?(?:\s+of(?:\s+(?:them|"
        rf"those|that|these))?)?\b"
    )
    if match is not None:
        read_number_of(said, AGGREGATES[match["word"].lower()], match.end())
        return
    match = said.take(r"\b(?:add (?:them|it|those) (?:all )?up|sum (?:them|it|those)(?: all)?(?: up)?)\b")
    if match is not None:
        read_number_of(said, exp.Sum, match.end())


def read_number_of(said: Said, function: type[exp.AggFunc], position: int) -> None:
    """Of the column that is named around that position, else of what is shown."""
    places = said.columns_after(position) or said.columns_before(position)
    if len(places) > 1:
        raise CannotEdit("one column is needed")
    noun = said.noun_after(position, r"\s+(?:number of\s+)?")
    if not places and noun.table is not None and said.is_free(position, noun.end):
        if not said.query.aggregates:
            raise CannotEdit("it counts something else")
        said.use(position, noun.end)
    place = places[0] if places else None
    said.take(r"\b(?:overall|altogether|in total|in all|of all(?: of)?(?: (?:them|those))?|across (?:them )?all)\b")
    said.change(Stage.AGGREGATE, lambda q: show_number(said, q, function, place))


def show_number(said: Said, query: Query, function: type[exp.AggFunc], place: Place | None) -> str:
    """Instead of another number, for each group, or one of all rows."""
    told = f"the {_SAID[function]} {place.column if place else 'of it'}"
    if query.aggregates and not query.is_grouped:
        _swap_aggregate(query, function, place)
        return told
    if query.is_grouped and place is not None and place.table and query.distance(place.table) is not None:
        query.show_for_each(function(this=query.column(place)), is_more=said.is_widening)
        return f"{told} for each"
    if not query.is_grouped and place is not None and place.table and said.query.limit is not None and not said.is_replacing:
        query.settle()
    query.aggregate(function, place)
    return told


def _swap_aggregate(query: Query, function: type[exp.AggFunc], place: Place | None) -> None:
    """Another number about the same rows: another function, or of another column."""
    old = query.aggregates[-1]
    if place is None:
        inner = old.this
        if not isinstance(inner, exp.Expr) or isinstance(inner, exp.Star | exp.Distinct):
            raise CannotEdit("it is not clear of what")
        new: exp.Expr = function(this=inner.copy())
    else:
        new = function(this=query.column(place) if place.table else exp.column(identifier(place.column)))
    query.select.set("expressions", [new])


# groups

_Key = Callable[[Query], tuple[list[exp.Expr], list[exp.Expr], str]]  # what is shown, what is not, and its name


def read_groups(said: Said) -> None:
    """`by country`, `per store instead`, `also by year`."""
    match = said.take(
        r"\b(?:(?:and\s+)?(?:broken\s+down|break\s+(?:it|that|them)\s+down|split(?:\s+(?:it|that|them))?(?:\s+up)?|"
        r"group(?:ed)?(?:\s+(?:it|them))?|"
        r"separated|divided|listed|further|then|additionally|also)\s+)*"
        r"(?:by|per|for each|for every|in each|in every|on each|on every|at each|of each|of every|within each)\b"
        r"(?:\s+(?:the\s+)?(?:different|each|every))?"
    )
    if match is None:
        return
    keys = list(said.series(match.end(), lambda position: _key_after(said, position), r",|and(?: by| per)?|then by"))
    if not keys and match.group().lower().endswith("by"):
        return  # `by cash`: a value follows, or what is not understood
    if not keys:
        raise CannotEdit("it is not clear what the groups are")
    said.take(r"\b(?:instead|separately|individually)\b")
    is_more = bool(
        re.search(r"\b(?:also|further|additionally|too|as well|within each|and then|then by)\b", said.text, re.IGNORECASE)
    )

    def apply(query: Query) -> str:
        if said.query.limit is not None and query.is_listing:
            query.settle()
        made = [key(query) for key in keys]
        if query.is_grouped and query.limit is not None and not is_more:
            query.stop_after(None)
        query.group([e for shown, _, _ in made for e in shown], instead=not is_more)
        for expression in (e for _, hidden, _ in made for e in hidden):
            query.select.group_by(expression, copy=False)
        return f"for each {listed([name for _, _, name in made])}"

    said.change(Stage.GROUP, apply)


def _key_after(said: Said, position: int) -> _Key | None:
    """A column, a table's label with its key, or a part of the nearest date."""
    noun = said.noun_after(position, r"\s*(?:the\s+|their\s+)?")
    labels = said.query.labels(noun.table) if noun.table is not None else []
    places = said.columns_after(position)
    if not places and labels and said.is_free(noun.start, noun.end):
        places = labels
        said.use(position, noun.end)
    if not places:
        return _date_part_after(said, position)
    if noun.table is not None and places == labels and len(noun.table.primary_key) == 1:
        key, name = Place(noun.table.name.lower(), noun.table.primary_key[0].lower()), noun.table.name
        return lambda q: ([q.column(p) for p in places], [q.column(key)] if key not in places else [], name)
    return lambda q: ([q.column(p) for p in places], [], in_words(places))


def _date_part_after(said: Said, position: int) -> _Key | None:
    match = re.compile(r"\s*(?:the\s+)?(?P<part>year|month|quarter|week|day)\b", re.IGNORECASE).match(said.text, position)
    dates = said.vocabulary.dates(said.query) if match else []
    if match is None or not dates or not said.is_free(match.start(), match.end()):
        return None
    said.use(position, match.end())
    part = match["part"].lower()
    return lambda q: ([date_part(q, dates[0], part, said.dialect)], [], f"{part} of {dates[0].column}")
