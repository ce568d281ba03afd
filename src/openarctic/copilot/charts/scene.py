"""Where everything of a chart lies: a plot becomes boxes, strokes, spots and words on a canvas, which SVG and PNG draw alike.

Units are pixels, y grows downwards. Colours are names: `ink`, `soft`, `line`, and `c0` to `c5` for the series.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from openarctic.copilot.charts.scales import short_number, ticks, time_ticks, value_text
from openarctic.copilot.charts.vegalite import Plot

COLOURS = 6
MARGIN = 16.0
TITLE_SIZE, TEXT_SIZE = 16.0, 12.0
LINE_HEIGHT = 18.0
BAR, GROUPED_BAR, GAP = 20.0, 13.0, 8.0
PLOT_HEIGHT = 260.0
MAX_LABEL_SHARE = 0.36  # of the width, for the names of bars
MAX_SPOTTED = 80  # points of a line that get spots
TICK = 5.0

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; `hint` tells what it stands for."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Spot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    colour: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A text on its baseline."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    colour: str = "soft"
    size: float = TEXT_SIZE
    is_bold: bool = False


@dataclass(slots=True)
class Scene:
    """A canvas and what stands on it, in the order of drawing."""

    width: float
    height: float
    title: str
    description: str
    shapes: list[Box | Stroke | Spot | Words] = field(default_factory=list)


def lay_out(plot: Plot, width: float = 720.0) -> Scene:
    """Place everything of a plot on a canvas of this width; the height follows from what is drawn."""
    scene = Scene(width, 0.0, plot.title, plot.description)
    top = _heading(scene, plot)
    if plot.kind in ("bar", "grouped bar"):
        _bars(scene, plot, top)
    else:
        _field(scene, plot, top)
    return scene


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """About how wide a sans-serif text is: fonts differ, so layouts leave room."""
    return size * sum(_character_width(c) for c in text)


def fitting(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """The text, or its beginning and an ellipsis."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _character_width(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if unicodedata.combining(character):
        return 0.0
    if character in "iljtfrI.,:;'|!()[] -":
        return 0.34
    if character in "mwMW@%—":
        return 0.9
    return 0.68 if character.isupper() else 0.57


def _heading(scene: Scene, plot: Plot) -> float:
    """Title, subtitle and legend; where the rest begins."""
    y = MARGIN + TITLE_SIZE
    title = fitting(plot.title, scene.width - 2 * MARGIN, TITLE_SIZE * 1.05)
    scene.shapes.append(Words(MARGIN, y, title, colour="ink", size=TITLE_SIZE, is_bold=True))
    if plot.subtitle:
        y += LINE_HEIGHT
        scene.shapes.append(Words(MARGIN, y, fitting(plot.subtitle, scene.width - 2 * MARGIN)))
    if plot.series:
        y = _legend(scene, plot.series, y + LINE_HEIGHT + 4)
    return y + 12


def _legend(scene: Scene, series: Sequence[str], y: float) -> float:
    x = MARGIN
    for i, name in enumerate(series):
        text = fitting(name, scene.width / 2)
        wide = 16 + text_width(text) + 16
        if x + wide > scene.width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + LINE_HEIGHT
        scene.shapes.append(Box(x, y - 10, 11, 11, f"c{i % COLOURS}"))
        scene.shapes.append(Words(x + 16, y, text, colour="ink"))
        x += wide
    return y


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * ((value - low) / (high - low))


def _bars(scene: Scene, plot: Plot, top: float) -> None:
    categories = list(dict.fromkeys(bar.category for bar in plot.marks))
    is_grouped = plot.kind == "grouped bar"
    order = {name: i for i, name in enumerate(plot.series)} if is_grouped else {"": 0}
    thickness = GROUPED_BAR if is_grouped else BAR
    pitch = thickness * len(order) + GAP
    values = [bar.value for bar in plot.marks]
    widest = 1.06 * max(text_width(c) for c in categories)  # some fonts are wider
    left = MARGIN + min(widest, scene.width * MAX_LABEL_SHARE) + 8
    marks = ticks(values, 5, from_zero=True)
    right = scene.width - MARGIN - max(text_width(value_text(v)) for v in values) - 8
    place = _linear(marks[0], marks[-1], left, right)
    bottom = top + pitch * len(categories)
    for tick in marks:
        colour = "soft" if tick == 0 else "line"
        scene.shapes.append(Stroke(((place(tick), top), (place(tick), bottom)), colour))
        scene.shapes.append(Words(place(tick), bottom + LINE_HEIGHT, short_number(tick), "middle"))
    middles = {name: top + pitch * i + pitch / 2 for i, name in enumerate(categories)}
    for name, middle in middles.items():
        scene.shapes.append(Words(left - 8, middle + 4, fitting(name, left - MARGIN - 6), "end", "ink"))
    for bar in plot.marks:
        at = order[bar.series]
        y = middles[bar.category] - thickness * len(order) / 2 + thickness * at
        zero, end = place(0.0), place(bar.value)
        hint = f"{bar.category}{', ' + bar.series if bar.series else ''}: {value_text(bar.value)}"
        scene.shapes.append(
            Box(
                min(zero, end),
                y + 0.5,
                max(abs(end - zero), 0.75),
                thickness - (1.5 if is_grouped else 0),
                f"c{at % COLOURS}",
                hint,
            )
        )
        size = 10.0 if is_grouped else 11.0
        x = end + 5 if bar.value >= 0 else zero + 5
        scene.shapes.append(Words(x, y + thickness / 2 + size * 0.36, value_text(bar.value), "start", "ink", size))
    scene.shapes.append(Words((left + right) / 2, bottom + 2 * LINE_HEIGHT + 4, fitting(plot.x_title, right - left), "middle"))
    scene.height = bottom + 2 * LINE_HEIGHT + 4 + MARGIN


