"""Follow-ups that keep some rows: `only those in 2010`, `and in Germany?`, `older than 30`, `without the cancelled ones`."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable
from datetime import date, timedelta

from sqlglot import exp

from openarctic.copilot.conversation.mentions import BIRTH, Mention, is_date, is_place, is_year, root
from openarctic.copilot.conversation.query import CannotEdit, Place, Query
from openarctic.copilot.conversation.said import NUMBER, Said, Stage, number_of
from openarctic.copilot.wording import listed

_NOT = re.compile(
    r"\b(?:not|except|without|excluding|exclude|other than|apart from|besides|aside from|no|non|isn't|aren't|wasn't|weren't|"
    r"doesn't|don't|remove|drop|leave out|ignore|ignoring)\s+(?:(?:for|the|those|ones|any|all|from|in|of|that|are|is|"
    r"with|who|which)\s+)*$",
    re.IGNORECASE,
)
_COMPARATORS: tuple[tuple[str, type[exp.Binary]], ...] = (
    (r"(?:at least|no (?:less|fewer) than|not (?:less|fewer) than|a minimum of)", exp.GTE),
    (r"(?:at most|no more than|not more than|up to|a maximum of)", exp.LTE),
    (r"(?:(?:more|greater|higher|bigger|larger|taller|longer|heavier|older|newer|later|faster) than|more \w+ than|"
     r"over|above|exceeding|beyond)", exp.GT),
    (r"(?:(?:less|fewer|lower|smaller|shorter|lighter|younger|cheaper|earlier|slower) than|less \w+ than|under|below)", exp.LT),
    (r"(?:exactly|equal to|precisely)", exp.EQ),
)  # fmt: skip
_SAYS = {exp.GTE: "at least", exp.LTE: "at most", exp.GT: "above", exp.LT: "below", exp.EQ: "exactly"}
_COMPARED = (exp.GT, exp.GTE, exp.LT, exp.LTE)
YEAR = r"(?:1[5-9]|20)\d\d"
_DIRECTIONS = {
    "to": frozenset(("to", "destination", "dest", "arrival", "target", "receiver", "recipient")),
    "from": frozenset(("from", "origin", "source", "departure", "start", "sender")),
}
_MONTHS = [name.lower() for name in calendar.month_name]
_MONTH = "|".join(_MONTHS[1:])
_WHEN = r"(?P<when>before|after|since|until|till|from|in|during|for|of|by)"


def read_filters(said: Said) -> None:
    """All conditions on rows."""
    _missing(said)
    _ranges(said)
    _dates(said)
    _comparisons(said)
    _flags(said)
    _values(said)
    _bare_number(said)
    _dropped(said)


# conditions in general


def add_filter(said: Said, query: Query, place: Place, condition: Callable[[exp.Column], exp.Expr]) -> None:
    """One more condition; on rows that were limited it is about those rows where the follow-up says so, else about all."""
    if said.is_of_them:
        query.settle()
    if not place.table:
        query.nest()
    query.keep(place, condition)


def _literal(value: str | float | int) -> exp.Expr:
    return exp.Literal.string(value) if isinstance(value, str) else exp.Literal.number(value)


def _called(query: Query, place: Place) -> str:
    """The column's name, with the table's where it is another than the one that is asked for."""
    column, table = query.described(place), query.schema.table(place.table)
    if column is None or table is None:
        return place.column
    is_other = query.subject is not None and query.subject.name != table.name
    return f"{table.name} {column.name}" if is_other else column.name


# numbers


def _comparisons(said: Said) -> None:
    for pattern, kind in _COMPARATORS:
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
    noun = re.compile(r"\s+(?P<noun>[^\W\d]\w*)").match(said.text, position)
    if noun is None or not said.is_free(noun.start(), noun.end()):
        return None
    table = said.vocabulary.table(noun["noun"])
    if table is not None:
        said.use(noun.start(), noun.end())
        return table.name.lower()
    places = said.vocabulary.columns(noun["noun"], said.query)
    column = said.query.described(places[0]) if len(places) == 1 else None
    if column is not None and column.is_numeric:
        said.use(noun.start(), noun.end())
        return places[0]
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
    compared = [p for part, p in said.query.filters() if isinstance(part, _COMPARED) and p is not None]
    if said.is_replacing and compared:
        return compared[-1]
    if said.query.is_grouped:
        return None
    if compared:
        return compared[-1]
    try:
        return said.query.measure() if said.query.is_listing else None
    except CannotEdit:
        return None


def _number_of_table(said: Said, match: re.Match[str]) -> Place | None:
    """`payments over 500`: the only number that a payment has, if it is that table's rows that are read."""
    noun = re.search(r"(\w+)\s+(?:that are\s+|of\s+|with\s+)?$", said.text[: match.start()])
    table = said.vocabulary.table(noun[1]) if noun else None
    if table is None or noun is None or all(t.name != table.name for t in said.query.tables):
        return None
    keys = {k.lower() for k in table.primary_key} | {k.column.lower() for k in table.foreign_keys}
    numbers = [c for c in table.columns if c.is_numeric and c.name.lower() not in keys and not is_year(c)]
    if len(numbers) != 1:
        return None
    said.explain([table.name])
    return Place(table.name.lower(), numbers[0].name.lower())


