"""One honest sentence about the rows: every number in it stands in them, or is computed from them by an expression that is shown.

What the rows mean (the most of what, the total of what, which filter found nothing) is read from the query's tree (`reading.py`);
`trace.py` checks sentences by other code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from openarctic.copilot.answers.cells import Written, is_money, is_number, one_line, written
from openarctic.copilot.answers.phrases import HIDDEN
from openarctic.copilot.answers.reading import DATE_WORDS, Output, Reading, read
from openarctic.copilot.schema import Schema
from openarctic.copilot.wording import counted, listed, several

MAX_LISTED = 5
MAX_TOP = 10  # of a query that asks for so many at most, all are named
MAX_COLUMNS = 6
MAX_PAIRED = 2  # columns of a short list that is said whole
MAX_FILTER_CHARS = 160
MONTH_CHARS = 7  # 2024-03
_TIME = re.compile(r"^\d{4}(-\d{2}(-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?)?)?$|^\d{4}-?Q[1-4]$")
_MONTH_START = re.compile(r"^\d{4}-\d{2}-01([ T]00:00(:00)?)?$")
_NAMING = re.compile(r"(^|[_ ])(id|key|year)$|(?<=[a-z])Id$", re.IGNORECASE)  # numbers that name a row
_RANGE = re.compile(rf"^(?P<name>.+) is (?:above|at least|below|at most) {HIDDEN}$")

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Cited:
    """A number (or a text with digits) of a sentence: the cell where it stands, or the expression that gives it."""

    text: str
    row: int | None = None
    column: int | None = None
    expression: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is said, and where each of its numbers comes from."""

    text: str
    numbers: tuple[Cited, ...] = ()


def answer_sentence(
    question: str,
    columns: Sequence[str],
    rows: Rows,
    truncated: bool,
    sql: str | exp.Expr | None = None,
    dialect: str = "duckdb",
    schema: Schema | None = None,
) -> Sentence:
    """Say what the result says, and nothing more.

    `sql` is the query that gave it (text or tree); without it the columns' names tell what the numbers are. `question` is not
    repeated: its numbers need not be right.
    """
    del question
    speaker = _Speaker(columns, rows, truncated, read(columns, sql, dialect, schema))
    return Sentence(one_line(speaker.text()), tuple(speaker.numbers))


