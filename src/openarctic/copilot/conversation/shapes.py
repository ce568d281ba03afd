"""Follow-ups that change what is shown of the rows: order, limit, groups, numbers about them, columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sqlglot import exp

from openarctic.copilot.conversation.filters import YEAR, part_of
from openarctic.copilot.conversation.mentions import ADJECTIVES, BIRTH, is_date, is_year, root
from openarctic.copilot.conversation.query import CannotEdit, Place, Query
from openarctic.copilot.conversation.said import NUMBER, Said, Stage, number_of
from openarctic.copilot.joins import identifier
from openarctic.copilot.wording import listed

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
_AGGREGATES: dict[str, type[exp.AggFunc]] = {
    "average": exp.Avg, "mean": exp.Avg, "avg": exp.Avg, "total": exp.Sum, "sum": exp.Sum, "minimum": exp.Min, "min": exp.Min,
    "maximum": exp.Max, "max": exp.Max, "median": exp.Median,
    "lowest": exp.Min, "smallest": exp.Min, "highest": exp.Max, "largest": exp.Max, "biggest": exp.Max, "greatest": exp.Max,
}  # fmt: skip
_SAID = {exp.Avg: "average", exp.Sum: "total", exp.Min: "lowest", exp.Max: "highest", exp.Median: "median"}
_LEAST = frozenset("least fewest lowest smallest youngest cheapest shortest lightest slowest earliest oldest".split())
_LOW = frozenset("young cheap short light slow early low few little small least".split())
_SUPERLATIVE = (
    rf"(?:(?P<degree>most|least|best|worst)\s+(?P<adjective>{'|'.join([*ADJECTIVES, 'common', 'frequent'])})\b|"
    rf"(?P<bare>most|least|fewest)\b|(?P<word>[a-z]{{2,}}est))"
)
# Of these much is bad.
_BAD = re.compile(r"delay|error|cost|loss|fine|complaint|defect|debt|risk|late|missing|failure", re.IGNORECASE)
_DATE_PARTS = r"(?P<part>year|month|quarter|week|day)"


def read_shapes(said: Said) -> None:
    """Everything but conditions."""
    _orders(said)
    _tops(said)
    _counts(said)
    _asked_column(said)
    _related_rows(said)
    _superlatives(said)
    _aggregates(said)
    _groups(said)
    _distinct(said)


# order


def _orders(said: Said) -> None:
    match = said.take(
        r"\b(?:re-?)?(?:sort|order|rank|arrange)(?:ed|ing)?\b(?:\s+(?:them|it|those|these|that|everything|"
        r"the\s+\w+))?(?:\s+again)?"
        r"(?:\s+(?P<alphabetic>alphabetically))?(?:\s+(?:by|on|according to|in order of)\b)?"
    )
    if match is None and _adjective_order(said):
        return
    alphabetic = match["alphabetic"] if match is not None else said.take(r"\b(?:alphabetical(?:ly)?(?:\s+order)?)\b")
    down, is_ranked = _direction(said), match is not None and match.group().lower().startswith("rank")
    if match is None and not alphabetic:
        if down is not None:
            said.change(Stage.ORDER, lambda q: _redirect(q, down))
        return
    places = said.columns_after(match.end()) if match is not None else []
    if alphabetic and match is not None and not places:
        by = said.take(r"\bby\b")
        places = said.columns_after(by.end()) if by is not None else []
    if match is not None and not places and not alphabetic:
        _other_order(said, match, down)
        return
    then = said.take(r"\b(?:and\s+)?then\s+by\b")
    further = said.columns_after(then.end()) if then is not None else []

    def apply(query: Query) -> str:
        if said.query.limit is not None and not said.is_replacing:
            query.settle()
        chosen = places or (query.labels(query.shown) if query.shown is not None else [])
        if not chosen:
            raise CannotEdit("there is nothing to sort by")
        is_down = is_ranked if down is None else down
        query.order([_ordered(query, p, is_down) for p in (*chosen, *further)])
        return f"sorted by {listed([p.column for p in (*chosen, *further)])}, {'highest' if is_down else 'lowest'} first"

    said.change(Stage.ORDER, apply)


def _direction(said: Said) -> bool | None:
    """Whether high comes first; None where nothing is said."""
    if said.take(rf"\(?\b(?:{_DOWN})(?!\w)\)?"):
        return True
    return False if said.take(rf"\(?\b(?:{_UP})(?!\w)\)?") else None


def _ordered(query: Query, place: Place, is_down: bool) -> exp.Ordered:
    """NULLs stand last, whichever way."""
    if not place.table:
        return exp.Ordered(this=exp.column(identifier(place.column)), desc=is_down, nulls_first=False)
    if not query.is_listing and (shown := _shown_key(query, place)) is not None:
        return exp.Ordered(this=shown, desc=is_down, nulls_first=False)
    return exp.Ordered(this=query.column(place, keeps_rows=True), desc=is_down, nulls_first=False)


def _shown_key(query: Query, place: Place) -> exp.Expr | None:
    """The aggregate that is shown about a column, where groups are sorted by it; the column itself where it is a key."""
    for output in query.select.expressions:
        inner = output.unalias()
        columns = [inner] if isinstance(inner, exp.Column) else list(inner.find_all(exp.Column))
        if any(query.place(c) == place for c in columns):
            return inner.copy()
    return None


def _adjective_order(said: Said) -> bool:
    """`the oldest first`, `highest salary first`."""
    if (ends := said.take(r"\b(?:the\s+)?(?P<end>worst|best)\s+(?:ones?\s+)?first\b")) is not None:
        is_low = _is_low_end(said.query, ends["end"].lower())
        said.change(Stage.ORDER, lambda q: _redirect(q, not is_low))
        return True
    if (ends := said.take(r"\b(?P<end>most|least)\s+(?!" + "|".join(ADJECTIVES) + r")\w+\s+first\b")) is not None:
        is_most = ends["end"].lower() == "most"
        said.change(Stage.ORDER, lambda q: _redirect(q, is_most))
        return True
    match = said.sees(
        rf"\b(?:the\s+)?(?:{_SUPERLATIVE})(?P<column>(?:\s+\w+){{0,3}}?)(?:\s+(?:ones?|of them))?\s+(?:first|at the top)\b"
    )
    if match is None:
        return False
    word = (match["adjective"] or match["word"] or match["bare"] or "").lower()
    named = said.vocabulary.columns(match["column"], said.query) if match["column"] else []
    places = named or ([] if match["column"] else said.vocabulary.adjective(root(word), said.query))
    if not places:
        return False
    said.use(match.start(), match.end())
    is_down = _is_down(word, match["degree"], places[0])
    said.change(Stage.ORDER, lambda q: _sort(q, places[0], is_down))
    return True


def _sort(query: Query, place: Place, is_down: bool) -> str:
    query.order([_ordered(query, place, is_down)])
    return f"sorted by {place.column}, {'highest' if is_down else 'lowest'} first"


def _redirect(query: Query, is_down: bool) -> str:
    order = query.select.args.get("order")
    if order is None:
        measure = _main_measure(query)
        query.order([exp.Ordered(this=measure, desc=is_down, nulls_first=False)])
    else:
        for ordered in order.expressions:
            ordered.set("desc", is_down)
            ordered.set("nulls_first", False)
    return f"{'highest' if is_down else 'lowest'} first"


def _other_order(said: Said, match: re.Match[str], down: bool | None) -> None:
    """By the number that is shown (`by count`, `by how many there are`), or by a table's rows (`by number of orders`)."""
    word = said.take(
        r"\b(?:the\s+)?(?:number|count|total|amount|how many|sum|average)(?:\s+of\s+(?P<table>\w+))?(?:\s+(?:there "
        r"are|they have))?\b"
    )
    if word is None and said.take(r"\b(?:that|it|this)\b"):
        said.change(Stage.ORDER, lambda q: _by_last(q, bool(down)))
        return
    if word is None and down is None:
        raise CannotEdit("it is not clear what to sort by")
    table = said.vocabulary.table(word["table"]) if word is not None and word["table"] else None

    def apply(query: Query) -> str:
        is_down = bool(down)
        if query.aggregates or table is None:
            query.order([exp.Ordered(this=_main_measure(query), desc=is_down, nulls_first=False)])
        else:
            limit = query.limit
            query.most_related(table.name.lower(), True, 1)
            query.stop_after(limit)
            query.select.args["order"].expressions[0].set("desc", is_down)
        return f"sorted by the number, {'highest' if is_down else 'lowest'} first"

    said.change(Stage.ORDER, apply)


