"""Two results beside each other: what became faster, what slower, and what only one of them has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openarctic.bench.results import FORMAT, cell_key, describe_settings
from openarctic.config import read_object
from openarctic.errors import CorruptError, MissingError, UserError

COLUMNS = ("workload", "model", "settings", "unit", "side", "A", "B", "B vs A", "ratio A", "ratio B")


def read_report(path: str | Path) -> dict[str, Any]:
    """A result as it was written. Raises MissingError, CorruptError, or UserError for another format."""
    if not Path(path).is_file():
        raise MissingError(f"no result at {path}", "openarctic bench decode --out FILE writes one")
    report = read_object(Path(path))
    if "results" not in report:
        raise CorruptError(f"{path} is no result of openarctic bench", "it has no field named results")
    if report.get("format") != FORMAT:
        raise UserError(f"{path} has format {report.get('format')}, {FORMAT} is known", "measure again")
    return report


def compare_reports(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """An object for each side of each cell that both have: medians and `change`, above 1 where B is better."""
    before = {cell_key(c["workload"], c["model"], c["settings"]): c for c in a["results"] if "sides" in c}
    rows = []
    for after in b["results"]:
        known = before.get(cell_key(after["workload"], after["model"], after["settings"]))
        if known is None or "sides" not in after:
            continue
        for side, value in after["sides"].items():
            old = known["sides"].get(side)
            if not (old and value):
                continue
            change = old["median"] / value["median"] if after["unit"] == "s" else value["median"] / old["median"]
            rows.append(
                {
                    "workload": after["workload"],
                    "model": after["model"],
                    "settings": describe_settings(after["settings"]),
                    "unit": after["unit"],
                    "side": side,
                    "a": old["median"],
                    "b": value["median"],
                    "change": change,
                    "ratio_a": (known.get("ratio") or {}).get("median"),
                    "ratio_b": (after.get("ratio") or {}).get("median"),
                }
            )
    return rows


def worst_change(rows: list[dict[str, Any]], side: str) -> float | None:
    """The smallest change of that side; None without any."""
    return min((row["change"] for row in rows if row["side"] == side), default=None)


def compare_table(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows for people."""

    def text(value: float | None) -> str | None:
        return None if value is None else f"{value:.2f}"

    names = ("workload", "model", "settings", "unit", "side")
    return [
        (*(r[name] for name in names), f"{r['a']:.4g}", f"{r['b']:.4g}", *(text(r[n]) for n in ("change", "ratio_a", "ratio_b")))
        for r in rows
    ]
