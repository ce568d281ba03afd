"""Comparisons as the question words them: what a text begins with, ends with or contains, whether a bound is included, which day.

Small models mix these up where the words leave no doubt: `LIKE 'M%'` for "containing the letter M", `> 2` for "at least two",
`'June 21, 2002'` beside a column of dates. What the words do not say plainly stays as the model wrote it, and the direction of
a comparison always does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from openarctic.copilot.asked import COMPARATORS, NUMBER, SMALL_NUMBERS
from openarctic.copilot.joins import all_of, short_text
from openarctic.copilot.schema import Column, Schema

_PATTERNS = {"contains": "%{}%", "begins": "{}%", "ends": "%{}"}
_PATTERN_CUE = re.compile(
    r"\b(?:(?P<contains>contain\w*|includ\w*|letters?|characters?|substring|words?|phrase)|(?P<begins>start\w*|beg[aiu]n\w*|"
    r"prefix\w*|first letter)|(?P<ends>end(?:s|ing|ed)?|finish\w*|suffix\w*))\b",
    re.IGNORECASE,
)
_CUE_CHARS = 30  # how far before a text the words stand that speak of it

_BEFORE = [(re.compile(rf"\b{words}$", re.IGNORECASE), kind) for words, kind in COMPARATORS if kind is not exp.EQ]
_AFTER: list[tuple[re.Pattern[str], type[exp.Binary]]] = [
    (re.compile(rf"(?:\w+ )?(?:or|and) (?:{words})\b(?! than)", re.IGNORECASE), kind)
    for words, kind in (
        ("more|greater|higher|larger|bigger|older|longer|taller|above|over|up", exp.GTE),
        ("less|fewer|lower|smaller|younger|shorter|below|under", exp.LTE),
    )
]
# The side to which a comparison looks; which of the two of a side is meant, words tell.
_SIDE = {exp.GT: 1, exp.GTE: 1, exp.LT: -1, exp.LTE: -1}
_COUNTS = {**SMALL_NUMBERS, "one": 1, "once": 1, "twice": 2}
_COUNT_WORD = re.compile(rf"\b(?:{'|'.join(_COUNTS)})\b", re.IGNORECASE)

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = rf"(?P<month>{'|'.join(rf'{m[:3]}(?:{m[3:]})?' if m[3:] else m for m in _MONTHS)}|sept)\.?"
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
_DATES = [
    re.compile(rf"\b(?:{form})\b", re.IGNORECASE)
    for form in (rf"{_MONTH} (?:the )?{_DAY},? (?:of )?{_YEAR}", rf"{_DAY} (?:of )?{_MONTH},? {_YEAR}")
]
_LATEST = re.compile(r"\b(?:youngest|newest|latest|most recent(?:ly)?)\b", re.IGNORECASE)
_EARLIEST = re.compile(r"\b(?:oldest|earliest)\b", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}\b")


def as_worded(short_sql: str, question: str, schema: Schema) -> str:
    """The same SQL, its comparisons as `question` words them. Raises sqlglot.errors.SqlglotError for what cannot be parsed."""
    tree = sqlglot.parse_one(short_sql, read="sqlite")
    changed = [
        _patterns(tree, question),
        _bounds(tree, question),
        _days(tree, question, schema),
        _ends(tree, question, schema),
    ]
    return short_text(tree) if any(changed) else short_sql


def _patterns(tree: exp.Expr, question: str) -> bool:
    """Whether a text that the question says once was given its `%` where the words before it want them."""
    is_changed = False
    for like in tree.find_all(exp.Like):
        text = like.expression
        core = text.name.strip("%") if isinstance(text, exp.Literal) and text.is_string else ""
        if not core or "%" in core or "_" in core:
            continue
        spots = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(core)}(?!\w)", question, re.IGNORECASE)]
        kind = _pattern_before(question[: spots[0]]) if len(spots) == 1 else None
        if kind is not None and (wanted := _PATTERNS[kind].format(core)) != text.name:
            text.replace(exp.Literal.string(wanted))
            is_changed = True
    return is_changed


def _pattern_before(words: str) -> str | None:
    """Where a text stands, by the nearest words before it: "begins with the letter" tells more than its "letter"."""
    kinds = [str(cue.lastgroup) for cue in _PATTERN_CUE.finditer(words) if len(words) - cue.end() <= _CUE_CHARS]
    return next((kind for kind in reversed(kinds) if kind != "contains"), kinds[-1] if kinds else None)


def _bounds(tree: exp.Expr, question: str) -> bool:
    """Whether a bound was included, or left out, as the question says of its number."""
    is_changed = False
    told = dict(_told_bounds(question))
    for comparison in list(tree.find_all(*_SIDE)) if told else ():
        number = comparison.expression
        if not isinstance(number, exp.Literal) or number.is_string or not NUMBER.fullmatch(number.name):
            continue
        wanted = told.get(float(number.name), type(comparison))
        if wanted is not type(comparison) and _SIDE[wanted] == _SIDE[type(comparison)]:
            comparison.replace(wanted(this=comparison.this, expression=number))
            is_changed = True
    return is_changed


def _told_bounds(question: str) -> Iterator[tuple[float, type[exp.Binary]]]:
    """The numbers that the question states once, and the comparison that the words around each ask for."""
    found = [(float(m.group().replace(",", "")), m) for m in NUMBER.finditer(question)]
    found += [(float(_COUNTS[m.group().lower()]), m) for m in _COUNT_WORD.finditer(question)]
    values = [value for value, _ in found]
    for value, match in found:
        before, after = question[: match.start()].rstrip(), question[match.end() :].lstrip()
        kinds = [kind for words, kind in _AFTER if words.match(after)]
        kinds += [kind for words, kind in _BEFORE if words.search(before)]
        if kinds and values.count(value) == 1:
            yield value, kinds[0]


def _ends(tree: exp.Expr, question: str, schema: Schema) -> bool:
    """Whether rows in the order of a date, of which the first few are wanted, were turned: the youngest were born last."""
    latest, earliest = _LATEST.search(question), _EARLIEST.search(question)
    is_changed = False
    for order in tree.find_all(exp.Order) if bool(latest) != bool(earliest) else ():
        key = order.expressions[0]
        if len(order.expressions) > 1 or order.parent is None or not order.parent.args.get("limit"):
            continue
        if isinstance(key.this, exp.Column) and all_of(key.this, schema, lambda c: c.is_date or c.is_year):
            is_changed |= bool(key.args.get("desc")) != bool(latest)
            order.set("expressions", [exp.Ordered(this=key.this, desc=bool(latest), nulls_first=not latest)])
    return is_changed


def _days(tree: exp.Expr, question: str, schema: Schema) -> bool:
    """Whether a day was written as the column that it is compared with writes days."""
    asked = _days_of(question)
    is_changed = False
    for compared in list(tree.find_all(exp.EQ, exp.NEQ, *_SIDE)) if asked else ():
        column, text = compared.this, compared.expression
        if not isinstance(column, exp.Column) or not isinstance(text, exp.Literal) or _ISO.match(text.name):
            continue
        days = _days_of(text.name) or asked
        if len(days) == 1 and text.is_string and all_of(column, schema, _is_of_days):
            text.replace(exp.Literal.string(days[0]))
            is_changed = True
    return is_changed


def _days_of(text: str) -> list[str]:
    """The days that a text names with month, day and year, as YYYY-MM-DD."""
    found = sorted((m for form in _DATES for m in form.finditer(text)), key=re.Match.start)
    names = [month[:3] for month in _MONTHS]
    return [f"{m['year']}-{names.index(m['month'].lower()[:3]) + 1:02}-{int(m['day']):02}" for m in found]


def _is_of_days(column: Column) -> bool:
    if column.values:
        return all(map(_ISO.match, column.values))
    return any(word in column.type.upper() for word in ("DATE", "TIMESTAMP"))
