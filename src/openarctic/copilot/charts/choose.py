"""Which chart fits a result: decided by what its columns hold and how its rows are shaped; often none does.

Values over time are a line; a value for each of a few categories is a bar; two of them, or several comparable values, grouped
bars; two measures of many rows a scatter; one measure of many rows a histogram. One row, lists of texts and labels that repeat
get none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlglot import exp

from openarctic.copilot.answers.cells import is_number, label
from openarctic.copilot.answers.reading import Reading, read
from openarctic.copilot.charts.scales import nice_step
from openarctic.copilot.charts.vegalite import (
    MAX_NUMBER,
    MAX_POINTS,
    Bar,
    Bin,
    Dot,
    Moment,
    Spec,
    bar_spec,
    histogram_spec,
    line_spec,
    scatter_spec,
)

MAX_ROWS = 100_000
MAX_BARS = 20
MAX_OTHERS = 1.5  # times the largest bar
MAX_GROUPS, MAX_BARS_A_GROUP = 12, 6
MAX_LINES = 6
MIN_MOMENTS = 3
MIN_DOTS = 5
MIN_BINNED = 20  # values, for a histogram
MAX_BINS = 20
COMPARABLE = 50.0  # the largest values of two measures on one axis differ by no more than this factor
MAX_TITLE = 120

Rows = Sequence[Sequence[Any]]
Role = Literal["number", "time", "category", "id", "other"]

_ID = re.compile(r"(^|[_ ])(id|key|code|zip|phone)$|(?<=[a-z])Id$", re.IGNORECASE)
_YEAR = re.compile(r"(^|[_ ])(year|yr)$|^year", re.IGNORECASE)
_MOMENT = re.compile(r"^(\d{4})(?:-?Q([1-4])|-(\d{2})(?:-(\d{2})(?:[ T](\d{2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?)?)?$")


class _Unfit(Exception):
    """Why no chart fits."""


def chart_for(
    columns: Sequence[str],
    types: Sequence[str],
    rows: Rows,
    question: str = "",
    sql: str | exp.Expr | None = None,
    dialect: str = "duckdb",
    truncated: bool = False,
) -> Spec | None:
    """The Vega-Lite spec of the chart that fits the rows, or None.

    `types` are the columns' declared types, or empty; `sql` tells which columns were counted or summed.
    """
    return choose_chart(columns, types, rows, question, sql, dialect, truncated)[0]


def choose_chart(
    columns: Sequence[str],
    types: Sequence[str],
    rows: Rows,
    question: str = "",
    sql: str | exp.Expr | None = None,
    dialect: str = "duckdb",
    truncated: bool = False,
) -> tuple[Spec | None, str]:
    """The spec and nothing, or None and why no chart fits."""
    try:
        return _Chooser(columns, types, rows, question, read(columns, sql, dialect), truncated).spec(), ""
    except _Unfit as reason:
        return None, str(reason)


def moment(value: Any) -> datetime | None:
    """A date, month, quarter, year or time of day as the database writes it (`2024-03`, `2024-Q1`, `2024-03-01 12:00:00`)."""
    match = _MOMENT.match(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None:
        return None
    year, quarter, month, day, hour, minute, second = (int(part) if part else 0 for part in match.groups())
    try:
        return datetime(year, (3 * quarter - 2 if quarter else month) or 1, day or 1, hour, minute, second)
    except ValueError:
        return None


class _Chooser:
    """The columns' roles, and the first form that fits them."""

    def __init__(
        self, columns: Sequence[str], types: Sequence[str], rows: Rows, question: str, reading: Reading, truncated: bool
    ) -> None:
        self.columns, self.rows, self.reading, self.truncated = columns, rows, reading, truncated
        self.question = question
        if len(rows) < 2:
            raise _Unfit("one row needs no chart" if rows else "there are no rows")
        if len(rows) > MAX_ROWS:
            raise _Unfit(f"more than {MAX_ROWS:,} rows are too many")
        self.roles = [self._role(i, types[i] if i < len(types) else "") for i in range(len(columns))]
        self.numbers = self._having("number")

    def spec(self) -> Spec:
        """The spec; raises _Unfit."""
        times, categories, ids = (self._having(role) for role in ("time", "category", "id"))
        self.numbers = [i for i in self.numbers if not self.reading.outputs[i].is_key]
        keys = [i for i in self._having("number") if i not in self.numbers]
        if keys and len(self.rows) <= MAX_BARS and self._is_unique(keys[:1]) and len(self.columns) == 2 and self.numbers:
            return self._bars(keys[0])
        if not self.numbers:
            raise _Unfit("there is no number to draw")
        if times and (spec := self._over_time(times[0], categories)):
            return spec
        named = [*categories, *times, *ids]
        for label_column in named:
            if self._is_unique([label_column]) and (self._is_about_groups() or len(self.rows) <= MAX_BARS):
                return self._bars(label_column)
        if len(named) >= 2 and self._is_unique(named[:2]) and self._is_about_groups() and (spec := self._pairs(*named[:2])):
            return spec
        return self._clouds([*keys, *self.numbers])

    # roles

    def _having(self, role: Role) -> list[int]:
        return [i for i, r in enumerate(self.roles) if r == role]

    def _role(self, column: int, declared: str) -> Role:
        values = [row[column] for row in self.rows if row[column] is not None]
        if not values:
            return "other"
        name = self.columns[column]
        if all(isinstance(v, bool) for v in values) or "BOOL" in declared.upper():
            return "category"
        if all(is_number(v) for v in values):
            if _YEAR.search(name) and all(isinstance(v, int) and 1000 <= v <= 2999 for v in values):
                return "time"
            return "id" if _ID.search(name) else "number"
        if all(moment(v) for v in values):
            return "time"
        return "category" if all(isinstance(v, str) for v in values) else "other"

    def _is_unique(self, columns: Sequence[int]) -> bool:
        return len({tuple(str(row[i]) for i in columns) for row in self.rows}) == len(self.rows)

    def _is_about_groups(self) -> bool:
        """A row stands for many: rows are counted or summed."""
        return self.reading.is_grouped or any(o.is_aggregate for o in self.reading.outputs)

    # forms

    def _over_time(self, time: int, categories: Sequence[int]) -> Spec | None:
        moments = {row[time] for row in self.rows if row[time] is not None}
        if len(moments) < MIN_MOMENTS or len(self.rows) > MAX_POINTS:
            return None
        if self._is_unique([time]):
            return self._lines(time, None, self._comparable(MAX_LINES))
        if len(categories) == 1 and self._is_unique([time, categories[0]]) and self._is_about_groups():
            if len({row[categories[0]] for row in self.rows}) <= MAX_LINES:
                return self._lines(time, categories[0], self.numbers[:1])
            raise _Unfit(f"more than {MAX_LINES} lines would cover each other")
        return None

    def _lines(self, time: int, series: int | None, measures: Sequence[int]) -> Spec:
        found = []
        for row in self.rows:
            for measure in measures:
                when, value = moment(row[time]), row[measure]
                if when is not None and value is not None:
                    name = self._noun(measure) if series is None else self._label(row[series], series)
                    found.append(Moment(when, self._number(value), name))
        found.sort(key=lambda m: m.time)
        is_many = series is not None or len(measures) > 1
        value = self._noun(measures[0]) if len(measures) == 1 else "value"
        return line_spec(
            self._title(f"{value if len(measures) == 1 else self._both(measures)} by {self._noun(time)}", series),
            found,
            time=self._noun(time),
            value=value,
            time_format=_time_format([m.time for m in found]),
            series=(self._noun(series) if series is not None else "measure") if is_many else "",
            subtitle=self._notes(len(found), len(self.rows) * len(measures)),
            description=f"Line chart of {value} over {self._noun(time)}, {len(found)} points.",
        )

    def _bars(self, label_column: int) -> Spec:
        measures = self._comparable(MAX_BARS_A_GROUP)
        if len(measures) > 1 and len(self.rows) <= MAX_GROUPS:
            return self._grouped(label_column, None, measures)
        measure = self._main_measure()
        bars = [
            Bar(self._label(row[label_column], label_column), self._number(row[measure]))
            for row in self.rows
            if row[measure] is not None
        ]
        if not self._is_ordered_by(label_column, measure):
            bars.sort(key=lambda b: -b.value)
        total = len(bars)
        bars, note = self._fewer(_distinct(bars), measure)
        return bar_spec(
            self._title(f"{self._noun(measure)} by {self._noun(label_column)}"),
            bars,
            category=self._noun(label_column),
            value=self._noun(measure),
            subtitle=note or self._notes(total, len(self.rows)),
            description=f"Bar chart of {self._noun(measure)} by {self._noun(label_column)}, {len(bars)} bars.",
        )

    def _fewer(self, bars: list[Bar], measure: int) -> tuple[list[Bar], str]:
        """The largest ones, in their order; the others together where their values may be added."""
        if len(bars) <= MAX_BARS:
            return bars, ""
        ranked = sorted(range(len(bars)), key=lambda i: -bars[i].value)
        output = self.reading.outputs[measure]
        if output.is_additive and self.reading.is_whole and not self.truncated and bars[ranked[-1]].value >= 0:
            kept = set(ranked[: MAX_BARS - 1])
            others = math.fsum(b.value for i, b in enumerate(bars) if i not in kept)
            if others <= MAX_OTHERS * bars[ranked[0]].value:  # else it would dwarf the rest
                name = f"{len(bars) - len(kept)} others"
                return [
                    *(b for i, b in enumerate(bars) if i in kept),
                    Bar(name, int(others) if others.is_integer() else others),
                ], ""
        kept = set(ranked[:MAX_BARS])
        note = f"the {MAX_BARS} highest of {'the first ' if self.truncated else ''}{len(bars):,}"
        return [b for i, b in enumerate(bars) if i in kept], note

    def _pairs(self, first: int, second: int) -> Spec | None:
        """Two categories of each row: the one with fewer values gives the bars within a group."""
        sizes = {i: len({str(row[i]) for row in self.rows}) for i in (first, second)}
        outer, inner = (first, second) if sizes[second] <= sizes[first] else (second, first)
        if sizes[outer] > MAX_GROUPS or sizes[inner] > MAX_BARS_A_GROUP:
            return None
        return self._grouped(outer, inner, [self._main_measure()])

    def _grouped(self, label_column: int, series: int | None, measures: Sequence[int]) -> Spec:
        bars = []
        for row in self.rows:
            for measure in measures:
                name = self._noun(measure) if series is None else self._label(row[series], series)
                if row[measure] is not None:
                    bars.append(Bar(self._label(row[label_column], label_column), self._number(row[measure]), name))
        if not self._is_ordered_by(label_column, *measures):
            bars = _largest_first(bars)
        value = self._noun(measures[0]) if len(measures) == 1 else "value"
        return bar_spec(
            self._title(f"{value if len(measures) == 1 else self._both(measures)} by {self._noun(label_column)}", series),
            _distinct(bars),
            category=self._noun(label_column),
            value=value,
            series=self._noun(series) if series is not None else "measure",
            subtitle=self._notes(len(bars), len(self.rows) * len(measures)),
            description=f"Grouped bar chart of {value} by {self._noun(label_column)}, {len(bars)} bars.",
        )

    def _clouds(self, numbers: Sequence[int]) -> Spec:
        if len(numbers) >= 2 and MIN_DOTS <= len(self.rows) <= MAX_POINTS:
            x, y = numbers[:2]
            pairs = [(row[x], row[y]) for row in self.rows if row[x] is not None and row[y] is not None]
            dots = [Dot(self._number(a), self._number(b)) for a, b in pairs]
            if len({d.x for d in dots}) > 1 and len({d.y for d in dots}) > 1:
                return scatter_spec(
                    self._title(f"{self._noun(y)} against {self._noun(x)}"),
                    dots,
                    x=self._noun(x),
                    y=self._noun(y),
                    subtitle=self._notes(len(dots), len(self.rows)),
                    description=f"Scatter plot of {self._noun(y)} against {self._noun(x)}, {len(dots)} points.",
                )
        values = [self._number(row[numbers[0]]) for row in self.rows if row[numbers[0]] is not None]
        if len(values) < MIN_BINNED or min(values) == max(values) or self._is_about_groups():
            raise _Unfit("its rows have neither distinct labels nor enough values for a distribution")
        bins = binned(values)
        noun = self._noun(numbers[0])
        return histogram_spec(
            self._title(f"Distribution of {noun}"),
            bins,
            value=noun,
            count="number of rows",
            subtitle=self._notes(len(values), len(self.rows)),
            description=f"Histogram of {noun}, {len(values)} values in {len(bins)} bins.",
        )

    # measures and words

    def _main_measure(self) -> int:
        order = self.reading.order[0].output if self.reading.order else None
        return order if order in self.numbers and order is not None else self.numbers[0]

    def _comparable(self, at_most: int) -> list[int]:
        """The measures that may share an axis with the main one."""
        main = self._main_measure()
        sizes = {i: max(abs(row[i]) for row in self.rows if row[i] is not None) for i in self.numbers}
        kind = self._sort_of_number(main)
        near = [
            i
            for i in self.numbers
            if sizes[i] and 1 / COMPARABLE <= sizes[i] / (sizes[main] or 1) <= COMPARABLE and self._sort_of_number(i) == kind
        ]
        return near[:at_most] if main in near[:at_most] else [main]

    def _sort_of_number(self, column: int) -> object:
        """Counts go with counts, sums with sums, averages with extremes."""
        output = self.reading.outputs[column]
        return "level" if output.kind in ("avg", "max", "min", "column") else (output.kind, output.is_additive)

    def _is_ordered_by(self, *columns: int) -> bool:
        return bool(self.reading.order) and self.reading.order[0].output in columns

    def _number(self, value: float) -> float:
        if not abs(value) <= MAX_NUMBER:
            raise _Unfit("a number is too large to be drawn")
        return value

    def _label(self, value: Any, column: int) -> str:
        if value is None:
            return f"(no {self._noun(column)})"
        return ("true" if value else "false") if isinstance(value, bool) else label(str(value)).text

    def _noun(self, column: int) -> str:
        return label(self.reading.outputs[column].noun).text

    def _both(self, measures: Sequence[int]) -> str:
        return " and ".join(self._noun(i) for i in measures[:3]) + (" and more" if len(measures) > 3 else "")

    def _title(self, text: str, series: int | None = None) -> str:
        said = text + (f" and {self._noun(series)}" if series is not None else "")
        return (said[:1].upper() + said[1:])[:MAX_TITLE]

    def _notes(self, drawn: int, of: int) -> str:
        notes = [
            f"only the first {len(self.rows):,} rows" if self.truncated else "",
            f"{of - drawn:,} without a value" if drawn < of else "",
        ]
        return ", ".join(note for note in notes if note)