def _by_last(query: Query, is_down: bool) -> str:
    """By the column that came last."""
    last = query.select.expressions[-1]
    key = last.unalias().copy()
    query.order([exp.Ordered(this=key, desc=is_down, nulls_first=False)])
    return f"sorted by {last.alias_or_name or key.sql()}, {'highest' if is_down else 'lowest'} first"


def _main_measure(query: Query) -> exp.Expr:
    """What a result is ordered by where nothing is said: its last aggregate, else its only number."""
    if query.aggregates:
        last = next(e for e in reversed(query.select.expressions) if e.find(exp.AggFunc))
        return last.unalias().copy()
    return query.column(query.measure())


# limits


def _tops(said: Said) -> None:
    tail = r"(?:\s+(?:ones?|rows?|results?|entries|records|places|of (?:them|those|these)))*"
    forms = (
        rf"\b(?:the\s+)?(?P<end>top|first|best|leading|highest|largest|biggest|bottom|last|worst|lowest|"
        rf"smallest)\s+(?P<count>{NUMBER}){tail}",
        rf"\b(?:limit(?:ed)?\s+(?:it|them|that|this)?\s*to|only|just|show(?:\s+me)?|"
        rf"give(?:\s+me)?)\s+(?:the\s+)?(?P<count>(?!{YEAR}\b){NUMBER}){tail}(?=\s*$|\s*[?.!,])",
        rf"\b(?:the\s+)?(?P<next>next|following)\s+(?P<count>{NUMBER}){tail}",
        r"\b(?:the\s+)?(?P<next>next|following)(?:\s+(?:ones?|page|rows))?\s*[?.]?$",
        r"\b(?:the\s+)?(?P<ordinal>second|third|fourth|fifth|2nd|3rd|4th|5th)(?:\s+(?:ones?|most|place))?\b",
        r"\b(?:the\s+)?(?P<end>top|first|best|last|worst|bottom)(?:\s+ones?)\b",
    )
    for form in forms:
        match = said.take(form)
        if match is not None:
            named = match.groupdict()
            _top(said, match, named)
            return