def _compare(said: Said, query: Query, place: Place, kind: type[exp.Binary], number: float | int) -> str:
    query.drop_filters(lambda part, p: p == place and _same_side(part, kind) and (said.is_replacing or not said.is_of_them))
    add_filter(said, query, place, lambda c: kind(this=c, expression=_literal(number)))
    return f"{_called(query, place)} {_SAYS[kind]} {number}"


def _same_side(part: exp.Expr, kind: type[exp.Binary]) -> bool:
    """Whether a new bound takes the place of this one: a number in the place of a number."""
    return isinstance(part, (*_COMPARED, exp.EQ, exp.Between))


def _keep_groups(query: Query, kind: type[exp.Binary], number: float | int) -> str:
    aggregate = query.aggregates[-1] if query.aggregates else exp.Count(this=exp.Star())
    query.select.having(kind(this=aggregate.copy(), expression=_literal(number)), copy=False)
    return f"{aggregate.sql()} {_SAYS[kind]} {number}"


def _keep_counted(said: Said, query: Query, table: str, kind: type[exp.Binary], number: float | int) -> str:
    counts = [a for a in query.aggregates if isinstance(a, exp.Count)]
    if query.is_grouped and counts:
        return _keep_groups(query, kind, number)
    if said.is_of_them:
        query.settle()
    query.keep_related(table, lambda count: kind(this=count, expression=_literal(number)))
    return f"with {_SAYS[kind]} {number} {table}"


def _ranges(said: Said) -> None:
    match = said.take(rf"\b(?:between|from)\s+(?P<low>{NUMBER})\s+(?:and|to)\s+(?P<high>{NUMBER})")
    if match is None:
        return
    low, high = number_of(match["low"]), number_of(match["high"])
    is_years = all(re.fullmatch(YEAR, match[k]) for k in ("low", "high"))
    dates = said.vocabulary.dates(said.query) if is_years else []
    if dates:
        place = _date_place(said, dates)
        said.change(Stage.FILTER, lambda q: _within(said, q, place, date(int(low), 1, 1), date(int(high), 12, 31)))
        return
    before = said.columns_before(match.start())
    compared = [p for part, p in said.query.filters() if isinstance(part, (*_COMPARED, exp.Between)) and p is not None]
    place = before[0] if before else compared[-1] if compared else said.query.measure()

    def apply(query: Query) -> str:
        query.drop_filters(lambda part, p: p == place and isinstance(part, (*_COMPARED, exp.EQ, exp.Between)))
        add_filter(said, query, place, lambda c: exp.Between(this=c, low=_literal(low), high=_literal(high)))
        return f"{_called(query, place)} from {low} to {high}"

    said.change(Stage.FILTER, apply)


