"""The closed set of Vega-Lite specs that are made, validated and drawn: bar, grouped bar, line, scatter, histogram.

`bar_spec` and its siblings write a spec with its data inside; `read_spec` checks every part of one and gives the `Plot` that the
renderers draw, so that they draw what the spec says. Fields have names of our own (a column called `a.b[0]` would be a path in
Vega-Lite); the columns' names are the axes' titles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from openarctic.errors import UserError

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
MAX_POINTS = 5000
MAX_TEXT = 1000
MAX_NUMBER = 1e15
TIME_FORMATS = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%d %H:%M")

Kind = Literal["bar", "grouped bar", "line", "scatter", "histogram"]
Spec = dict[str, Any]

_BAR_MARK: Spec = {"type": "bar", "tooltip": True}
_LINE_MARK: Spec = {"type": "line", "point": True, "tooltip": True}
_POINT_MARK: Spec = {"type": "point", "filled": True, "tooltip": True}


class Bar(NamedTuple):
    """A value of a category; `series` is empty where there is one series only."""

    category: str
    value: float
    series: str = ""


class Moment(NamedTuple):
    """A value at a time."""

    time: datetime
    value: float
    series: str = ""


class Dot(NamedTuple):
    """A point of a scatter plot."""

    x: float
    y: float


class Bin(NamedTuple):
    """How many values lie from `low` to `high`."""

    low: float
    high: float
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A validated spec, ready to draw. `marks` holds what `kind` says: Bar, Moment, Dot or Bin, in the order of drawing.

    `x_title` is of the horizontal axis of the spec, `y_title` of the vertical one; bars lie, so their values are along x.
    """

    kind: Kind
    title: str
    subtitle: str
    description: str
    x_title: str
    y_title: str
    marks: tuple[Any, ...]
    series: tuple[str, ...] = ()
    time_format: str = ""


def bar_spec(
    title: str, bars: Sequence[Bar], *, category: str, value: str, series: str = "", subtitle: str = "", description: str = ""
) -> Spec:
    """Lying bars in the given order; with `series` (its title) several a category, side by side."""
    encoding: Spec = {
        "y": {"field": "category", "type": "nominal", "sort": None, "title": category},
        "x": {"field": "value", "type": "quantitative", "title": value},
    }
    if not series:
        values = [{"category": b.category, "value": b.value} for b in bars]
    else:
        values = [{"category": b.category, "value": b.value, "series": b.series} for b in bars]
        encoding["yOffset"] = {"field": "series", "type": "nominal", "sort": None}
        encoding["color"] = {"field": "series", "type": "nominal", "sort": None, "title": series}
    return _spec(title, subtitle, description, values, _BAR_MARK, encoding)


def line_spec(
    title: str,
    moments: Sequence[Moment],
    *,
    time: str,
    value: str,
    time_format: str,
    series: str = "",
    subtitle: str = "",
    description: str = "",
) -> Spec:
    """A line over time, or one for each series. Times are written without zone, so that they are read as they stand."""
    encoding: Spec = {
        "x": {"field": "time", "type": "temporal", "title": time, "axis": {"format": time_format}},
        "y": {"field": "value", "type": "quantitative", "title": value},
    }
    values: list[Spec] = [{"time": m.time.isoformat(timespec="seconds"), "value": m.value} for m in moments]
    if series:
        values = [{**v, "series": m.series} for v, m in zip(values, moments, strict=True)]
        encoding["color"] = {"field": "series", "type": "nominal", "sort": None, "title": series}
    return _spec(title, subtitle, description, values, _LINE_MARK, encoding)


def scatter_spec(title: str, dots: Sequence[Dot], *, x: str, y: str, subtitle: str = "", description: str = "") -> Spec:
    """One point a row; the axes need not begin at zero."""
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x, "scale": {"zero": False}},
        "y": {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": False}},
    }
    values = [{"x": d.x, "y": d.y} for d in dots]
    return _spec(title, subtitle, description, values, _POINT_MARK, encoding)


def histogram_spec(title: str, bins: Sequence[Bin], *, value: str, count: str, subtitle: str = "", description: str = "") -> Spec:
    """Bars over bins that were counted before."""
    encoding = {
        "x": {"field": "low", "type": "quantitative", "bin": "binned", "title": value},
        "x2": {"field": "high"},
        "y": {"field": "count", "type": "quantitative", "title": count},
    }
    values = [{"low": b.low, "high": b.high, "count": b.number} for b in bins]
    return _spec(title, subtitle, description, values, _BAR_MARK, encoding)


def _spec(title: str, subtitle: str, description: str, values: list[Spec], mark: Spec, encoding: Spec) -> Spec:
    return {
        "$schema": SCHEMA,
        "title": {"text": title, "subtitle": subtitle} if subtitle else {"text": title},
        "description": description or title,
        "data": {"values": values},
        "mark": mark,
        "encoding": encoding,
    }


def validate(spec: Any) -> None:
    """Raises UserError, naming the part, for a spec that is not of the closed set."""
    read_spec(spec)