def _field(scene: Scene, plot: Plot, top: float) -> None:
    """Lines, points and histograms: two axes that cross."""
    xs, ys = _values(plot)
    y_marks = ticks(ys, 5, from_zero=plot.kind != "scatter")
    left = MARGIN + max(text_width(short_number(t)) for t in y_marks) + 8
    top += LINE_HEIGHT
    bottom, right = top + PLOT_HEIGHT, scene.width - MARGIN - 12
    scene.shapes.append(Words(MARGIN, top - 10, fitting(plot.y_title, scene.width - 2 * MARGIN)))
    place_y = _linear(y_marks[0], y_marks[-1], bottom, top)
    for tick in y_marks:
        colour = "soft" if tick == y_marks[0] else "line"
        scene.shapes.append(Stroke(((left, place_y(tick)), (right, place_y(tick))), colour))
        scene.shapes.append(Words(left - 6, place_y(tick) + 4, short_number(tick), "end"))
    x_marks, low, high = _x_marks(plot, xs)
    inset = 0.0 if plot.kind == "histogram" else 10.0
    place_x = _linear(low, high, left + inset, right - inset) if high > low else (lambda _: (left + right) / 2)
    for at, text in _spread(x_marks, place_x):
        scene.shapes.append(Stroke(((at, bottom), (at, bottom + TICK)), "soft"))
        scene.shapes.append(Words(at, bottom + LINE_HEIGHT + 2, text, "middle"))
    {"line": _lines, "scatter": _spots, "histogram": _columns}[plot.kind](scene, plot, place_x, place_y)
    scene.shapes.append(Words((left + right) / 2, bottom + 2 * LINE_HEIGHT + 6, fitting(plot.x_title, right - left), "middle"))
    scene.height = bottom + 2 * LINE_HEIGHT + 6 + MARGIN


Place = Callable[[float], float]


def seconds(time: datetime) -> float:
    """A time as a number; no zone is meant."""
    return (time - datetime(1, 1, 1)).total_seconds()


def _values(plot: Plot) -> tuple[list[float], list[float]]:
    if plot.kind == "line":
        return [seconds(m.time) for m in plot.marks], [m.value for m in plot.marks]
    if plot.kind == "scatter":
        return [d.x for d in plot.marks], [d.y for d in plot.marks]
    return [edge for b in plot.marks for edge in (b.low, b.high)], [b.number for b in plot.marks]


def _x_marks(plot: Plot, xs: Sequence[float]) -> tuple[list[tuple[float, str]], float, float]:
    """Ticks with their texts, and the ends of the axis."""
    if plot.kind == "line":
        times = [m.time for m in plot.marks]
        shown = time_ticks(min(times), max(times))
        texts = {time_text(t, plot.time_format): seconds(t) for t in reversed(shown)}  # a year's name stands once
        return [(at, text) for text, at in reversed(texts.items())], min(xs), max(xs)
    marks = ticks(xs, 6, from_zero=False)
    if plot.kind == "histogram":
        marks = [m for m in marks if min(xs) <= m <= max(xs)]
        return [(m, short_number(m)) for m in marks], min(xs), max(xs)
    return [(m, short_number(m)) for m in marks], marks[0], marks[-1]


def time_text(time: datetime, form: str) -> str:
    """The time in one of `TIME_FORMATS`; years have four digits on every system."""
    return time.strftime(form.replace("%Y", f"{time.year:04d}"))


def _spread(marks: Sequence[tuple[float, str]], place: Place) -> list[tuple[float, str]]:
    """Without texts that would touch the one before."""
    kept: list[tuple[float, str]] = []
    free_from = float("-inf")
    for value, text in marks:
        at, half = place(value), text_width(text) / 2
        if at - half >= free_from:
            kept.append((at, text))
            free_from = at + half + 10
    return kept


def _lines(scene: Scene, plot: Plot, place_x: Place, place_y: Place) -> None:
    for i, name in enumerate(plot.series or ("",)):
        colour = f"c{i % COLOURS}"
        own = [m for m in plot.marks if m.series == name]
        points = tuple((place_x(seconds(m.time)), place_y(m.value)) for m in own)
        if len(points) > 1:
            scene.shapes.append(Stroke(points, colour, 2.0))
        radius = 3.0 if len(plot.marks) <= MAX_SPOTTED else 0.0 if len(points) > 1 else 3.0
        for m, (x, y) in zip(own, points, strict=True):
            if radius:
                hint = f"{time_text(m.time, plot.time_format)}{', ' + name if name else ''}: {value_text(m.value)}"
                scene.shapes.append(Spot(x, y, radius, colour, hint))


def _spots(scene: Scene, plot: Plot, place_x: Place, place_y: Place) -> None:
    radius = 3.5 if len(plot.marks) <= 300 else 2.0
    for dot in plot.marks:
        scene.shapes.append(Spot(place_x(dot.x), place_y(dot.y), radius, "c0", f"{value_text(dot.x)}, {value_text(dot.y)}"))


def _columns(scene: Scene, plot: Plot, place_x: Place, place_y: Place) -> None:
    for b in plot.marks:
        x, end, y = place_x(b.low) + 0.5, place_x(b.high) - 0.5, place_y(b.number)
        hint = f"{short_number(b.low)} to {short_number(b.high)}: {b.number:,}"
        if b.number:
            scene.shapes.append(Box(x, y, max(end - x, 0.5), place_y(0.0) - y, "c0", hint))