def _bare_number(said: Said) -> None:
    """`and 5?` after a query with one number in its conditions."""
    if said.changes or not said.is_replacing:
        return
    match = said.sees(rf"\b{NUMBER}")
    numbers = [n for n in _numbers_of(said.query)]
    if match is None or len(numbers) != 1:
        return
    said.use(match.start(), match.end())
    new = number_of(match.group())

    def apply(query: Query) -> str:
        old = next(iter(_numbers_of(query)))
        said_old = old.name
        old.replace(_literal(new))
        return f"{new} instead of {said_old}"

    said.change(Stage.FILTER, apply)


def _numbers_of(query: Query) -> Iterable[exp.Literal]:
    clauses = [query.select.args.get(k) for k in ("where", "having")]
    return [n for c in clauses if c is not None for n in c.find_all(exp.Literal) if not n.is_string]


# dates


def _dates(said: Said) -> None:
    day = said.take(rf"\b(?:(?:on|{_WHEN})\s+)?(?P<day>\d{{4}}-\d{{2}}-\d{{2}})\b")
    if day is not None:
        _on_day(said, day)
        return
    month = said.take(rf"\b(?:{_WHEN}\s+)?(?P<month>{_MONTH})(?:\s+(?:of\s+)?(?P<year>{YEAR}))?\b")
    if month is not None:
        _in_month(said, month)
        return
    match = said.sees(rf"\b(?:{_WHEN}\s+)?(?P<year>{YEAR})(?:\s+onwards?)?\b(?!\s*(?:dollars|euros|pounds))")
    dates = said.vocabulary.dates(said.query) if match else []
    if match is not None and dates and not _is_threshold(said, match):
        said.use(match.start(), match.end())
        others = []
        while other := said.take(rf"\s*(?:and|or|,)\s+(?:in\s+)?(?P<year>{YEAR})\b"):
            others.append(int(other["year"]))
        _in_year(said, match, dates, others)


def _is_threshold(said: Said, match: re.Match[str]) -> bool:
    """`over 2000` is a number, not a year."""
    return bool(re.search(r"(?:than|over|under|above|below|least|most|to)\s*$", said.text[: match.start()], re.IGNORECASE))


def _date_place(said: Said, dates: list[Place]) -> Place:
    """The date that the text names (`joined in 2010`, `hired after 2015`), else the nearest."""
    words = {w.lower() for w in re.findall(r"\w+", said.text)}
    if "born" in words and (births := [p for p in dates if BIRTH.search(p.column)]):
        said.take(r"\bborn\b")
        return births[0]
    for place in dates:
        parts = set(re.split(r"_| ", place.column)) - {"date", "on", "at", "year", "day", "time"}
        named = {
            p
            for p in parts
            if p in words or {p + "ed", p + "d", p.removesuffix("th")} & words or p[:4] in {w[:4] for w in words if len(w) > 3}
        }
        if parts and named:
            for part in parts:
                said.take(rf"\b{re.escape(part[:4])}\w*")
            return place
    return dates[0]


def _in_year(said: Said, match: re.Match[str], dates: list[Place], others: list[int]) -> None:
    year, place = int(match["year"]), _date_place(said, dates)
    when = (match["when"] or "in").lower()
    if "onward" in match.group():
        when = "since"

    def apply(query: Query) -> str:
        column = query.described(place)
        if when in ("in", "during", "for", "of", "from", "by") and not others and _shift_year(query, place, year):
            return f"{year} instead of the year before"
        is_number = column is not None and is_year(column) and not is_date(column)
        if others:
            return _in_years(said, query, place, [year, *others], is_number)
        if when in ("before", "until", "till"):
            end = date(year, 1, 1) if when == "before" else date(year + 1, 1, 1)
            return _bounded(said, query, place, exp.LT, end, is_number)
        if when in ("after", "since"):
            start = date(year + (when == "after"), 1, 1)
            return _bounded(said, query, place, exp.GTE, start, is_number)
        if is_number:
            _drop_dates(said, query, place)
            is_text = column is not None and not column.is_numeric
            add_filter(said, query, place, lambda c: exp.EQ(this=c, expression=_literal(str(year) if is_text else year)))
            return f"{_called(query, place)} {year}"
        return _within(said, query, place, date(year, 1, 1), date(year, 12, 31))

    said.change(Stage.FILTER, apply)