def _top(said: Said, match: re.Match[str], named: dict[str, str | None]) -> None:
    count = int(number_of(named["count"] or "1")) if named.get("count") else 1
    by = said.take(r"\b(?:by|in terms of|ranked by|according to)\b")
    places = said.columns_after(by.end()) if by is not None else []
    if by is not None and not places and not said.take(r"\b(?:the\s+)?(?:number|count|total)\b"):
        raise CannotEdit("it is not clear by what")
    if named.get("ordinal"):
        position = {"second": 2, "third": 3, "fourth": 4, "fifth": 5}.get(str(named["ordinal"]).lower()) or int(
            str(named["ordinal"])[0]
        )
        said.change(Stage.LIMIT, lambda q: _nth(q, position))
        return
    if named.get("next"):
        said.change(Stage.LIMIT, lambda q: _next(q, count if named.get("count") else None))
        return
    end = (named.get("end") or "").lower()
    is_bottom = end in ("bottom", "last", "lowest", "smallest") or (end in ("worst", "best") and _is_low_end(said.query, end))
    said.change(Stage.LIMIT, lambda q: _first(said, q, count, places, end, is_bottom))


def _is_low_end(query: Query, word: str) -> bool:
    """Whether low values are meant by `worst` or `best`: of delays the worst are the highest."""
    try:
        measure = _main_measure(query).sql()
    except CannotEdit:
        measure = ""
    return (word == "worst") != bool(_BAD.search(measure))


