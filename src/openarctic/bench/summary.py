"""The arithmetic of measurements: medians, paired ratios, spreads, and which repetitions count. No clock, no processes.

The rule of rejection is fixed before anything runs: a repetition counts when other programs (and the hypervisor, as far as it
tells) used at most `max_foreign` of the machine's processor time while it ran. A pair is rejected as a whole.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """One repetition of one side: `amount` units of work in `seconds`, and the share of the machine that others used meanwhile
    (None where the system does not tell)."""

    seconds: float
    amount: float
    foreign: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its range."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


def is_quiet(pair: Sequence[Timing], max_foreign: float) -> bool:
    """Whether every repetition of a pair counts; what nobody measured is not held against it."""
    return all(t.foreign is None or t.foreign <= max_foreign for t in pair)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a measurement gave: the pairs that count, one timing a side, and how many were rejected."""

    pairs: tuple[tuple[Timing, ...], ...]
    rejected: int


def summarize(sides: Sequence[str], runs: Sequence[Run], *, is_rate: bool = True) -> dict[str, Any]:
    """Medians over all runs, with the spread between the runs' medians.

    A side's value is its rate (amount a second) or, with `is_rate` false, its seconds. The ratio says how many times the first
    side is better than the second, as the median of the ratios of pairs: above 1 is in favour of the first.
    """
    out: dict[str, Any] = {
        "repetitions": sum(len(run.pairs) for run in runs),
        "rejected": sum(run.rejected for run in runs),
        "sides": {name: _side([[pair[i] for pair in run.pairs] for run in runs], is_rate) for i, name in enumerate(sides)},
    }
    if len(sides) == 2:
        by_run = [[_ratio(*pair) for pair in run.pairs] for run in runs]
        spread = Spread.of([ratio for ratios in by_run for ratio in ratios])
        out["ratio"] = asdict(spread) | {"runs": _medians(by_run)} if spread else None
    return out


def _side(by_run: Sequence[Sequence[Timing]], is_rate: bool) -> dict[str, Any] | None:
    values = [[t.amount / t.seconds if is_rate else t.seconds for t in timings] for timings in by_run]
    spread = Spread.of([value for run in values for value in run])
    if spread is None:
        return None
    seconds = [[round(t.seconds, 6) for t in timings] for timings in by_run]
    return asdict(spread) | {"runs": _medians(values), "seconds": seconds}


def _ratio(first: Timing, second: Timing) -> float:
    return (first.amount / first.seconds) / (second.amount / second.seconds)


def _medians(by_run: Sequence[Sequence[float]]) -> list[float | None]:
    return [statistics.median(values) if values else None for values in by_run]


def steps_for(seconds_per_step: float, target_s: float, low: int, high: int) -> int:
    """How many steps take about `target_s`, within limits."""
    return max(low, min(high, round(target_s / max(seconds_per_step, 1e-9))))
