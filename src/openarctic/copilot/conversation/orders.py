"""Follow-ups about the order of rows and how many are shown: `sort them by age`, `the oldest first`, `top 5`, `the next 5`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp

from openarctic.copilot.conversation.mentions import ADJECTIVES, BIRTH, root
from openarctic.copilot.conversation.query import CannotEdit, Place, Query, in_words, ordered
from openarctic.copilot.conversation.said import NUMBER, YEAR, Said, Stage, number_of
from openarctic.copilot.joins import identifier

_DOWN = (
    r"(?:in\s+)?desc(?:ending)?(?:\s+order)?|(?:from\s+)?(?:the\s+)?(?:high|large|big|great|most|new|late|old|"
    r"long)(?:e?st)?\s+(?:to|first|at the top|down)"
    r"(?:\s+(?:the\s+)?(?:low|small|little|least|old|early|new|young|short)(?:e?st)?)?|z\s*(?:to|-)\s*a|backwards|downwards?|"
    r"(?:starting |beginning )?(?:with|from) the (?:highest|largest|biggest|most|newest|latest)"
)
_UP = (
    r"(?:in\s+)?asc(?:ending)?(?:\s+order)?|(?:from\s+)?(?:the\s+)?(?:low|small|least|old|early|young|short|"
    r"few)(?:e?st)?\s+(?:to|first|at the top|up)"
    r"(?:\s+(?:the\s+)?(?:high|large|big|most|new|late|old|long)(?:e?st)?)?|a\s*(?:to|-)\s*z|upwards?|"
    r"(?:starting |beginning )?(?:with|from) the (?:lowest|smallest|least|earliest)"
)
LOW = frozenset("young cheap short light slow early low few little small least".split())
SUPERLATIVE = (
    rf"(?:(?P<degree>most|least|best|worst)\s+(?P<adjective>{'|'.join([*ADJECTIVES, 'common', 'frequent'])})\b|"
    rf"(?P<bare>most|least|fewest)\b|(?P<word>[a-z]{{2,}}est))"
)
# Of these much is bad.
_BAD = re.compile(r"delay|error|cost|loss|fine|complaint|defect|debt|risk|late|missing|failure", re.IGNORECASE)
_TAIL = r"(?:\s+(?:ones?|rows?|results?|entries|records|places|of (?:them|those|these)))*"
_LIMITS = (
    rf"\b(?:the\s+)?(?P<end>top|first|best|leading|highest|largest|biggest|bottom|last|worst|lowest|"
    rf"smallest)\s+(?P<count>{NUMBER}){_TAIL}",
    rf"\b(?:limit(?:ed)?\s+(?:it|them|that|this)?\s*to|only|just|show(?:\s+me)?|"
    rf"give(?:\s+me)?)\s+(?:the\s+)?(?P<count>(?!{YEAR}\b){NUMBER}){_TAIL}(?=\s*$|\s*[?.!,])",
    rf"\b(?:the\s+)?(?P<next>next|following)\s+(?P<count>{NUMBER}){_TAIL}",
    r"\b(?:the\s+)?(?P<next>next|following)(?:\s+(?:ones?|page|rows))?\s*[?.]?$",
    r"\b(?:the\s+)?(?P<ordinal>second|third|fourth|fifth|2nd|3rd|4th|5th)(?:\s+(?:ones?|most|place))?\b",
    r"\b(?:the\s+)?(?P<end>top|first|best|last|worst|bottom)(?:\s+ones?)\b",
)
_ORDINALS = {"second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4, "fifth": 5, "5th": 5}


# order


def read_order(said: Said) -> None:
    """`sort them by age`, `the oldest first`, `alphabetically`, `descending`."""
    sorting = said.take(
        r"\b(?:re-?)?(?:sort|order|rank|arrange)(?:ed|ing)?\b(?:\s+(?:them|it|those|these|that|everything|"
        r"the\s+\w+))?(?:\s+again)?"
        r"(?:\s+(?P<alphabetic>alphabetically))?(?:\s+(?:by|on|according to|in order of)\b)?"
    )
    if sorting is not None:
        _sorting(said, sorting)
    elif _superlative_first(said):
        return
    elif said.take(r"\b(?:alphabetical(?:ly)?(?:\s+order)?)\b"):
        _sort_by(said, [], bool(_direction(said)))
    elif (is_down := _direction(said)) is not None:
        said.change(Stage.ORDER, lambda q: redirect(q, is_down))


def _sorting(said: Said, match: re.Match[str]) -> None:
    is_down, places = _direction(said), said.columns_after(match.end())
    if not places and match["alphabetic"]:
        by = said.take(r"\bby\b")
        places = said.columns_after(by.end()) if by is not None else []
    elif not places:
        _sort_by_number(said, is_down)
        return
    _sort_by(said, places, match.group().lower().startswith("rank") if is_down is None else is_down)


def _direction(said: Said) -> bool | None:
    """Whether high comes first; None where nothing is said."""
    if said.take(rf"\(?\b(?:{_DOWN})(?!\w)\)?"):
        return True
    return False if said.take(rf"\(?\b(?:{_UP})(?!\w)\)?") else None


def _sort_by(said: Said, places: Sequence[Place], is_down: bool) -> None:
    """By these columns, else by the names of what is shown."""
    then = said.take(r"\b(?:and\s+)?then\s+by\b")
    further = said.columns_after(then.end()) if then is not None else []

    def apply(query: Query) -> str:
        if said.query.limit is not None and not said.is_replacing:
            query.settle()
        chosen = places or (query.labels(query.shown) if query.shown is not None else [])
        if not chosen:
            raise CannotEdit("there is nothing to sort by")
        return _sort(query, [*chosen, *further], is_down)

    said.change(Stage.ORDER, apply)


def _sort(query: Query, places: Sequence[Place], is_down: bool) -> str:
    query.order([key_of(query, p, is_down) for p in places])
    return f"sorted by {in_words(places)}, {end_word(is_down)} first"


def end_word(is_down: bool) -> str:
    """What comes first."""
    return "highest" if is_down else "lowest"


def key_of(query: Query, place: Place, is_down: bool) -> exp.Ordered:
    """The column to order by; in a result of groups what is shown of it."""
    if not place.table:
        return ordered(exp.column(identifier(place.column)), is_down)
    shown = None if query.is_listing else _shown_about(query, place)
    return ordered(query.column(place, keeps_rows=True) if shown is None else shown, is_down)


def _shown_about(query: Query, place: Place) -> exp.Expr | None:
    """The aggregate that is shown about a column; the column itself where it is a key of groups."""
    shown = (output.unalias() for output in query.select.expressions)
    return next((e.copy() for e in shown if any(query.place(c) == place for c in e.find_all(exp.Column))), None)


def _superlative_first(said: Said) -> bool:
    """`the oldest first`, `highest salary first`."""
    if _end_first(said):
        return True
    match = said.sees(
        rf"\b(?:the\s+)?(?:{SUPERLATIVE})(?P<column>(?:\s+\w+){{0,3}}?)(?:\s+(?:ones?|of them))?\s+(?:first|at the top)\b"
    )
    if match is None:
        return False
    word, column = superlative_word(match), match["column"]
    places = said.vocabulary.columns(column, said.query) if column else said.vocabulary.adjective(root(word), said.query)
    if not places:
        return False
    said.use(match.start(), match.end())
    is_down = is_highest_meant(word, match["degree"], places[0])
    said.change(Stage.ORDER, lambda q: _sort(q, places[:1], is_down))
    return True


def _end_first(said: Said) -> bool:
    """`the worst first`, `most orders first`: by the number that is shown."""
    if (end := said.take(r"\b(?:the\s+)?(?P<end>worst|best)\s+(?:ones?\s+)?first\b")) is not None:
        is_down = not _is_low_end(said.query, end["end"].lower())
    elif (end := said.take(rf"\b(?P<end>most|least)\s+(?!{'|'.join(ADJECTIVES)})\w+\s+first\b")) is not None:
        is_down = end["end"].lower() == "most"
    else:
        return False
    said.change(Stage.ORDER, lambda q: redirect(q, is_down))
    return True


def superlative_word(match: re.Match[str]) -> str:
    """`expensive`, `oldest` or `fewest` of what fits `SUPERLATIVE`."""
    return (match["adjective"] or match["word"] or match["bare"]).lower()


def is_highest_meant(word: str, degree: str | None, place: Place) -> bool:
    """Whether the highest value is meant: of an age the oldest is the highest, of a date the lowest."""
    base = root(word)
    is_low = base in LOW
    is_of_date = place.column != "age" and bool(
        BIRTH.search(place.column) or re.search(r"date|year|time|joined|hired|founded|opened", place.column)
    )
    if base in ("old", "young") and is_of_date:
        is_low = base == "old"
    return is_low if degree is not None and degree.lower() in ("least", "worst") else not is_low


def redirect(query: Query, is_down: bool) -> str:
    """The same order in that direction; without one, by the number that is shown."""
    if query.select.args.get("order") is None:
        query.order([ordered(main_number(query), is_down)])
    else:
        query.turn_order(is_down)
    return f"{end_word(is_down)} first"


def _sort_by_number(said: Said, down: bool | None) -> None:
    """By the number that is shown (`by count`, `by how many there are`), or by a table's rows (`by number of orders`)."""
    is_down = bool(down)
    word = said.take(
        r"\b(?:the\s+)?(?:number|count|total|amount|how many|sum|average)(?:\s+of\s+(?P<table>\w+))?(?:\s+(?:there "
        r"are|they have))?\b"
    )
    if word is None and said.take(r"\b(?:that|it|this)\b"):
        said.change(Stage.ORDER, lambda q: _sort_by_last(q, is_down))
        return
    if word is None and down is None:
        raise CannotEdit("it is not clear what to sort by")
    table = said.vocabulary.table(word["table"]) if word is not None and word["table"] else None

    def apply(query: Query) -> str:
        if query.aggregates or table is None:
            query.order([ordered(main_number(query), is_down)])
        else:
            limit = query.limit
            query.most_related(table.name.lower(), True, 1)
            query.stop_after(limit)
            query.select.args["order"].expressions[0].set("desc", is_down)
        return f"sorted by the number, {end_word(is_down)} first"

    said.change(Stage.ORDER, apply)