def _first(said: Said, query: Query, count: int, places: Sequence[Place], end: str, is_bottom: bool) -> str:
    told = f"the {end or 'first'} {count}"
    if places:
        query.order([_ordered(query, p, not is_bottom) for p in places])
        query.stop_after(count)
        return f"{told} by {listed([p.column for p in places])}"
    order = query.select.args.get("order")
    if order is None and end not in ("", "first"):
        try:
            query.order([exp.Ordered(this=_main_measure(query), desc=not is_bottom, nulls_first=False)])
        except CannotEdit:
            if is_bottom:
                raise
    elif order is not None and is_bottom and said.query.limit is None:
        _flip(query)
    query.stop_after(count)
    return told


def _flip(query: Query) -> None:
    for ordered in query.select.args["order"].expressions:
        ordered.set("desc", not ordered.args.get("desc"))
        ordered.set("nulls_first", False)


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


# superlatives


def _superlatives(said: Said) -> None:
    match = said.take(rf"(?<!\bat )\b(?:the\s+)?(?:(?P<count>{NUMBER})\s+)?{_SUPERLATIVE}\b")
    if match is None:
        return
    count = int(number_of(match["count"])) if match["count"] else 1
    word = (match["adjective"] or match["word"] or match["bare"]).lower()
    if word in ("common", "frequent"):
        _most_common(said, match)
        return
    if (said.is_replacing or said.query.limit == 1) and not match["count"] and _other_end(said, match, word):
        return
    is_asked_who = bool(re.search(r"\b(?:who|which|has|have|had|with|whose|one)\b", said.text[: match.start()], re.IGNORECASE))
    if word in _AGGREGATES and not is_asked_who and not match["count"]:
        _aggregate(said, _AGGREGATES[word], match.end(), count)
        return
    _extreme(said, match, word, count)


def _other_end(said: Said, match: re.Match[str], word: str) -> bool:
    """`and the fewest?` after the one with the most: the order of the earlier query, perhaps the other way."""
    if said.query.limit is None or said.query.select.args.get("order") is None or not (match["bare"] or word in _AGGREGATES):
        return False
    if re.search(r"\w", said.text[match.end() :]):
        return False
    is_down = word not in _LEAST
    said.change(Stage.ORDER, lambda q: _redirect(q, is_down))
    return True


def _most_common(said: Said, match: re.Match[str]) -> None:
    places = said.columns_after(match.end())
    if not places:
        raise CannotEdit("it is not clear what is meant")

    def apply(query: Query) -> str:
        query.settle()
        if not query.is_listing:
            raise CannotEdit("it is grouped already")
        query.order(())
        query.group([query.column(p) for p in places])
        counted = exp.Count(this=exp.Star())
        query.select.set("expressions", query.select.expressions[:-1])
        query.order([exp.Ordered(this=counted, desc=match["degree"].lower() == "most")])
        query.stop_after(1)
        return f"the {match['degree'].lower()} common {listed([p.column for p in places])}"

    said.change(Stage.GROUP, apply)


def _extreme(said: Said, match: re.Match[str], word: str, count: int) -> None:
    degree, noun = match["degree"], re.compile(r"\s+(?:number of\s+)?(\w+)").match(said.text, match.end())
    if match["bare"] or word in _AGGREGATES:
        is_down = word not in _LEAST
        table = said.vocabulary.table(noun[1]) if noun else None
        places = said.columns_after(match.end()) if table is None or said.query.aggregates else []
        if table is not None and noun is not None:
            said.use(match.end(), noun.end())
            if not said.query.aggregates:
                name = table.name.lower()
                said.change(Stage.ORDER, lambda q: _most_rows(q, name, is_down, count))
                return
    else:
        places = said.vocabulary.adjective(root(word), said.query)
        table = None
        if not places and said.query.aggregates and not said.query.is_grouped:
            function = exp.Min if root(word) in _LOW else exp.Max
            said.change(Stage.AGGREGATE, lambda q: _number(said, q, function, None))
            return
        if not places:
            raise CannotEdit(f"it is not clear what is {word}")
        said.take(r"\bhow (?:old|young|big|large|small|tall|high|long|heavy|expensive|much)\b")
        is_down = _is_down(word, degree, places[0])
        if places[0].table:
            said.explain([places[0].column, root(word)])
        if said.query.aggregates and not said.query.is_grouped:
            said.change(Stage.AGGREGATE, lambda q: _number(said, q, exp.Max if is_down else exp.Min, places[0]))
            return
    if said.query.is_grouped:
        said.explain(said.query.names)

    def apply(query: Query) -> str:
        if said.is_of_them or (said.query.limit is not None and not said.is_replacing):
            query.settle()
        key = (
            _ordered(query, places[0], is_down)
            if places
            else exp.Ordered(this=_main_measure(query), desc=is_down, nulls_first=False)
        )
        if query.aggregates and not query.is_grouped:
            raise CannotEdit("it is one number already")
        query.order([key])
        query.stop_after(count if not (said.is_replacing and said.query.limit) or match["count"] else said.query.limit)
        return (
            f"the {count if count > 1 else 'one'} with the {'highest' if is_down else 'lowest'} "
            f"{places[0].column if places else 'number'}"
        )

    said.change(Stage.ORDER, apply)


