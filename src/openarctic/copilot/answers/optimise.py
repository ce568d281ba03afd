"""Faster forms of a query: proposed by rules, passed by the guard, run beside the original, compared row by row, timed in turns.

Nothing is claimed that was not measured: a form with other rows is discarded, and where nothing helps that is the answer.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlglot import exp

from openarctic.copilot.access import Access
from openarctic.copilot.answers.execution_plan import can_plan, plan_of
from openarctic.copilot.answers.indexes import missing_indexes
from openarctic.copilot.answers.rewrites import Rewrite, rewrites
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.guard import Checked
from openarctic.errors import CapacityError, OpenArcticError, RefusedError, UserError

REPEATS = 5
MAX_ROWS = 100_000
FASTER = 0.9  # of the original's time, at most, to be called faster
SIGNIFICANT_DIGITS = 10  # sums in another order differ in their last digits
_CHANGING = (exp.Rand, exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime)
_WITH_EXCEPT_ALL = ("duckdb", "postgres")

Verdict = Literal["faster", "no gain", "other rows", "refused", "failed", "not proven"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one form. Times are medians in milliseconds, alternating with the original's; None where it did not come to
    that."""

    rewrite: Rewrite
    verdict: Verdict
    detail: str = ""
    before_ms: float | None = None
    after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Optimisation:
    """The original, every form that was tried, and advice that only its owner can follow. `best` is None where nothing helps."""

    sql: str
    original_ms: float
    trials: tuple[Trial, ...]
    advice: tuple[str, ...]

    @property
    def best(self) -> Trial | None:
        """The fastest form that is faster."""
        faster = [t for t in self.trials if t.verdict == "faster"]
        return min(faster, key=lambda t: (t.after_ms or 0.0) / (t.before_ms or 1.0), default=None)


def optimise(
    sql: str, access: Access, worker: Worker, *, repeats: int = REPEATS, max_rows: int = MAX_ROWS, timeout_s: float = 10.0
) -> Optimisation:
    """Try every form of `sql` that the rules give.

    Raises RefusedError for what may not run, UserError for a query whose result changes by itself, CapacityError when the
    original takes longer than `timeout_s`.
    """
    checked = access.check(sql)
    assert checked.tree is not None
    if checked.tree.find(*_CHANGING):
        raise UserError("the query reads the clock or random numbers, so its results cannot be compared", "put a value there")
    bench = _Bench(access, worker, checked, repeats, max_rows, timeout_s)
    trials = tuple(bench.trial(rewrite) for rewrite in rewrites(checked.tree, access.schema))
    advice: tuple[str, ...] = ()
    if can_plan(access.dialect) and not access.is_restricted:  # plans speak of rows that a policy hides
        steps = plan_of(worker, checked, access.schema, timeout_s).steps
        advice = tuple(missing_indexes(checked.tree, steps, access.schema))
    return Optimisation(checked.shown, bench.original_ms, trials, advice)


class _Bench:
    """The original's result, and how others compare."""

    def __init__(self, access: Access, worker: Worker, original: Checked, repeats: int, max_rows: int, timeout_s: float) -> None:
        self.access, self.worker, self.original = access, worker, original
        self.repeats, self.max_rows, self.timeout_s = repeats, max_rows, timeout_s
        self.result = self._run(original)
        self.original_ms = statistics.median(self._run(original).seconds for _ in range(repeats)) * 1000
        self.rows = _multiset(self.result.rows)

    def _run(self, checked: Checked) -> Result:
        return self.worker.execute(checked, limit=self.max_rows, timeout_s=self.timeout_s)

    def trial(self, rewrite: Rewrite) -> Trial:
        """Check, run, compare, time."""
        try:
            checked = self.access.check(rewrite.sql)
            result = self._run(checked)
            if not self._is_same(result, checked):
                return Trial(rewrite, "other rows", "its rows are not the original's on this data")
        except RefusedError as error:
            return Trial(rewrite, "refused", error.message)
        except CapacityError as error:
            return Trial(rewrite, "failed", error.message)
        except _UnprovenError as error:
            return Trial(rewrite, "not proven", str(error))
        except OpenArcticError as error:
            return Trial(rewrite, "failed", error.message)
        return self._timed(rewrite, checked)

    def _timed(self, rewrite: Rewrite, checked: Checked) -> Trial:
        before, after = [], []
        for _ in range(self.repeats):
            before.append(self._run(self.original).seconds)
            after.append(self._run(checked).seconds)
        old, new = statistics.median(before) * 1000, statistics.median(after) * 1000
        # A busy machine must not make a form look fast: its best run, and almost all runs in turn, must be faster too.
        won = sum(b > a for b, a in zip(before, after, strict=True))
        is_faster = new <= FASTER * old and min(after) <= FASTER * min(before) and won >= self.repeats - 1
        return Trial(rewrite, "faster" if is_faster else "no gain", "", round(old, 2), round(new, 2))

    def _is_same(self, result: Result, checked: Checked) -> bool:
        if len(result.columns) != len(self.result.columns):
            return False
        if not (self.result.truncated or result.truncated):
            return _multiset(result.rows) == self.rows
        return self._difference(checked) == 0

    def _difference(self, checked: Checked) -> int:
        """Rows that only one of the two has, counted by the engine: there are more than are fetched."""
        dialect = self.access.dialect
        if dialect not in _WITH_EXCEPT_ALL:
            raise _UnprovenError(f"there are more than {self.max_rows:,} rows, and {dialect} has no EXCEPT ALL to compare them")
        one, other = f"({self.original.shown})", f"({checked.shown})"
        sql = (
            f"SELECT COUNT(*) FROM ((SELECT * FROM {one} AS a EXCEPT ALL SELECT * FROM {other} AS b) "
            f"UNION ALL (SELECT * FROM {other} AS c EXCEPT ALL SELECT * FROM {one} AS d)) AS difference"
        )
        return int(self._run(self.access.check(sql)).rows[0][0])


class _UnprovenError(Exception):
    """Whether the rows are the same could not be told."""


def _multiset(rows: Iterable[Sequence[Any]]) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(_cell(value) for value in row) for row in rows)


def _cell(value: Any) -> Hashable:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:.{SIGNIFICANT_DIGITS}g}"
    return value if isinstance(value, Hashable) else repr(value)