def _in_years(said: Said, query: Query, place: Place, years: list[int], is_number: bool) -> str:
    _drop_dates(said, query, place)
    if is_number:
        add_filter(said, query, place, lambda c: exp.In(this=c, expressions=[_literal(y) for y in years]))
    else:
        add_filter(
            said,
            query,
            place,
            lambda c: exp.paren(exp.or_(*(_half_open(c.copy(), date(y, 1, 1), date(y, 12, 31)) for y in years))),
        )
    return f"{_called(query, place)} in {listed([str(y) for y in years], 'or')}"


def _drop_dates(said: Said, query: Query, place: Place) -> None:
    if not said.is_of_them:
        query.drop_filters(lambda part, p: p == place)


def _shift_year(query: Query, place: Place, year: int) -> bool:
    """Where the earlier query is about one year of that column, be it in whatever form, the same form for the new one."""
    conditions = [part for part, p in query.filters() if p == place]
    literals = [n for part in conditions for n in part.find_all(exp.Literal) if re.match(YEAR, n.name)]
    first = min((int(n.name[:4]) for n in literals), default=None)
    if first is None or any(int(n.name[:4]) - first > 1 for n in literals):
        return False
    one_sided = len(conditions) == 1 and isinstance(conditions[0], _COMPARED)
    if one_sided or any(isinstance(part, exp.NEQ | exp.Not) for part in conditions):
        return False
    for literal in literals:
        moved = f"{int(literal.name[:4]) - first + year}{literal.name[4:]}"
        literal.replace(exp.Literal.string(moved) if literal.is_string else exp.Literal.number(moved))
    return True


def _bounded(said: Said, query: Query, place: Place, kind: type[exp.Binary], bound: date, is_number: bool) -> str:
    query.drop_filters(lambda part, p: p == place and not said.is_of_them)
    value: str | int = bound.year if is_number else bound.isoformat()
    add_filter(said, query, place, lambda c: kind(this=c, expression=_literal(value)))
    return f"{_called(query, place)} {'before' if kind is exp.LT else 'from'} {value}{'' if kind is exp.LT else ' on'}"


def _half_open(column: exp.Column, first: date, last: date) -> exp.Expr:
    start, end = _literal(first.isoformat()), _literal((last + timedelta(days=1)).isoformat())
    return exp.and_(exp.GTE(this=column, expression=start), exp.LT(this=column.copy(), expression=end))


def _within(said: Said, query: Query, place: Place, first: date, last: date) -> str:
    column = query.described(place)
    _drop_dates(said, query, place)
    if column is not None and is_year(column) and not is_date(column):
        add_filter(said, query, place, lambda c: exp.Between(this=c, low=_literal(first.year), high=_literal(last.year)))
        return f"{_called(query, place)} from {first.year} to {last.year}"
    add_filter(said, query, place, lambda c: _half_open(c, first, last))
    is_whole_year = (first.month, first.day, last.month, last.day) == (1, 1, 12, 31)
    told = str(first.year) if is_whole_year and first.year == last.year else f"from {first} to {last}"
    return f"{_called(query, place)} {told if not told.isdigit() else f'in {told}'}"


def _on_day(said: Said, match: re.Match[str]) -> None:
    day, dates = date.fromisoformat(match["day"]), said.vocabulary.dates(said.query)
    if not dates:
        raise CannotEdit("there is no date")
    place, when = _date_place(said, dates), (match["when"] or "on").lower()

    def apply(query: Query) -> str:
        if when == "before":
            return _bounded(said, query, place, exp.LT, day, False)
        if when in ("until", "till"):
            return _bounded(said, query, place, exp.LT, day + timedelta(days=1), False)
        if when in ("after", "since", "from"):
            return _bounded(said, query, place, exp.GTE, day + timedelta(days=when == "after"), False)
        return _within(said, query, place, day, day)

    said.change(Stage.FILTER, apply)