def _most_rows(query: Query, table: str, is_most: bool, count: int) -> str:
    query.settle()
    query.most_related(table, is_most, count)
    return f"the {count if count > 1 else 'one'} with the {'most' if is_most else 'fewest'} {table}"


def _is_down(word: str, degree: str | None, place: Place) -> bool:
    """Whether the highest value is meant: of an age the oldest is the highest, of a date the lowest."""
    base = root(word)
    is_low = base in _LOW
    is_of_date = place.column != "age" and bool(
        BIRTH.search(place.column) or re.search(r"date|year|time|joined|hired|founded|opened", place.column)
    )
    if base in ("old", "young") and is_of_date:
        is_low = base == "old"
    return is_low if degree is not None and degree.lower() in ("least", "worst") else not is_low


# how many


def _counts(said: Said) -> None:
    if _counted_related(said):
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
    kind = (match.groupdict().get("kind") or "").lower()
    if kind in ("different", "distinct", "unique"):
        places = said.columns_after(match.end())
        if not places:
            raise CannotEdit("it is not clear what is counted")
        said.change(Stage.COUNT, lambda q: _count(said, q, places[0]))
        return
    if _counted_noun(said, match) and said.query.is_grouped:
        said.change(Stage.AGGREGATE, _count_each)
        return
    said.change(Stage.COUNT, lambda q: _count(said, q, None))


def _counted_related(said: Said) -> bool:
    """`how many orders did they place?`: rows of a table that belong to those before, all together."""
    match = said.sees(r"\bhow many\s+(?P<noun>\w+)\s+(?:do|did|does|have|has|had|were|are)\s+(?:they|he|she|it|those|these)\b")
    table = said.vocabulary.table(match["noun"]) if match else None
    if match is None or table is None or any(t.name == table.name for t in said.query.tables):
        return False
    said.use(match.start(), match.end())
    name = table.name.lower()

    def apply(query: Query) -> str:
        query.count_related(name)
        return f"their {name} counted"

    said.change(Stage.COUNT, apply)
    return True


def _count_each(query: Query) -> str:
    """For each group the number of rows, instead of another number."""
    query.select.set(
        "expressions", [*(e for e in query.select.expressions if not e.find(exp.AggFunc)), exp.Count(this=exp.Star())]
    )
    query.order(())
    query.stop_after(None)
    return "the number of rows for each"


def _counted_noun(said: Said, match: re.Match[str]) -> bool:
    """`how many customers is that?` speaks of the rows that were asked for; of another table's, it is a new question."""
    noun = re.compile(r"\s+(\w+)").match(said.text, match.end())
    table = said.vocabulary.table(noun[1]) if noun else None
    if table is None or noun is None:
        return False
    if all(t.name != table.name for t in said.query.tables):
        raise CannotEdit("it counts something else")
    said.explain([table.name])
    return said.take(r"\b(?:is that|is it|was that|was it)\b") is None and not said.is_of_them


def _count(said: Said, query: Query, distinct: Place | None) -> str:
    if query.aggregates and not query.is_grouped and distinct is None:
        if not isinstance(query.aggregates[0], exp.Count):
            query.select.set("expressions", [exp.Count(this=exp.Star())])
        return "counted"
    if said.is_of_them and query.limit is not None:
        pass  # of the rows that were shown: `count` keeps the limit
    query.count(distinct)
    return "counted" if distinct is None else f"different {distinct.column} counted"