def _sort_by_last(query: Query, is_down: bool) -> str:
    """By the column that came last."""
    last = query.select.expressions[-1]
    key = last.unalias().copy()
    query.order([ordered(key, is_down)])
    return f"sorted by {last.alias_or_name or key.sql()}, {end_word(is_down)} first"


def main_number(query: Query) -> exp.Expr:
    """What a result is ordered by where nothing is said: its last aggregate, else its only number."""
    if query.aggregates:
        last = next(e for e in reversed(query.select.expressions) if e.find(exp.AggFunc))
        return last.unalias().copy()
    return query.column(query.only_number())


# limits


def read_limit(said: Said) -> None:
    """`top 5`, `only 3`, `the next 5`, `the second one`."""
    match = next((found for form in _LIMITS if (found := said.take(form)) is not None), None)
    if match is None:
        return
    named = match.groupdict(default="")
    count = int(number_of(named["count"])) if named.get("count") else None
    by = said.take(r"\b(?:by|in terms of|ranked by|according to)\b")
    places = said.columns_after(by.end()) if by is not None else []
    if by is not None and not places and not said.take(r"\b(?:the\s+)?(?:number|count|total)\b"):
        raise CannotEdit("it is not clear by what")
    if "ordinal" in named:
        position = _ORDINALS[named["ordinal"].lower()]
        said.change(Stage.LIMIT, lambda q: _nth(q, position))
    elif "next" in named:
        said.change(Stage.LIMIT, lambda q: _next(q, count))
    else:
        end = named.get("end", "").lower()
        is_bottom = end in ("bottom", "last", "lowest", "smallest") or (end in ("worst", "best") and _is_low_end(said.query, end))
        said.change(Stage.LIMIT, lambda q: _first(said, q, 1 if count is None else count, places, end, is_bottom))


