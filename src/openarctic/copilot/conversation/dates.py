"""Follow-ups about time: `only those in 2010`, `before 2015`, `in May`, `on 2023-05-01`; and the parts of a date."""

from __future__ import annotations

import calendar
import re
from datetime import date, timedelta

from sqlglot import exp

from openarctic.copilot.conversation.mentions import BIRTH
from openarctic.copilot.conversation.query import CannotEdit, Place, Query
from openarctic.copilot.conversation.said import YEAR, Said, Stage
from openarctic.copilot.wording import MONTHS, listed

COMPARED = (exp.GT, exp.GTE, exp.LT, exp.LTE)
_MONTH = "|".join(MONTHS)
_WHEN = r"(?P<when>before|after|since|until|till|from|in|during|for|of|by)"


def read_dates(said: Said) -> None:
    """A day, a month, or years."""
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


def date_place(said: Said, dates: list[Place]) -> Place:
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
    year, place = int(match["year"]), date_place(said, dates)
    when = (match["when"] or "in").lower()
    if "onward" in match.group():
        when = "since"

    def apply(query: Query) -> str:
        if when in ("in", "during", "for", "of", "from", "by") and not others and _shift_year(query, place, year):
            return f"{year} instead of the year before"
        if others:
            return _in_years(said, query, place, [year, *others])
        if when in ("before", "until", "till"):
            end = date(year, 1, 1) if when == "before" else date(year + 1, 1, 1)
            return _bounded(said, query, place, exp.LT, end)
        if when in ("after", "since"):
            start = date(year + (when == "after"), 1, 1)
            return _bounded(said, query, place, exp.GTE, start)
        if _holds_years(query, place):
            _drop_dates(said, query, place)
            is_text = (column := query.described(place)) is not None and not column.is_numeric
            said.keep(query, place, lambda c: exp.EQ(this=c, expression=exp.convert(str(year) if is_text else year)))
            return f"{query.called(place)} {year}"
        return keep_within(said, query, place, date(year, 1, 1), date(year, 12, 31))

    said.change(Stage.FILTER, apply)


def _in_years(said: Said, query: Query, place: Place, years: list[int]) -> str:
    def condition(column: exp.Column) -> exp.Expr:
        if _holds_years(query, place):
            return exp.In(this=column, expressions=[exp.convert(y) for y in years])
        return exp.paren(exp.or_(*(_half_open(column.copy(), date(y, 1, 1), date(y, 12, 31)) for y in years)))

    _drop_dates(said, query, place)
    said.keep(query, place, condition)
    return f"{query.called(place)} in {listed([str(y) for y in years], 'or')}"


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
    one_sided = len(conditions) == 1 and isinstance(conditions[0], COMPARED)
    if one_sided or any(isinstance(part, exp.NEQ | exp.Not) for part in conditions):
        return False
    for literal in literals:
        moved = f"{int(literal.name[:4]) - first + year}{literal.name[4:]}"
        literal.replace(exp.Literal.string(moved) if literal.is_string else exp.Literal.number(moved))
    return True


def _bounded(said: Said, query: Query, place: Place, kind: type[exp.LT | exp.GTE], bound: date) -> str:
    _drop_dates(said, query, place)
    value = bound.year if _holds_years(query, place) else bound.isoformat()
    said.keep(query, place, lambda c: kind(this=c, expression=exp.convert(value)))
    return f"{query.called(place)} {f'before {value}' if kind is exp.LT else f'from {value} on'}"


def _holds_years(query: Query, place: Place) -> bool:
    """Whether the column holds years as numbers or texts, and no dates."""
    column = query.described(place)
    return column is not None and column.is_year and not column.is_date


def _half_open(column: exp.Column, first: date, last: date) -> exp.Expr:
    start, end = exp.convert(first.isoformat()), exp.convert((last + timedelta(days=1)).isoformat())
    return exp.and_(exp.GTE(this=column, expression=start), exp.LT(this=column.copy(), expression=end))


def keep_within(said: Said, query: Query, place: Place, first: date, last: date) -> str:
    """Only what lies between two days, both included."""
    _drop_dates(said, query, place)
    if _holds_years(query, place):
        said.keep(query, place, lambda c: exp.Between(this=c, low=exp.convert(first.year), high=exp.convert(last.year)))
        return f"{query.called(place)} from {first.year} to {last.year}"
    said.keep(query, place, lambda c: _half_open(c, first, last))
    is_year_long = (first, last) == (date(first.year, 1, 1), date(first.year, 12, 31))
    return f"{query.called(place)} {f'in {first.year}' if is_year_long else f'from {first} to {last}'}"


def _day_place(said: Said) -> Place:
    """The date that is meant where more than its year is said."""
    dates = [p for p in said.vocabulary.dates(said.query) if not _holds_years(said.query, p)]
    if not dates:
        raise CannotEdit("there is no date")
    return date_place(said, dates)


def _on_day(said: Said, match: re.Match[str]) -> None:
    day, place, when = date.fromisoformat(match["day"]), _day_place(said), (match["when"] or "on").lower()

    def apply(query: Query) -> str:
        if when == "before":
            return _bounded(said, query, place, exp.LT, day)
        if when in ("until", "till"):
            return _bounded(said, query, place, exp.LT, day + timedelta(days=1))
        if when in ("after", "since", "from"):
            return _bounded(said, query, place, exp.GTE, day + timedelta(days=when == "after"))
        return keep_within(said, query, place, day, day)

    said.change(Stage.FILTER, apply)


def _in_month(said: Said, match: re.Match[str]) -> None:
    place, month = _day_place(said), MONTHS.index(match["month"].lower()) + 1
    year = int(match["year"]) if match["year"] else _year_of(said.query, place)

    def apply(query: Query) -> str:
        if year is not None:
            last = calendar.monthrange(year, month)[1]
            return keep_within(said, query, place, date(year, month, 1), date(year, month, last))
        said.keep(query, place, lambda c: exp.EQ(this=_part_number(c, "month", said.dialect), expression=exp.convert(month)))
        return f"{query.called(place)} in {match['month'].capitalize()}"

    said.change(Stage.FILTER, apply)


def _year_of(query: Query, place: Place) -> int | None:
    """The only year that the conditions on a date name."""
    literals = [n.name for part, p in query.filters() if p == place for n in part.find_all(exp.Literal)]
    years = {int(n[:4]) for n in literals if re.match(YEAR, n)}
    return min(years) if years and max(years) - min(years) <= 1 else None


def _part_number(column: exp.Expr, part: str, dialect: str) -> exp.Expr:
    """The year or month of a date, as a number."""
    if dialect == "sqlite":
        text = exp.Anonymous(this="STRFTIME", expressions=[exp.convert({"year": "%Y", "month": "%m"}[part]), column])
        return exp.Cast(this=text, to=exp.DataType.build("INTEGER"))
    return exp.Extract(this=exp.var(part.upper()), expression=column)


def date_part(query: Query, place: Place, part: str, dialect: str) -> exp.Expr:
    """The year, quarter, month, week or day of a date, as a group of rows has it in common."""
    column = query.column(place)
    if _holds_years(query, place):
        if part != "year":
            raise CannotEdit("only years are known")
        return column
    if part == "year":
        return _part_number(column, "year", dialect)
    if dialect == "sqlite":
        if part not in ("month", "day"):
            raise CannotEdit("SQLite has no such part")
        form = {"month": "%Y-%m", "day": "%Y-%m-%d"}[part]
        return exp.Anonymous(this="STRFTIME", expressions=[exp.Literal.string(form), column])
    return exp.func("DATE_TRUNC", exp.Literal.string(part), column, dialect=dialect)