# numbers about the rows


def _aggregates(said: Said) -> None:
    words = "|".join(w for w in _AGGREGATES if not w.endswith("est"))
    match = said.take(
        rf"\b(?:the\s+|their\s+|an?\s+)?(?P<word>{words})(?:\s+(?:number|amount|value)(?!\w))?(?:\s+of(?:\s+(?:them|"
        rf"those|that|these))?)?\b"
    )
    if match is None and (
        match := said.take(r"\b(?:add (?:them|it|those) (?:all )?up|sum (?:them|it|those)(?: all)?(?: up)?)\b")
    ):
        _aggregate(said, exp.Sum, match.end(), 1)
    elif match is not None:
        _aggregate(said, _AGGREGATES[match["word"].lower()], match.end(), 1)


def _aggregate(said: Said, function: type[exp.AggFunc], position: int, count: int) -> None:
    places = said.columns_after(position) or said.columns_before(position)
    if len(places) > 1:
        raise CannotEdit("one column is needed")
    noun = re.compile(r"\s+(?:number of\s+)?(\w+)").match(said.text, position)
    if not places and noun is not None and said.is_free(noun.start(), noun.end()) and said.vocabulary.table(noun[1]):
        if not said.query.aggregates:
            raise CannotEdit("it counts something else")
        said.use(noun.start(), noun.end())
    place = places[0] if places else None
    said.take(r"\b(?:overall|altogether|in total|in all|of all(?: of)?(?: (?:them|those))?|across (?:them )?all)\b")
    said.change(Stage.AGGREGATE, lambda q: _number(said, q, function, place))


def _number(said: Said, query: Query, function: type[exp.AggFunc], place: Place | None) -> str:
    told = f"the {_SAID[function]} {place.column if place else 'of it'}"
    if query.aggregates and not query.is_grouped:
        _swap_aggregate(query, function, place)
        return told
    if query.is_grouped and place is not None and place.table and query.distance(place.table) is not None:
        measure = function(this=query.column(place))
        kept = [
            e
            for e in query.select.expressions
            if not e.find(exp.AggFunc) or (said.is_widening and e.unalias().sql() != measure.sql())
        ]
        query.select.set("expressions", [*kept, measure])
        query.order(())
        query.stop_after(None)
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


def _groups(said: Said) -> None:
    match = said.take(
        r"\b(?:(?:and\s+)?(?:broken\s+down|break\s+(?:it|that|them)\s+down|split(?:\s+(?:it|that|them))?(?:\s+up)?|"
        r"group(?:ed)?(?:\s+(?:it|them))?|"
        r"separated|divided|listed|further|then|additionally|also)\s+)*"
        r"(?:by|per|for each|for every|in each|in every|on each|on every|at each|of each|of every|within each)\b"
        r"(?:\s+(?:the\s+)?(?:different|each|every))?"
    )
    if match is None:
        return
    position, keys = match.end(), []
    while True:
        key = _key_after(said, position)
        if key is None:
            break
        keys.append(key)
        joint = re.compile(r"\s*(?:,|and(?: by| per)?|then by)\s+", re.IGNORECASE).match(said.text, _used_until(said, position))
        if joint is None:
            break
        position = joint.end()
    if not keys and match.group().lower().endswith("by"):
        return  # `by cash`: a value follows, or what is not understood
    if not keys:
        raise CannotEdit("it is not clear what the groups are")
    said.take(r"\b(?:instead|separately|individually)\b")
    is_more = bool(
        re.search(r"\b(?:also|further|additionally|too|as well|within each|and then|then by)\b", said.text, re.IGNORECASE)
    )

    def apply(query: Query) -> str:
        query.settle() if said.query.limit is not None and query.is_listing else None
        shown, hidden, told = [], [], []
        for make in keys:
            expressions, keys_only, name = make(query)
            shown += expressions
            hidden += keys_only
            told.append(name)
        if query.is_grouped and query.limit is not None and not is_more:
            query.stop_after(None)
        query.group(shown, instead=not is_more)
        for expression in hidden:
            query.select.group_by(expression, copy=False)
        return f"for each {listed(told)}"

    said.change(Stage.GROUP, apply)