class _Speaker:
    """Composes one sentence and notes its numbers."""

    def __init__(self, columns: Sequence[str], rows: Rows, truncated: bool, reading: Reading) -> None:
        self.columns, self.rows, self.truncated, self.reading = columns, rows, truncated, reading
        self.numbers: list[Cited] = []
        self._cents = [is_money((row[i] for row in rows), column) for i, column in enumerate(columns)]
        self._months: set[int] = set()  # columns whose dates are months

    def text(self) -> str:
        """The sentence."""
        if not self.rows:
            return self._empty()
        if len(self.rows) == 1:
            return self._scalar() if len(self.columns) == 1 else self._one_row()
        measure = self._measure()
        labels = self._labels(measure)
        if measure is not None and labels:
            return self._series(labels[0], measure) if self._is_series(labels) else self._ranking(labels, measure)
        return self._listing() if len(self.columns) == 1 else self._table()

    # what a number is called and where it stands

    def _write(self, row: int, column: int) -> Written:
        value = self.rows[row][column]
        if value is None:
            return Written(f"(no {self._output(column).noun})")
        said = written(value, self.columns[column], self._cents[column])
        if isinstance(value, int) and self.reading.outputs[column].is_key:
            said = written(str(value))  # it names a group
        if column in self._months:
            said = Written(said.text[:MONTH_CHARS])
        if re.search(r"\d", said.text):
            self.numbers.append(Cited(said.text, row, column))
        return said

    def cell(self, row: int, column: int) -> str:
        """A cell; a rounded number is said to be about that."""
        said = self._write(row, column)
        return said.text if said.is_exact or not is_number(self.rows[row][column]) else f"about {said.text}"

    def headline(self, row: int, column: int) -> str:
        """The cell that the sentence is about: when rounded, the whole number stands beside."""
        said = self._write(row, column)
        value = self.rows[row][column]
        if said.is_exact or not is_number(value):
            return said.text
        whole = repr(value)
        self.numbers.append(Cited(whole, row, column))
        return f"about {said.text} ({whole} unrounded)"

    def computed(self, text: str, expression: str) -> str:
        """A number that stands in no cell."""
        self.numbers.append(Cited(text, expression=expression))
        return text

    def count(self) -> str:
        """How many rows there are."""
        return self.computed(f"{len(self.rows):,}", "number of rows")

    def _output(self, column: int) -> Output:
        output = self.reading.outputs[column]
        if re.search(r"\d", output.noun):
            self.numbers.append(Cited(output.noun, expression="name of a column"))
        return output

    # which columns name a row, and which measure it

    def _measure(self) -> int | None:
        """The column that the rows are compared by."""
        numeric = [i for i in range(len(self.columns)) if self._is_numeric(i)]
        first = self.reading.order[0].output if self.reading.order else None
        if first is not None and not self.reading.outputs[first].is_key and (first in numeric or self._is_time(first)):
            return first
        aggregates = [i for i in numeric if self.reading.outputs[i].is_aggregate]
        if aggregates:
            return aggregates[0]
        plain = [i for i in numeric if not self.reading.outputs[i].is_key and not _NAMING.search(self.columns[i])]
        return plain[0] if len(plain) == 1 and len(self.columns) > 1 else None

    def _is_numeric(self, column: int) -> bool:
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(is_number(v) for v in values)

    def _is_time(self, column: int) -> bool:
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(v, str) and _TIME.match(v) for v in values)

    def _labels(self, measure: int | None) -> list[int]:
        others = [i for i in range(len(self.columns)) if i != measure]
        keys = [i for i in others if self.reading.outputs[i].is_key]
        texts = [i for i in others if not self._is_numeric(i)]
        named = [i for i in texts if not _NAMING.search(self.columns[i])]
        names = [i for i in named if not self._is_time(i)]
        return [i for i in keys if i in named] or keys or names[:2] or named[:1] or texts[:1] or others[:1]

    def label(self, row: int, labels: Sequence[int]) -> str:
        """What names a row: `Ada Adler (Berlin)`."""
        first, *rest = [self.cell(row, i) for i in labels]
        return f"{first} ({', '.join(rest)})" if rest else first

    # the filters

    def _where(self) -> str:
        filters = _with_ranges(self.reading.filters)
        said = " and ".join(f"({f})" if " or " in f and len(filters) > 1 else f for f in filters)
        return said if len(said) <= MAX_FILTER_CHARS else "all the filters of the query hold"

    def _over(self) -> str:
        return f", over {self.reading.things} where {self._where()}" if self.reading.filters else ""

    # the sentences

    def _empty(self) -> str:
        things, filters = self.reading.things, self.reading.filters
        if not filters:
            return "The result has no rows."
        if len(filters) == 1:
            return f"No {things} match the filter: {self._where()}."
        return f"No {things} match all of the filters: {self._where()}."

    def _scalar(self) -> str:
        output, value = self._output(0), self.rows[0][0]
        if value is None:
            where = f" where {self._where()}" if self.reading.filters else ""
            reason = f": no {self.reading.things}{where} have a value for it" if output.is_aggregate else ""
            return f"The {output.noun} is unknown (NULL){reason}."
        order = self.reading.order[:1]
        if order and self.reading.limit == 1 and self.reading.is_from_start and not output.is_aggregate and order[0].output != 0:
            best = _superlative(order[0].kind, order[0].noun, order[0].is_descending)
            if is_number(value):
                return f"The {output.noun} with {best} is {self.headline(0, 0)}."
            return f"{self.headline(0, 0)} has {best}."
        if output.kind == "count" and output.noun.startswith("number of "):
            things = output.noun.removeprefix("number of ")
            verb = "is" if value == 1 else "are"
            where = f" where {self._where()}" if self.reading.filters else ""
            return f"There {verb} {counted(self.headline(0, 0), things)}{where}."
        return f"The {output.noun} is {self.headline(0, 0)}{self._over() if output.is_aggregate else ''}."

    def _one_row(self) -> str:
        outputs = self.reading.outputs
        if all(o.is_aggregate for o in outputs) and len(outputs) <= MAX_COLUMNS:
            parts = [f"the {self._output(i).noun} is {self.headline(0, i)}" for i in range(len(outputs))]
            return f"{_capital(listed(parts))}{self._over()}."
        order = self.reading.order[0] if self.reading.order else None
        if order and order.output is not None and self.reading.limit == 1 and self.reading.is_from_start:
            is_measured = self._is_numeric(order.output) or DATE_WORDS.search(order.noun)
            if is_measured and (labels := self._labels(order.output)):
                said = _superlative(order.kind, self._output(order.output).noun, order.is_descending)
                return f"{self.label(0, labels)} has {said}, {self.headline(0, order.output)}."
            if labels := self._labels(order.output):
                place = "last" if order.is_descending else "first"
                noun = self._output(order.output).noun
                return f"{self.label(0, labels)} comes {place} by {noun}, {self.headline(0, order.output)}."
        return f"One row: {self._pairs(0)}."

    def _pairs(self, row: int) -> str:
        shown = [f"{self._output(i).noun} {self.headline(row, i)}" for i in range(min(len(self.columns), MAX_COLUMNS))]
        return ", ".join(shown) + (" and more" if len(self.columns) > MAX_COLUMNS else "")

    def _ranking(self, labels: Sequence[int], measure: int) -> str:
        """Who has the most, and who is next."""
        order = self.reading.order[0] if self.reading.order else None
        is_ranked = order is not None and order.output == measure
        is_descending = order.is_descending if order is not None and is_ranked else True
        ranked = [i for i, row in enumerate(self.rows) if row[measure] is not None]
        if not is_ranked:
            ranked.sort(key=lambda i: self.rows[i][measure], reverse=True)
        output = self._output(measure)
        best = self.rows[ranked[0]][measure]
        first = [i for i in ranked if self.rows[i][measure] == best]
        superlative = _superlative(output.kind, output.noun, is_descending)
        rest = ranked[len(first) :]
        is_top = self._is_short_top() and is_ranked
        if len(first) == len(self.rows):
            start = f"All of the first {self.count()} rows" if self.truncated else f"All {self.count()} rows"
            return f"{start} have the same {output.noun}, {self.headline(first[0], measure)}: {self._some(first, labels)}."
        text = self._among(labels, is_top)
        if len(first) == 1:
            text += f"{self.label(first[0], labels)} has {superlative}, {self.headline(first[0], measure)}"
            text += self._share(first[0], measure)
        elif len(first) <= MAX_LISTED:
            text += f"{self._some(first, labels)} have {superlative}, {self.headline(first[0], measure)} each"
        else:
            count = self.computed(f"{len(first):,}", "number of rows with the same value")
            text += f"{count} rows share {superlative}, {self.headline(first[0], measure)}"
        return text + self._rest(rest, labels, measure, is_top, is_descending) + "."

    def _among(self, labels: Sequence[int], is_top: bool) -> str:
        if self.truncated:
            return f"Among the first {self.count()} rows (there are more), "
        if is_top or len(self.rows) <= MAX_LISTED:
            return ""
        is_named = len(labels) == 1 and self.reading.outputs[labels[0]].is_key
        noun = several(self._output(labels[0]).noun) if is_named else "rows"
        return f"Of {self.count()} {noun}, "

    def _some(self, rows: Sequence[int], labels: Sequence[int]) -> str:
        named = [self.label(i, labels) for i in rows[:MAX_LISTED]]
        return listed(named) if len(rows) <= MAX_LISTED else f"{', '.join(named)} and others"

    def _rest(self, rest: Sequence[int], labels: Sequence[int], measure: int, is_top: bool, is_descending: bool) -> str:
        if not rest:
            return "; the others have no value" if any(row[measure] is None for row in self.rows) else ""
        if len(rest) < (MAX_TOP if is_top else MAX_LISTED):
            named = [f"{self.label(i, labels)} ({self.cell(i, measure)})" for i in rest]
            return f"; next {'is' if len(named) == 1 else 'are'} {listed(named)}"
        near, last = rest[:2], rest[-1]
        named = [f"{self.label(i, labels)} ({self.cell(i, measure)})" for i in near]
        end = "lowest" if is_descending else "highest"
        seen = " of these rows" if self.truncated else ""
        ties = sum(self.rows[i][measure] == self.rows[last][measure] for i in rest)
        if self._is_cut() or ties > 1:
            return f"; next are {listed(named)}"
        return f"; next are {listed(named)}; the {end}{seen} is {self.label(last, labels)} ({self.cell(last, measure)})"

    def _is_short_top(self) -> bool:
        """So few rows were asked for that all are said."""
        return self.reading.limit is not None and len(self.rows) <= MAX_TOP and self.reading.is_from_start

    def _is_cut(self) -> bool:
        return self.reading.limit is not None and len(self.rows) >= self.reading.limit

    def _share(self, row: int, measure: int) -> str:
        """`, 52 of 300 in all 12 rows (17.3 % = 52 / 300)` where the rows are all there is and their values may be added."""
        if (
            not (self.reading.outputs[measure].is_additive and self.reading.is_grouped and self.reading.is_whole)
            or self.truncated
        ):
            return ""
        values = [r[measure] for r in self.rows if r[measure] is not None]
        total = math.fsum(values) if any(isinstance(v, float) for v in values) else sum(values)
        if min(values) < 0 or total <= 0 or not math.isfinite(total):
            return ""
        part, whole = (written(v, self.columns[measure], self._cents[measure]) for v in (self.rows[row][measure], total))
        if not (part.is_exact and whole.is_exact and "e" not in part.text + whole.text):
            return ""
        percent = f"{100 * _parsed(part.text) / _parsed(whole.text):.1f}"
        self.computed(whole.text, f"sum of {self.columns[measure]}")
        self.computed(percent, f"{part.text} / {whole.text}")
        self.numbers.append(Cited(part.text, row, measure))
        return f" of {whole.text} in all {self.count()} rows ({percent} % = {part.text} / {whole.text})"

    def _is_series(self, labels: Sequence[int]) -> bool:
        """Rows in the order of time, one for each moment."""
        if len(labels) != 1 or len(self.rows) < 3:
            return False
        order = self.reading.order[0] if self.reading.order else None
        if order is not None and order.output != labels[0] and order.output is not None:
            return False
        moments = [row[labels[0]] for row in self.rows]
        is_year = bool(re.search(r"year", self.columns[labels[0]], re.IGNORECASE))
        texts = [str(m) if isinstance(m, str) or (is_year and isinstance(m, int)) else "" for m in moments]
        return all(_TIME.match(t) for t in texts) and (texts == sorted(set(texts)) or texts == sorted(set(texts), reverse=True))

    def _series(self, label: int, measure: int) -> str:
        valued = [i for i, row in enumerate(self.rows) if row[measure] is not None]
        if str(self.rows[0][label]) > str(self.rows[-1][label]):
            valued.reverse()
        high = max(valued, key=lambda i: self.rows[i][measure])
        low = min(valued, key=lambda i: self.rows[i][measure])
        first, last = valued[0], valued[-1]
        if all(_MONTH_START.match(str(row[label])) for row in self.rows):
            self._months.add(label)
        noun, more = self._output(measure).noun, " of those (there are more)" if self.truncated else ""
        start = f"From {self.cell(first, label)} to {self.cell(last, label)} ({self.count()} rows{more}), the {noun}"
        if self.rows[high][measure] == self.rows[low][measure]:
            return f"{start} is always {self.headline(high, measure)}."
        extremes = (
            f"is highest in {self.cell(high, label)} ({self.headline(high, measure)}) and lowest in {self.cell(low, label)}"
        )
        return (
            f"{start} {extremes} ({self.cell(low, measure)}); "
            f"it begins at {self.cell(first, measure)} and ends at {self.cell(last, measure)}."
        )

    def _listing(self) -> str:
        """One column of several rows."""
        output, order = self._output(0), self.reading.order[0] if self.reading.order else None
        rows = range(len(self.rows))
        is_top = order is not None and self._is_short_top()
        if order is not None and order.output is None and is_top:
            by = _superlative(order.kind, order.noun, order.is_descending)
            named = listed([self.cell(i, 0) for i in rows])
            return f"The {self.count()} {several(output.noun)} with {by}: {named}."
        if self._is_numeric(0) and not is_top and len(self.rows) > MAX_LISTED and not _NAMING.search(self.columns[0]):
            valued = [i for i in rows if self.rows[i][0] is not None]
            low, high = min(valued, key=lambda i: self.rows[i][0]), max(valued, key=lambda i: self.rows[i][0])
            more = "The first" if self.truncated else "The"
            tail = " (there are more)" if self.truncated else ""
            return f"{more} {self.count()} values of {output.noun}{tail} lie from {self.cell(low, 0)} to {self.cell(high, 0)}."
        shown = [self.cell(i, 0) for i in rows[: MAX_TOP if is_top else MAX_LISTED]]
        named = listed(shown) if len(shown) == len(self.rows) and not self.truncated else f"{', '.join(shown)} and others"
        if self.truncated:
            return f"More than {self.count()} {several(output.noun)}; the first: {named}."
        return f"{self.count()} {several(output.noun)}: {named}."

    def _table(self) -> str:
        if self.truncated:
            return f"More than {self.count()} rows; the first: {self._pairs(0)}."
        if self._is_short_top() and len(self.columns) <= MAX_PAIRED:
            return f"{self.count()} rows: {listed([self.label(i, range(len(self.columns))) for i in range(len(self.rows))])}."
        return f"{self.count()} rows; the first: {self._pairs(0)}."


def _superlative(kind: str, noun: str, is_descending: bool) -> str:
    """`the most orders`, `the lowest price`, `the latest order date`."""
    if kind == "count" and noun.startswith("number of "):
        return f"the {'most' if is_descending else 'fewest'} {noun.removeprefix('number of ')}"
    word = "highest" if is_descending else "lowest"
    if DATE_WORDS.search(noun) and kind in ("column", "max", "min"):
        word = "latest" if is_descending else "earliest"
    if kind in ("max", "min"):
        for own in ("highest ", "lowest ", "latest ", "earliest "):
            noun = noun.removeprefix(own)
    return f"the {word} {noun}"


def _with_ranges(filters: Sequence[str]) -> list[str]:
    """Two bounds of one column, neither of which may be named, are a range."""
    names = [match["name"] if (match := _RANGE.match(f)) else "" for f in filters]
    said = []
    for name, text in zip(names, filters, strict=True):
        is_bounded_twice = bool(name) and names.count(name) > 1
        said.append(f"{name} is in the range asked for" if is_bounded_twice else text)
    return list(dict.fromkeys(said))


def _parsed(text: str) -> float:
    return float(text.replace(",", ""))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
