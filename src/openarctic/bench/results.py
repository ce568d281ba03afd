"""What was measured, as cells that several runs add to, and as the one JSON document of a whole benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openarctic.bench.summary import Run, summarize

FORMAT = 1


@dataclass(slots=True)
class Cell:
    """One question: a workload of a model with its settings, whose sides are compared in every run.

    `unit` is tok/s, or s where less is better. `extra` holds what was measured beside.
    """

    workload: str
    model: str
    settings: dict[str, Any]
    sides: tuple[str, ...]
    unit: str = "tok/s"
    runs: list[Run] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What two results are matched by: the number of steps is no part of the question."""
        return cell_key(self.workload, self.model, self.settings)

    def to_dict(self) -> dict[str, Any]:
        """With all summaries."""
        head = {"workload": self.workload, "model": self.model, "settings": self.settings, "unit": self.unit}
        return head | summarize(self.sides, self.runs, is_rate=self.unit != "s") | self.extra


def cell_key(workload: str, model: str, settings: dict[str, Any]) -> tuple[str, str, str]:
    """Workload, model, and the settings but the number of steps."""
    return workload, model, describe_settings({k: v for k, v in settings.items() if k != "steps"})


def describe_settings(settings: dict[str, Any]) -> str:
    """`batch 8, context 128`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


class Cells:
    """Cells in the order of their first appearance."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], Cell] = {}

    def add(self, cell: Cell) -> None:
        """A new cell, or more runs of a known one."""
        known = self._cells.setdefault(cell.key, cell)
        if known is not cell:
            known.runs += cell.runs
            known.extra |= cell.extra

    def to_list(self) -> list[Cell]:
        """All of them."""
        return list(self._cells.values())


COLUMNS = ("workload", "model", "settings", "unit", "first", "second", "ratio", "range", "runs", "limit", "n", "rejected")


def table(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows for people: values of both sides, their ratio (first over second, above 1 in favour of the first), its range over
    all pairs and over the runs' medians, and the share of the machine's limit that the first side reaches."""
    return [row for cell in report["results"] for row in _rows(cell)]


def _rows(cell: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
    settings = describe_settings(cell["settings"])
    if "errors" in cell:
        return [_error_row(cell, settings, name, error) for name, error in cell["errors"].items()]
    (first_name, first), *others = cell["sides"].items()
    second_name, second = others[0] if others else ("", None)
    ratio = cell.get("ratio")
    spread = [value for value in (ratio or {}).get("runs", []) if value is not None]
    return [
        (
            cell["workload"],
            cell["model"],
            settings,
            cell["unit"],
            f"{first_name} {_short(first and first['median'])}",
            f"{second_name} {_short(second and second['median'])}" if others else None,
            f"{ratio['median']:.2f}" if ratio else None,
            f"{ratio['min']:.2f}..{ratio['max']:.2f}" if ratio else None,
            f"{min(spread):.2f}..{max(spread):.2f}" if len(spread) > 1 else None,
            _limit(cell.get("shares", {})),
            cell["repetitions"],
            cell["rejected"],
        )
    ]


def _error_row(cell: dict[str, Any], settings: str, name: str, error: dict[str, float]) -> tuple[Any, ...]:
    agreement = f"argmax {error['argmax_agreement']:.0%}"
    head = (cell["workload"], cell["model"], f"{settings}; {name}", "relative error", _short(error["relative"]))
    return (*head, None, None, None, None, agreement, None, None)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _limit(shares: dict[str, float]) -> str | None:
    names = {"bandwidth": "bus", "arithmetic": "alu"}
    reached = {names[name]: value for name, value in shares.items() if name in names}
    return " ".join(f"{name} {value:.0%}" for name, value in reached.items()) or None
