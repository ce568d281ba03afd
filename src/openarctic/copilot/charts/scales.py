"""Axes: round numbers and times that span values, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

MAX_TIMES = 7
_DAYS_OF_STEPS = (1, 2, 7, 14)
_HOURS_OF_STEPS = (1, 3, 6, 12)
_MONTHS_OF_STEPS = (1, 3, 6, 12, 24, 60, 120, 240, 600, 1200)


def nice_step(span: float, parts: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides `span` into at most `parts` steps."""
    raw = span / parts
    size = 10.0 ** math.floor(math.log10(raw))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= raw * (1 - 1e-9))


def ticks(values: Sequence[float], parts: int, from_zero: bool) -> list[float]:
    """Round numbers from below the least value (or 0) to above the greatest, `parts` steps at most and two more."""
    low, high = float(min(values)), float(max(values))
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low, high + 1) if from_zero or not low else (low - abs(low) / 10, high + abs(high) / 10)
    step = nice_step(high - low, parts)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) if abs(i * step) < 1e6 else i * step for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """A number on an axis: `1,500`, `2.5M`, `3e+14`."""
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:,.2f}".rstrip("0").rstrip(".") + letter
    return f"{value:,.4f}".rstrip("0").rstrip(".") if value != int(value) else f"{int(value):,}"


def value_text(value: float) -> str:
    """A value beside its mark: whole numbers whole, fractions with two decimals (four below 1)."""
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3g}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.{2 if abs(value) >= 1 else 4}f}"


def time_ticks(low: datetime, high: datetime) -> list[datetime]:
    """Moments at round distances (hours, days, months, years) from `low` to `high`, about `MAX_TIMES` of them at most."""
    span = high - low
    if span <= timedelta(0):
        return [low]
    for hours in _HOURS_OF_STEPS:
        if span / timedelta(hours=hours) <= MAX_TIMES:
            start = low.replace(minute=0, second=0, microsecond=0, hour=low.hour - low.hour % hours)
            return _within(low, high, [start + timedelta(hours=hours * i) for i in range(MAX_TIMES + 2)])
    for days in _DAYS_OF_STEPS:
        if span / timedelta(days=days) <= MAX_TIMES:
            start = low.replace(hour=0, minute=0, second=0, microsecond=0)
            return _within(low, high, [start + timedelta(days=days * i) for i in range(MAX_TIMES + 2)])
    months = (high.year - low.year) * 12 + high.month - low.month
    step = next((s for s in _MONTHS_OF_STEPS if months / s <= MAX_TIMES), 12 * math.ceil(months / 12 / MAX_TIMES))
    first = low.year * 12 + low.month - 1
    return _within(low, high, [_month(first - first % step + step * i) for i in range(MAX_TIMES + 2)])


def _month(number: int) -> datetime:
    return datetime(min(max(number // 12, 1), 9999), number % 12 + 1, 1)


def _within(low: datetime, high: datetime, moments: Sequence[datetime]) -> list[datetime]:
    return [m for m in dict.fromkeys(moments) if low <= m <= high] or [low]