def read_spec(spec: Any) -> Plot:
    """Check every part of a spec and give what is to be drawn. Raises UserError, naming the part, for anything else."""
    _shape(spec, "spec", {"$schema", "title", "description", "data", "mark", "encoding"})
    _require(spec["$schema"] == SCHEMA, "$schema", f"it must be {SCHEMA}")
    title, encoding = spec["title"], spec["encoding"]
    _shape(title, "title", {"text"}, {"subtitle"})
    form = _form(spec["mark"], encoding)
    for name, wanted in form.encoding.items():
        _channel(encoding[name], wanted, f"encoding.{name}", name in _TITLED)
    marks = _marks(spec["data"], form)
    return Plot(
        kind=form.kind,
        title=_text(title["text"], "title.text"),
        subtitle=_text(title.get("subtitle", ""), "title.subtitle"),
        description=_text(spec["description"], "description"),
        x_title=encoding["x"]["title"],
        y_title=encoding["y"]["title"],
        marks=marks,
        series=tuple(dict.fromkeys(m.series for m in marks)) if "series" in form.fields else (),
        time_format=encoding["x"]["axis"]["format"] if form.kind == "line" else "",
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """One member of the closed set: its mark, what each channel must be beside its title, and its data's fields in the order that
    `make` takes."""

    kind: Kind
    mark: Spec
    encoding: Mapping[str, Spec]
    fields: tuple[str, ...]
    make: Callable[..., Any]


def _form(mark: Any, encoding: Any) -> _Form:
    """The member that has this mark and these channels."""
    _require(isinstance(encoding, dict), "encoding", "an object is needed")
    for form in _FORMS:
        if mark == form.mark and encoding.keys() == form.encoding.keys():
            return form
    _require(False, "mark", f"no chart has the mark {str(mark)[:80]} with the channels {', '.join(map(str, encoding))[:80]}")
    raise AssertionError


def _channel(channel: Any, wanted: Spec, part: str, is_titled: bool) -> None:
    _shape(channel, part, wanted.keys() | ({"title"} if is_titled else set()))
    if is_titled:
        _text(channel["title"], f"{part}.title")
    for key, value in wanted.items():
        if value is _TIME_AXIS:
            _shape(channel[key], f"{part}.{key}", {"format"})
            _require(
                channel[key]["format"] in TIME_FORMATS, f"{part}.{key}.format", f"one of {', '.join(TIME_FORMATS)} is needed"
            )
        else:
            _require(channel[key] == value and type(channel[key]) is type(value), f"{part}.{key}", f"it must be {value}")


def _marks(data: Any, form: _Form) -> tuple[Any, ...]:
    _shape(data, "data", {"values"})
    values = data["values"]
    _require(isinstance(values, list) and 0 < len(values) <= MAX_POINTS, "data.values", f"1 to {MAX_POINTS} values are needed")
    marks = []
    for i, value in enumerate(values):
        _shape(value, f"data.values[{i}]", set(form.fields))
        marks.append(form.make(*(_FIELDS[name](value[name], f"data.values[{i}].{name}") for name in form.fields)))
    return tuple(marks)


def _require(holds: bool, part: str, wanted: str) -> None:
    if not holds:
        raise UserError(f"the chart's {part} is not valid: {wanted}", "charts are bar, grouped bar, line, scatter or histogram")


def _shape(value: Any, part: str, required: set[str], optional: set[str] | None = None) -> None:
    _require(isinstance(value, dict), part, "an object is needed")
    missing, unknown = required - value.keys(), value.keys() - required - (optional or set())
    _require(not missing, part, f"{', '.join(sorted(missing))} missing")
    _require(not unknown, part, f"{', '.join(sorted(map(str, unknown)))} unknown")


def _text(value: Any, part: str) -> str:
    _require(isinstance(value, str) and len(value) <= MAX_TEXT, part, f"a text of at most {MAX_TEXT} characters is needed")
    return str(value)


def _number(value: Any, part: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and abs(value) <= MAX_NUMBER, part, f"a number of at most {MAX_NUMBER:g} is needed")
    return value  # type: ignore[no-any-return]


def _count(value: Any, part: str) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER, part, "a count is needed")
    return int(value)


def _time(value: Any, part: str) -> datetime:
    try:
        time = datetime.fromisoformat(_text(value, part))
    except ValueError:
        time = datetime.max.replace(tzinfo=UTC)
    _require(time.tzinfo is None, part, "a time as 2024-03-01T00:00:00 is needed")
    return time


_FIELDS: Mapping[str, Callable[[Any, str], Any]] = {
    "category": _text,
    "series": _text,
    "value": _number,
    "time": _time,
    "x": _number,
    "y": _number,
    "low": _number,
    "high": _number,
    "count": _count,
}
_TITLED = ("x", "y", "color")
_TIME_AXIS: Spec = {}
_NOMINAL: Spec = {"type": "nominal", "sort": None}
_QUANTITATIVE: Spec = {"type": "quantitative"}
_LYING: Mapping[str, Spec] = {"y": {"field": "category", **_NOMINAL}, "x": {"field": "value", **_QUANTITATIVE}}
_OVER_TIME: Mapping[str, Spec] = {
    "x": {"field": "time", "type": "temporal", "axis": _TIME_AXIS},
    "y": {"field": "value", **_QUANTITATIVE},
}
_SERIES: Spec = {"field": "series", **_NOMINAL}
_CLOUD: Mapping[str, Spec] = {name: {"field": name, **_QUANTITATIVE, "scale": {"zero": False}} for name in ("x", "y")}
_BINNED: Mapping[str, Spec] = {
    "x": {"field": "low", **_QUANTITATIVE, "bin": "binned"},
    "x2": {"field": "high"},
    "y": {"field": "count", **_QUANTITATIVE},
}
_FORMS = (
    _Form("bar", _BAR_MARK, _LYING, ("category", "value"), Bar),
    _Form("grouped bar", _BAR_MARK, {**_LYING, "yOffset": _SERIES, "color": _SERIES}, ("category", "value", "series"), Bar),
    _Form("line", _LINE_MARK, _OVER_TIME, ("time", "value"), Moment),
    _Form("line", _LINE_MARK, {**_OVER_TIME, "color": _SERIES}, ("time", "value", "series"), Moment),
    _Form("scatter", _POINT_MARK, _CLOUD, ("x", "y"), Dot),
    _Form("histogram", _BAR_MARK, _BINNED, ("low", "high", "count"), Bin),
)