def _in_month(said: Said, match: re.Match[str]) -> None:
    dates = [p for p in said.vocabulary.dates(said.query) if not (c := said.query.described(p)) or is_date(c)]
    if not dates:
        raise CannotEdit("there is no date")
    place, month = _date_place(said, dates), _MONTHS.index(match["month"].lower())
    year = int(match["year"]) if match["year"] else _year_of(said.query, place)

    def apply(query: Query) -> str:
        if year is not None:
            last = calendar.monthrange(year, month)[1]
            return _within(said, query, place, date(year, month, 1), date(year, month, last))
        add_filter(said, query, place, lambda c: exp.EQ(this=month_of(c, said.dialect), expression=_literal(month)))
        return f"{_called(query, place)} in {match['month'].capitalize()}"

    said.change(Stage.FILTER, apply)


def _year_of(query: Query, place: Place) -> int | None:
    """The only year that the conditions on a date name."""
    literals = [n.name for part, p in query.filters() if p == place for n in part.find_all(exp.Literal)]
    years = {int(n[:4]) for n in literals if re.match(YEAR, n)}
    return min(years) if years and max(years) - min(years) <= 1 else None


def part_of(column: exp.Expr, part: str, dialect: str) -> exp.Expr:
    """The year or month number of a date."""
    if dialect == "sqlite":
        text = exp.Anonymous(this="STRFTIME", expressions=[_literal({"year": "%Y", "month": "%m"}[part]), column])
        return exp.Cast(this=text, to=exp.DataType.build("INTEGER"))
    return exp.Extract(this=exp.var(part.upper()), expression=column)


def month_of(column: exp.Expr, dialect: str) -> exp.Expr:
    """The number of a date's month."""
    return part_of(column, "month", dialect)


# values


def _flags(said: Said) -> None:
    """`only the official ones`, `not cancelled`: a column that says yes or no."""
    if not re.search(r"\b(?:only|just|ones?|not|those|which|that|who|are|is|non)\b", said.text, re.IGNORECASE):
        return
    for word, place, yes, no in said.vocabulary.flags(said.query):
        match = said.take(rf"\b(?P<not>(?:not|non|aren't|isn't|weren't|wasn't)[\s-]+)?{re.escape(word)}\b")
        if match is not None:
            said.change(Stage.FILTER, _flagged(said, place, no if match["not"] else yes))


def _flagged(said: Said, place: Place, value: str | bool | int) -> Callable[[Query], str]:
    def apply(query: Query) -> str:
        query.drop_filters(lambda part, p: p == place)
        add_filter(said, query, place, lambda c: exp.EQ(this=c, expression=exp.convert(value)))
        return f"{_called(query, place)} {value}"

    return apply


def _values(said: Said) -> None:
    found = [m for m in said.vocabulary.mentions(said.text, said.query) if said.is_free(m.start, m.end)]
    found.sort(key=lambda m: m.start)
    while found:
        mention = found.pop(0)
        place = _chosen_place(said, mention)
        said.use(mention.start, mention.end)
        values, first = [mention.value], mention.start
        while found and place in found[0].places and _is_list(said.text[mention.end : found[0].start]):
            mention = found.pop(0)
            said.use(mention.start, mention.end)
            values.append(mention.value)
        denial = _NOT.search(said.text[:first])
        if denial is not None:
            said.use(denial.start(), denial.end())
        said.explain([place.column, place.table])
        said.change(Stage.FILTER, _valued(said, place, values, denial is not None))
    _typed(said)


def _is_list(between: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:,|and|or|,\s*and|,\s*or|or in|and in|or from|and from)?\s*", between, re.IGNORECASE))