def _largest_first(bars: Sequence[Bar]) -> list[Bar]:
    """Groups and series by their sums."""
    groups: dict[str, float] = {}
    series: dict[str, float] = {}
    for bar in bars:
        groups[bar.category] = groups.get(bar.category, 0.0) + bar.value
        series[bar.series] = series.get(bar.series, 0.0) + bar.value
    return sorted(bars, key=lambda b: (-groups[b.category], b.category, -series[b.series], b.series))


def _distinct(bars: Sequence[Bar]) -> list[Bar]:
    """Labels that were cut to the same text are told apart."""
    seen: dict[tuple[str, str], int] = {}
    out = []
    for bar in bars:
        key = bar.category, bar.series
        seen[key] = seen.get(key, 0) + 1
        out.append(bar if seen[key] == 1 else bar._replace(category=f"{bar.category} ({seen[key]})"))
    return out


def _time_format(times: Sequence[datetime]) -> str:
    if any(t.hour or t.minute for t in times):
        return "%Y-%m-%d %H:%M"
    if any(t.day != 1 for t in times):
        return "%Y-%m-%d"
    return "%Y-%m" if any(t.month != 1 for t in times) else "%Y"


def binned(values: Sequence[float]) -> list[Bin]:
    """Bins of a round width, as many as Sturges' rule asks for (log2 n + 1); the last one holds its upper end too."""
    low, high = min(values), max(values)
    step = nice_step(high - low, min(MAX_BINS, math.ceil(math.log2(len(values))) + 1))
    if step >= 1 and all(isinstance(v, int) for v in values):
        step = round(step)
    first, last = math.floor(low / step), math.ceil(high / step)
    counts = [0] * max(1, last - first)
    for value in values:
        counts[min(max(math.floor(value / step) - first, 0), len(counts) - 1)] += 1
    edges = [round((first + i) * step, 12) for i in range(len(counts) + 1)]
    return [Bin(edges[i], edges[i + 1], n) for i, n in enumerate(counts)]