_Key = Callable[[Query], tuple[list[exp.Expr], list[exp.Expr], str]]


def _used_until(said: Said, position: int) -> int:
    end = position
    while end < len(said.text) and (
        not said.is_free(end, end + 1) or not said.text[position : end + 1].strip() or end < position
    ):
        end += 1
    return max(end, position)


def _key_after(said: Said, position: int) -> _Key | None:
    """A column, a table's label with its key, or a part of the nearest date."""
    noun = re.compile(r"\s*(?:the\s+|their\s+)?(\w+)").match(said.text, position)
    table = said.vocabulary.table(noun[1]) if noun else None
    places = said.columns_after(position)
    if not places and table is not None and noun is not None and said.is_free(noun.start(1), noun.end(1)):
        places = said.query.labels(table)
        said.use(position, noun.end())
    if places:
        if table is not None and places == said.query.labels(table) and len(table.primary_key) == 1:
            key = Place(table.name.lower(), table.primary_key[0].lower())
            return lambda q: ([q.column(p) for p in places], [q.column(key)] if key not in places else [], table.name)
        return lambda q: ([q.column(p) for p in places], [], listed([p.column for p in places]))
    part = re.compile(rf"\s*(?:the\s+)?{_DATE_PARTS}\b", re.IGNORECASE).match(said.text, position)
    dates = said.vocabulary.dates(said.query) if part else []
    if part is None or not dates or not said.is_free(part.start(), part.end()):
        return None
    said.use(position, part.end())
    word = part["part"].lower()
    return lambda q: ([_date_part(q, dates[0], word, said.dialect)], [], f"{word} of {dates[0].column}")


def _date_part(query: Query, place: Place, part: str, dialect: str) -> exp.Expr:
    column, described = query.column(place), query.described(place)
    if described is not None and is_year(described) and not is_date(described):
        if part != "year":
            raise CannotEdit("only years are known")
        return column
    if part == "year":
        return part_of(column, "year", dialect)
    if dialect == "sqlite":
        if part not in ("month", "day"):
            raise CannotEdit("SQLite has no such part")
        form = {"month": "%Y-%m", "day": "%Y-%m-%d"}[part]
        return exp.Anonymous(this="STRFTIME", expressions=[exp.Literal.string(form), column])
    return exp.func("DATE_TRUNC", exp.Literal.string(part), column, dialect=dialect)


def _distinct(said: Said) -> None:
    if said.take(
        r"\b(?:without (?:any )?(?:duplicates|repeats|repetitions?)|no (?:duplicates|repeats)|(?:only )?(?:the "
        r")?(?:distinct|unique)(?: ones| values)?|each only once|remove (?:the )?duplicates|deduplicated?)\b"
    ):
        said.change(Stage.SHOW, _make_distinct)


def _make_distinct(query: Query) -> str:
    query.select.distinct(copy=False)
    return "without repeats"


# columns

_THEY = r"(?:they|those|these|he|she|it|the ones)"
_ASKED_WITH = {
    "earn": ("salary", "wage", "income", "pay"),
    "make": ("salary", "wage", "income"),
    "cost": ("price", "cost", "fee", "rate"),
    "weigh": ("weight",),
    "measure": ("height", "length", "size"),
}


def _asked_column(said: Said) -> None:
    """`how old are they?`, `what do they earn?`, `where do they live?`, `when did they join?`."""
    places: list[Place] = []
    if match := said.sees(rf"\bhow (?P<adjective>\w+) (?:are|is|were|was) {_THEY}\b"):
        places = said.vocabulary.adjective(match["adjective"], said.query)
    elif match := said.sees(rf"\b(?:what|how much) (?:do|does|did) {_THEY} (?P<verb>{'|'.join(_ASKED_WITH)})\b"):
        found = (p for noun in _ASKED_WITH[match["verb"].lower()] for p in said.vocabulary.columns(noun, said.query))
        places = [p for p in found if p.table][:1]
    elif match := said.sees(
        rf"\bwhere (?:do|does|did|are|is|were|was) {_THEY}(?: (?:live|located|come from|work|from|based))?\b"
    ):
        places = said.vocabulary.places_shown(said.query)[:1]
    elif match := said.sees(rf"\bwhen (?:do|does|did|are|is|were|was) {_THEY}(?: (?P<verb>\w+))?\b"):
        dates = said.vocabulary.dates(said.query)
        verb = (match["verb"] or "").lower()[:4]
        places = [p for p in dates if verb and any(part[:4] == verb for part in re.split(r"_| ", p.column))] or dates[:1]
    if match is not None and places:
        said.use(match.start(), match.end())
        said.change(Stage.SHOW, lambda q: _show(q, places[:1], False))