def _chosen_place(said: Said, mention: Mention) -> Place:
    """Of several places of a value that whose column the text names or its preposition means, else the nearest."""
    words = {w.lower() for w in re.findall(r"\w+", said.text)}
    named = [p for p in mention.places if p.column in words or p.column + "s" in words]
    before = re.search(r"\b(to|from)\s+$", said.text[: mention.start], re.IGNORECASE)
    meant = _DIRECTIONS.get(before[1].lower(), frozenset()) if before else frozenset()
    led = [p for p in mention.places if meant & set(re.split(r"[_ ]", p.column))]
    return (named or led or mention.places)[0]


def _valued(said: Said, place: Place, values: list[str], is_denied: bool) -> Callable[[Query], str]:
    def apply(query: Query) -> str:
        name, told = _called(query, place), listed([f"'{v}'" for v in values], "or")
        if is_denied:
            add_filter(said, query, place, lambda c: _denied(c, values))
            return f"without {name} {told}"
        inner = swap_value(query, place, values, said.is_widening)
        if inner:
            return inner
        query.drop_filters(lambda part, p: _is_replaced(said, query, part, p, place))
        add_filter(said, query, place, lambda c: equals(c, values))
        return f"{name} {told}"

    return apply


def _is_replaced(said: Said, query: Query, part: exp.Expr, old: Place | None, new: Place) -> bool:
    """`in Berlin` gives way to `and in Germany?`: two answers to the question where."""
    if not said.is_replacing or old is None or old == new or old.table != new.table or not isinstance(part, exp.EQ | exp.In):
        return False
    return is_place(old.column) and is_place(new.column)


def equals(column: exp.Expr, values: list[str]) -> exp.Expr:
    """One value or one of several."""
    if len(values) == 1:
        return exp.EQ(this=column, expression=_literal(values[0]))
    return exp.In(this=column, expressions=[_literal(v) for v in values])


def _denied(column: exp.Expr, values: list[str]) -> exp.Expr:
    if len(values) == 1:
        return exp.NEQ(this=column, expression=_literal(values[0]))
    return exp.Not(this=exp.In(this=column, expressions=[_literal(v) for v in values]))


def swap_value(query: Query, place: Place, values: list[str], is_widening: bool) -> str:
    """Where the query (also a nested one) compares that column already, other values there; empty where it does not."""
    for node in list(query.select.find_all(exp.EQ, exp.In)):
        column = node.this
        if not isinstance(column, exp.Column) or query.place_within(column) != place:
            continue
        old = node.expressions if isinstance(node, exp.In) else [node.expression]
        if not old or not all(isinstance(o, exp.Literal) and o.is_string for o in old) or isinstance(node.parent, exp.Not):
            continue
        before = [o.name for o in old]
        if before == values:
            return f"{column.name} {listed([repr(v) for v in values], 'or')}"
        merged = [*before, *(v for v in values if v not in before)] if is_widening else values
        node.replace(equals(column.copy(), merged))
        told = listed([f"'{v}'" for v in merged], "or")
        return f"{column.name} {told}" + ("" if is_widening else f" instead of {listed([repr(v) for v in before], 'or')}")
    return ""


def _typed(said: Said) -> None:
    """`what about Ada Keller?`, where the earlier query compares one text and the new one is in no sample of the column."""
    rest = said.left_text()
    if said.changes or not rest or not said.is_replacing or not (rest[:1].isupper() or rest[:1].isdigit()):
        return
    equal = [
        (n, p)
        for n in said.query.select.find_all(exp.EQ)
        if isinstance(n.this, exp.Column) and isinstance(n.expression, exp.Literal) and n.expression.is_string
        if (p := said.query.place_within(n.this)) is not None
    ]
    if len(equal) != 1 or said.vocabulary.table(rest) is not None:
        return
    place = equal[0][1]
    start = said.text.find(rest)
    said.use(start, start + len(rest))
    said.change(Stage.FILTER, lambda q: swap_value(q, place, [rest], False))


# what is missing, and filters that go away


