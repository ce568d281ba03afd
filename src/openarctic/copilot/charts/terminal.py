"""A chart in the terminal: bars of blocks, lines and points of braille dots; plain ASCII where the terminal knows no better."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from openarctic.copilot.charts.scales import short_number, ticks, value_text
from openarctic.copilot.charts.scene import seconds, time_text
from openarctic.copilot.charts.vegalite import Bar, Plot, Spec, read_spec

MIN_WIDTH, MAX_WIDTH = 24, 200
HEIGHT = 12  # lines of a field of lines or points
MAX_LABEL_SHARE = 0.4
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
_COLOURS = (34, 33, 32, 35, 36, 31)  # of ANSI, one for each series
_SIGNS = "*o+x#@"  # of series where there is neither colour nor braille
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille: [row of 4][column of 2]
_NO_UNICODE = str.maketrans({"…": ".", "│": "|", "└": "+", "─": "-", "■": "#"})


def terminal(spec: Spec, width: int = 80, unicode: bool = True, colour: bool = False) -> str:
    """Draw a validated spec within `width` characters a line. Raises UserError for a spec that is not in the closed set."""
    plot = read_spec(spec)
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    drawing = _Drawing(plot, width, unicode, colour)
    text = "\n".join(line.rstrip() for line in drawing.lines()) + "\n"
    return text if unicode else _ascii(text)


def shown_width(text: str) -> int:
    """Columns of a terminal that a text takes: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis, within `width` columns; nothing in it steers the terminal."""
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    if shown_width(text) <= width:
        return text
    while text and shown_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _ascii(text: str) -> str:
    """For terminals of another encoding: letters lose their accents, what has no ASCII form becomes `?`."""
    plain = unicodedata.normalize("NFKD", text.translate(_NO_UNICODE))
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()


class _Drawing:
    """One plot as lines of text."""

    def __init__(self, plot: Plot, width: int, unicode: bool, colour: bool) -> None:
        self.plot, self.width, self.unicode, self.colour = plot, width, unicode, colour

    def lines(self) -> list[str]:
        """Title, legend, and the drawing."""
        heads = [self._bold(cut(self.plot.title, self.width))]
        if self.plot.subtitle:
            heads.append(cut(self.plot.subtitle, self.width))
        if self.plot.series:
            heads += self._legend()
        if self.plot.kind in ("bar", "grouped bar"):
            return heads + self._bars([*self.plot.marks])
        if self.plot.kind == "histogram":
            bins = [Bar(f"{short_number(b.low)} to {short_number(b.high)}", b.number) for b in self.plot.marks]
            return heads + self._bars(bins)
        return heads + self._field()

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def _painted(self, text: str, series: int) -> str:
        return f"\x1b[{_COLOURS[series % len(_COLOURS)]}m{text}\x1b[0m" if self.colour and text.strip() else text

    def _sign(self, series: int) -> str:
        return "■" if self.colour and self.unicode else _SIGNS[series % len(_SIGNS)]

    def _legend(self) -> list[str]:
        lines: list[str] = []
        line, used = "", 0
        for i, name in enumerate(self.plot.series):
            text = cut(name, self.width - 4)
            wide = shown_width(text) + 4
            if used and used + wide > self.width:
                lines, line, used = [*lines, line], "", 0
            line += f"{self._painted(self._sign(i), i)} {text}  "
            used += wide
        return [*lines, line]

    # bars

    def _bars(self, bars: Sequence[Bar]) -> list[str]:
        names = list(dict.fromkeys(bar.category for bar in bars))
        order = {name: i for i, name in enumerate(self.plot.series or ("",))}
        space = min(max(shown_width(n) for n in names), int(self.width * MAX_LABEL_SHARE))
        values = [value_text(bar.value) for bar in bars]
        room = max(self.width - space - 3 - max(map(len, values)) - 1, 4)
        low, high = min(0.0, *(b.value for b in bars)), max(0.0, *(b.value for b in bars))
        span = (high - low) or 1.0
        zero = round(room * -low / span)
        lines, before = [], None
        for bar, value in zip(bars, values, strict=True):
            label = cut(bar.category, space) if bar.category != before else ""
            before = bar.category
            padded = " " * (space - shown_width(label)) + label
            lines.append(f"{padded} │{self._bar(bar.value, span, room, zero, order[bar.series])} {value}")
        return lines

    def _bar(self, value: float, span: float, room: int, zero: int, series: int) -> str:
        length = abs(value) / span * room
        if value < 0:
            cells = max(round(length), 1)
            return self._painted(" " * max(zero - cells, 0) + self._block(series) * min(cells, zero), series)
        whole, part = int(length), int((length % 1) * 8)
        text = self._block(series) * whole
        if self.unicode and not self._has_signs():
            text += _EIGHTHS[part].strip()
        return " " * zero + self._painted(text or (self._block(series) if value else ""), series)

    def _has_signs(self) -> bool:
        return len(self.plot.series) > 1 and not self.colour

    def _block(self, series: int) -> str:
        if self._has_signs():
            return self._sign(series)
        return _FULL if self.unicode else "#"

    # lines and points

    def _field(self) -> list[str]:
        points = self._points()
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        marks = ticks(ys, 4, from_zero=self.plot.kind != "scatter")
        names = {tick: short_number(tick) for tick in marks}
        space = max(map(len, names.values()))
        grid = _Grid(max(self.width - space - 2, 10), HEIGHT, self.unicode and not self._has_signs())
        low, high = min(xs), max(xs)
        previous: dict[int, tuple[float, float]] = {}
        for x, y, series in points:
            across = (x - low) / (high - low) if high > low else 0.5
            up = (y - marks[0]) / (marks[-1] - marks[0])
            at = across * (grid.columns - 1), (1 - up) * (grid.rows - 1)
            if self.plot.kind == "line" and series in previous:
                grid.line(previous[series], at, series)
            grid.dot(*at, series)
            previous[series] = at
        at_line = {round((1 - (t - marks[0]) / (marks[-1] - marks[0])) * (HEIGHT - 1)): name for t, name in names.items()}
        lines = [f"{at_line.get(i, ''):>{space}} │{self._row(grid, i)}" for i in range(HEIGHT)]
        lines.append(f"{'':>{space}} └{'─' * grid.width}")
        first, last = self._ends(low, high)
        gap = max(grid.width - len(first) - len(last), 1)
        lines.append(f"{'':>{space}}  {first}{' ' * gap}{last}")
        titles = f"{self.plot.y_title} (up) against {self.plot.x_title} (right)" if self.plot.kind == "scatter" else ""
        return [*lines, cut(titles, self.width)] if titles else lines

    def _points(self) -> list[tuple[float, float, int]]:
        if self.plot.kind == "scatter":
            return [(d.x, d.y, 0) for d in self.plot.marks]
        order = {name: i for i, name in enumerate(self.plot.series or ("",))}
        return [(seconds(m.time), m.value, order[m.series]) for m in self.plot.marks]

    def _ends(self, low: float, high: float) -> tuple[str, str]:
        if self.plot.kind == "scatter":
            return short_number(low), short_number(high)
        times = [m.time for m in self.plot.marks]
        return time_text(min(times), self.plot.time_format), time_text(max(times), self.plot.time_format)

    def _row(self, grid: _Grid, row: int) -> str:
        cells = []
        for text, series in grid.cells(row):
            sign = text if grid.is_fine else (self._sign(series) if self._has_signs() else "*") if text != " " else " "
            cells.append(self._painted(sign, series))
        return "".join(cells)


class _Grid:
    """Dots on `width` x `height` characters: eight of braille in each, or one."""

    def __init__(self, width: int, height: int, is_fine: bool) -> None:
        self.width, self.height, self.is_fine = width, height, is_fine
        self.columns, self.rows = (2 * width, 4 * height) if is_fine else (width, height)
        self._marks = [[0] * width for _ in range(height)]
        self._series = [[0] * width for _ in range(height)]

    def dot(self, x: float, y: float, series: int) -> None:
        """Mark the nearest place."""
        column = min(max(round(x), 0), self.columns - 1)
        row = min(max(round(y), 0), self.rows - 1)
        if self.is_fine:
            cell_row, cell_column, mark = row // 4, column // 2, _DOTS[row % 4][column % 2]
        else:
            cell_row, cell_column, mark = row, column, 1
        self._marks[cell_row][cell_column] |= mark
        self._series[cell_row][cell_column] = series

    def line(self, start: tuple[float, float], end: tuple[float, float], series: int) -> None:
        """Mark every place between two."""
        steps = 2 * math.ceil(max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1))
        for i in range(steps):
            share = i / steps
            self.dot(start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share, series)

    def cells(self, row: int) -> list[tuple[str, int]]:
        """The characters of a row, with the series that was drawn last there."""
        texts = (chr(0x2800 + m) if m and self.is_fine else "*" if m else " " for m in self._marks[row])
        return list(zip(texts, self._series[row], strict=True))
