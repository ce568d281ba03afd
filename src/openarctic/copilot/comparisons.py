"""Comparisons as the question words them: what a text begins with, ends with or contains, whether a bound is included, which day.

Small models mix these up where the words leave no doubt: `LIKE 'M%'` for "containing the letter M", `> 2` for "at least two",
`'June 21, 2002'` beside a column of dates. What the words do not say plainly stays as the model wrote it: texts, numbers and days
that the question or the statement has twice, and the direction of every comparison. A wrong change here would cost a right
answer, so each rule is held against queries that people wrote (docs/log.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import date

import sqlglot
from sqlglot import exp

from openarctic.copilot.asked import COMPARATORS, NUMBER, SMALL_NUMBERS
from openarctic.copilot.joins import all_of, short_text
from openarctic.copilot.schema import Column, Schema
from openarctic.copilot.wording import MONTHS

NEAR_CHARS = 40  # how far from a text or number the words may stand that speak of it

_PATTERNS = {"begins": "{}%", "ends": "%{}", "contains": "%{}%"}
_QUOTE = r"""["'‘“]?$"""
_THING = rf"(?:the )?(?:(?:letters?|characters?|substring|prefix|suffix|words?|phrase) )?{_QUOTE}"
_BEFORE_TEXT = {
    kind: re.compile(rf"\b(?:{words})", re.IGNORECASE)
    for kind, words in {
        "begins": rf"(?:start|begin)(?:s|ing|ning)? with {_THING}",
        "ends": rf"end(?:s|ing)? (?:with|in) {_THING}",
        "contains": rf"(?:contain(?:s|ing)?|includ(?:es?|ing)) {_THING}|"
        rf"(?:has|have|having|with|without) (?:the )?(?:letters?|substring) {_QUOTE}",
    }.items()
}
# What stands behind a text and speaks of its place after all: "contains M as its first letter"; a "first name" does not.
_PLACE_AFTER = re.compile(r"\b(?:(?:first|last)(?! names?\b)|initial|final|start\w*|begin\w*|end(?:s|ing)?)\b", re.IGNORECASE)

_BEFORE = [(re.compile(rf"\b{words}$", re.IGNORECASE), kind) for words, kind in COMPARATORS if kind is not exp.EQ]
_AFTER: list[tuple[re.Pattern[str], type[exp.Binary]]] = [
    (re.compile(rf"(?:\w+ )?or (?:{words})\b(?! (?:than|the|average|\d))", re.IGNORECASE), kind)
    for words, kind in (
        ("more|greater|higher|larger|bigger|older|longer|taller|above|over", exp.GTE),
        ("less|fewer|lower|smaller|younger|shorter|below|under", exp.LTE),
    )
]
# The side to which a comparison looks; which of the two of a side is meant, words tell.
_SIDE = {exp.GT: 1, exp.GTE: 1, exp.LT: -1, exp.LTE: -1}
_COUNTS = {**SMALL_NUMBERS, "one": 1, "once": 1, "twice": 2}
_COUNT_WORD = re.compile(rf"\b(?:{'|'.join(_COUNTS)})\b", re.IGNORECASE)

_MONTH = rf"(?P<month>{'|'.join(f'{m[:3]}(?:{m[3:]})?' for m in MONTHS)}|sept)\.?"
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
_DATES = [
    re.compile(rf"(?<!top )(?<!first )(?<!last )\b(?:{form})\b", re.IGNORECASE | re.ASCII)
    for form in (rf"{_MONTH} (?:the )?{_DAY},? (?:of )?{_YEAR}", rf"{_DAY} (?:of )?{_MONTH},? {_YEAR}")
]
_LATEST = re.compile(r"\b(?:youngest|newest|latest|most recent(?:ly)?)\b", re.IGNORECASE)
_EARLIEST = re.compile(r"\b(?:oldest|earliest)\b", re.IGNORECASE)
_OTHER_END = re.compile(
    r"\b(?:(?:first|last)(?! names?\b| and last names?\b)|least|most(?! recent)|second|other|except)\b", re.IGNORECASE
)
_YEAR_NAME = re.compile(r"(?:^|_)year$", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}\b", re.ASCII)


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
    """Whether a text that question and statement have once was given its `%` where the words before it want them."""
    texts = [like.expression for like in tree.find_all(exp.Like)]
    texts = [text for text in texts if isinstance(text, exp.Literal) and text.is_string]
    cores = Counter(text.name.strip("%").lower() for text in texts)
    is_changed = False
    for text in texts:
        core = text.name.strip("%")
        is_plain = core and not core.isdigit() and "%" not in core and "_" not in core and cores[core.lower()] == 1
        kind = _place_of(core, question) if is_plain else None
        if kind is not None and (wanted := _PATTERNS[kind].format(core)) != text.name:
            text.replace(exp.Literal.string(wanted))
            is_changed = True
    return is_changed


def _place_of(text: str, question: str) -> str | None:
    """Where in a value a text stands, by the words right before it; None where they do not tell, or others may."""
    spots = list(re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", question, re.IGNORECASE))
    if len(spots) != 1:
        return None
    before, after = question[: spots[0].start()][-NEAR_CHARS:], question[spots[0].end() :][:NEAR_CHARS]
    if _PLACE_AFTER.search(after.partition(",")[0]):
        return None
    return next((kind for kind, words in _BEFORE_TEXT.items() if words.search(before)), None)


def _bounds(tree: exp.Expr, question: str) -> bool:
    """Whether a bound was included, or left out, as the question says of its number."""
    told = dict(_told_bounds(question))
    if not told:
        return False
    bounds = [c for c in tree.find_all(*_SIDE) if isinstance(c.expression, exp.Literal) and NUMBER.fullmatch(c.expression.name)]
    times = Counter(float(bound.expression.name) for bound in bounds)
    is_changed = False
    for bound in bounds:
        value = float(bound.expression.name)
        wanted = told.get(value, type(bound))
        is_alone = times[value] == 1 and not bound.expression.is_string
        if is_alone and wanted is not type(bound) and _SIDE[wanted] == _SIDE[type(bound)]:
            bound.replace(wanted(this=bound.this, expression=bound.expression))
            is_changed = True
    return is_changed


def _told_bounds(question: str) -> Iterator[tuple[float, type[exp.Binary]]]:
    """The numbers that the question states once, and the comparison that the words around each ask for."""
    found = [(float(m.group().replace(",", "")), m) for m in NUMBER.finditer(question)]
    found += [(float(_COUNTS[m.group().lower()]), m) for m in _COUNT_WORD.finditer(question)]
    times = Counter(value for value, _ in found)
    for value, match in found:
        if times[value] > 1:
            continue
        before = question[max(0, match.start() - NEAR_CHARS) : match.start()].rstrip()
        after = question[match.end() : match.end() + NEAR_CHARS].lstrip()
        kinds = [kind for words, kind in _BEFORE if words.search(before)]
        kinds += [kind for words, kind in _AFTER if words.match(after)]
        if kinds:
            yield value, kinds[0]


def _days(tree: exp.Expr, question: str, schema: Schema) -> bool:
    """Whether a day was written as the column that it is compared with writes days.

    A literal that is no day itself becomes the question's, if there is one of each, and it says the year and no other number.
    """
    asked = _days_of(question)
    found = [c for c in tree.find_all(exp.EQ, exp.NEQ, *_SIDE) if isinstance(c.expression, exp.Literal)] if asked else []
    found = [c for c in found if isinstance(c.this, exp.Column) and all_of(c.this, schema, _is_of_days)]
    is_changed = False
    for compared in found:
        text = compared.expression
        if not text.is_string or _ISO.match(text.name):
            continue
        own = _days_of(text.name)
        if not own and len(asked) == len(found) == 1 and _may_mean(text.name, asked[0]):
            own = asked
        if len(own) == 1:
            text.replace(exp.Literal.string(own[0].isoformat()))
            is_changed = True
    return is_changed


def _may_mean(text: str, day: date) -> bool:
    numbers = {int(number) for number in re.findall(r"[0-9]+", text)}
    return day.year in numbers and numbers <= {day.year, day.month, day.day}


def _days_of(text: str) -> list[date]:
    """The days that a text names with month, day and year."""
    found = sorted((m for form in _DATES for m in form.finditer(text)), key=re.Match.start)
    names = [month[:3] for month in MONTHS]
    days = []
    for match in found:
        try:
            days.append(date(int(match["year"]), names.index(match["month"].lower()[:3]) + 1, int(match["day"])))
        except ValueError:  # February 31st
            return []
    return days


def _is_of_days(column: Column) -> bool:
    """Whether it holds YYYY-MM-DD, alone or before a time."""
    if column.values:
        return all(map(_ISO.match, column.values))
    return any(word in column.type.upper() for word in ("DATE", "TIMESTAMP"))


def _ends(tree: exp.Expr, question: str, schema: Schema) -> bool:
    """Whether rows in the order of a date, of which the first few are wanted, were turned: the youngest were born last."""
    latest, earliest = _LATEST.search(question), _EARLIEST.search(question)
    limited = [order for order in tree.find_all(exp.Order) if order.parent is not None and order.parent.args.get("limit")]
    if bool(latest) == bool(earliest) or len(limited) != 1 or len(limited[0].expressions) != 1 or _OTHER_END.search(question):
        return False
    key = limited[0].expressions[0]
    is_date = isinstance(key.this, exp.Column) and all_of(
        key.this, schema, lambda c: c.is_date or bool(_YEAR_NAME.search(c.name))
    )
    if not is_date or bool(key.args.get("desc")) == bool(latest):
        return False
    limited[0].set("expressions", [exp.Ordered(this=key.this, desc=bool(latest), nulls_first=not latest)])
    return True


def _is_dated(column: Column) -> bool:
    """Whether later things have more of it; `years_employed` and `cost_per_year` have not."""
    return column.is_date or (bool(_YEAR_NAME.search(column.name)) and not column.name.lower().endswith("per_year"))