def _related_rows(said: Said) -> None:
    """`which products do they deliver?`: rows of a table that belong to those before."""
    match = said.sees(rf"\b(?:which|what)\s+(?P<noun>\w+)\s+(?:do|does|did|have|has|had)\s+{_THEY}(?:\s+\w+)?")
    table = said.vocabulary.table(match["noun"]) if match else None
    if match is None or table is None or any(t.name == table.name for t in said.query.tables):
        return
    said.use(match.start(), match.end())
    name = table.name.lower()

    def apply(query: Query) -> str:
        query.list_related(name)
        return f"their {name} listed"

    said.change(Stage.SHOW, apply)


def read_columns(said: Said) -> None:
    """Which columns are shown, read last: what is left of the follow-up may name them."""
    hidden = said.sees(r"\b(?:without|drop|remove|hide|leave out|omit|skip|not)\s+(?:(?:the|their)\b)?\s*(?=\w)")
    if hidden is not None and (places := said.list_after(hidden.end())):
        said.use(hidden.start(), hidden.end())
        said.take(r"\bcolumns?\b")
        said.change(Stage.SHOW, lambda q: _hide(q, places))
        return
    only = said.sees(
        r"^\W*(?:now\s+|but\s+)?(?:(?:show|list|give|tell)\s+(?:me\s+)?)?(?:only|just)\s+(?:show\s+|list\s+|"
        r"give\s+me\s+)?(?:(?:the|their|its)\b)?\s*(?=\w)"
    )
    if (
        only is not None
        and said.changes
        and re.search(r"\b(?:with|that|who|which|where|in|from|of|over|under)\b", said.text, re.IGNORECASE)
    ):
        return  # `only countries with more than one`: it names rows
    if only is not None and (places := said.list_after(only.end())):
        said.use(only.start(), only.end())
        said.change(Stage.SHOW, lambda q: _show(q, places, True))
        return
    added = said.sees(
        r"\b(?:also|add|include|including|with|plus|together with|along with|show|list|give|see|display|and|what "
        r"(?:is|are|was|were)|what's|tell me|their|its|need|want|know)\b"
        r"(?:\s+(?:me|also|us|them|those|to see|it|show|list|give|add|include|with|what|is|are))*\s*(?:(?:the|their|"
        r"its|his|her)\b)?\s*(?=\w)"
    )
    start = added.end() if added is not None else 0
    if places := said.list_after(start) or (said.list_after(0) if start else []):
        if added is not None and said.is_free(added.start(), added.end()):
            said.use(added.start(), added.end())
        said.take(r"\b(?:too|as well|also|columns?)\b")
        said.change(Stage.SHOW, lambda q: _show(q, places, False))


def _show(query: Query, places: Sequence[Place], instead: bool) -> str:
    names = listed([p.column for p in places])
    if query.aggregates and not query.is_grouped:
        instead = True
        query.unaggregate()
    columns = [query.column(p, keeps_rows=True) for p in places]
    query.show(columns, instead)
    return f"{'only ' if instead else 'with '}{names}"


def _hide(query: Query, places: Sequence[Place]) -> str:
    kept = []
    for output in query.select.expressions:
        inner = output.unalias()
        is_meant = isinstance(inner, exp.Column) and query.place(inner) in places
        if not is_meant and not any(not p.table and p.column == output.alias_or_name.lower() for p in places):
            kept.append(output)
    if not kept or len(kept) == len(query.select.expressions):
        raise CannotEdit("the column is not shown, or the only one")
    query.select.set("expressions", kept)
    return f"without {listed([p.column for p in places])}"