def _is_low_end(query: Query, word: str) -> bool:
    """Whether low values are meant by `worst` or `best`: of delays the worst are the highest."""
    try:
        number = main_number(query).sql()
    except CannotEdit:
        number = ""
    return (word == "worst") != bool(_BAD.search(number))


def _first(said: Said, query: Query, count: int, places: Sequence[Place], end: str, is_bottom: bool) -> str:
    """The first rows by these columns, else in the order there is, else by the number that is shown."""
    told = f"the {end or 'first'} {count}"
    has_order = query.select.args.get("order") is not None
    if places:
        query.order([key_of(query, p, not is_bottom) for p in places])
        told += f" by {in_words(places)}"
    elif not has_order and end not in ("", "first"):
        try:
            query.order([ordered(main_number(query), not is_bottom)])
        except CannotEdit:
            if is_bottom:
                raise
    elif has_order and is_bottom and said.query.limit is None:
        query.turn_order()
    query.stop_after(count)
    return told


def _nth(query: Query, position: int) -> str:
    if query.select.args.get("order") is None:
        raise CannotEdit("there is no order")
    query.stop_after(1, position - 1)
    return f"row {position} in that order"


def _next(query: Query, count: int | None) -> str:
    offset = query.select.args.get("offset")
    skipped = int(offset.expression.name) if offset is not None else 0
    if query.limit is None:
        raise CannotEdit("all rows were shown")
    skipped += query.limit
    query.stop_after(count or query.limit, skipped)
    return f"after the first {skipped}"