def _missing(said: Said) -> None:
    for pattern, is_null in (
        (
            r"\b(?:(?:with|have|has|having|had)\s+no|without\s+(?:an?|any)|(?:with|have|has)\s+(?:a\s+)?missing|"
            r"lacking(?:\s+an?)?|no)\s+(?=\w)",
            True,
        ),
        (r"\b(?:that|who|which)\s+(?:have|has)\s+(?:an?|any)\s+(?=\w)|\bwith\s+(?:an?|any)\s+(?:known\s+)?(?=\w)", False),
    ):
        match = said.sees(pattern)
        if match is None:
            continue
        noun = re.compile(r"(\w+)").match(said.text, match.end())
        table = said.vocabulary.table(noun[1]) if noun else None
        if table is not None and noun is not None and said.query.distance(table.name.lower()):
            said.use(match.start(), noun.end())
            said.change(Stage.FILTER, _related(said, table.name.lower(), is_null))
            continue
        places = said.vocabulary.columns(noun[1], said.query) if noun else []
        if noun is None or not places or not places[0].table:
            continue
        place = places[0]
        after = re.compile(r"\s+(?:of\b|over\b|under\b|above\b|below\b|more\b|less\b|than\b|at\b|between\b)").match(
            said.text, noun.end()
        )
        if after is None:
            said.use(match.start(), noun.end())
            said.change(Stage.FILTER, _nulls(said, place, is_null))


def _nulls(said: Said, place: Place, is_null: bool) -> Callable[[Query], str]:
    def apply(query: Query) -> str:
        def condition(column: exp.Column) -> exp.Expr:
            test = exp.Is(this=column, expression=exp.Null())
            return test if is_null else exp.Not(this=test)

        add_filter(said, query, place, condition)
        return f"{_called(query, place)} is {'missing' if is_null else 'known'}"

    return apply


def _related(said: Said, table: str, is_null: bool) -> Callable[[Query], str]:
    def apply(query: Query) -> str:
        if said.is_of_them:
            query.settle()
        query.keep_related(table, lambda count: exp.GT(this=count, expression=_literal(0)))
        if is_null:
            where = query.select.args["where"]
            among = list(where.find_all(exp.In))[-1]
            inner = among.args["query"].this
            inner.set("having", None)
            inner.set("group", None)
            key = inner.expressions[0].copy()
            inner.where(exp.Not(this=exp.Is(this=key, expression=exp.Null())), copy=False)
            among.replace(exp.Not(this=among.copy()))
        return f"with{'out' if is_null else ''} {table}"

    return apply


def _dropped(said: Said) -> None:
    """`for all countries`, `in any year`, `without that filter`: a condition goes away."""
    if said.take(
        r"\b(?:without|remove|drop|forget|ignore|clear)\s+(?:that|the|this|all|any|these)\s+(?:last\s+)?(?:filters?|"
        r"conditions?|restrictions?)\b"
    ):
        said.change(Stage.FILTER, lambda q: _drop_last(said, q))
        return
    match = said.sees(r"\b(?:for|in|of|from|across|over)?\s*(?:all|any|every|regardless of|whatever)\s+(?:the\s+)?(?=\w)")
    if match is None:
        return
    noun = re.compile(r"(\w+)").match(said.text, match.end())
    places = said.vocabulary.columns(noun[1], said.query) if noun else []
    filtered = {p for _, p in said.query.filters()}
    meant = [p for p in places if p in filtered]
    if noun is not None and meant:
        said.use(match.start(), noun.end())
        said.change(Stage.FILTER, lambda q: _drop_place(q, meant[0]))


def _drop_place(query: Query, place: Place) -> str:
    query.drop_filters(lambda part, p: p == place)
    return f"whatever the {_called(query, place)}"


def _drop_last(said: Said, query: Query) -> str:
    before = {part.sql() for part, _ in said.earlier.filters()} if said.earlier is not None else set()
    new = [part for part, _ in query.filters() if part.sql() not in before] or [part for part, _ in query.filters()][-1:]
    if not new:
        raise CannotEdit("there is no filter")
    texts = {part.sql() for part in new}
    query.drop_filters(lambda part, p: part.sql() in texts)
    return "without the last filter"
