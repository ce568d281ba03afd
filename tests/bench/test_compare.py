"""Two results are matched by what they asked, and better is above 1 in either unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openarctic.bench.compare import compare_reports, compare_table, read_report, worst_change
from openarctic.bench.results import Cell
from openarctic.bench.summary import Run, Timing
from openarctic.errors import CorruptError, MissingError, UserError


def report(*cells: Cell) -> dict[str, Any]:
    return {"format": 1, "results": [cell.to_dict() for cell in cells]}


def cell(workload: str, seconds: float, unit: str = "tok/s", steps: int = 8) -> Cell:
    pair = (Timing(seconds, 10), Timing(2.0, 10))
    return Cell(workload, "m", {"batch": 1, "steps": steps}, ("openarctic", "llama.cpp"), unit, [Run((pair,), 0)])


def test_changes_are_above_one_where_b_is_better() -> None:
    rows = compare_reports(
        report(cell("decode", 1.0), cell("load", 1.0, "s"), cell("old", 1.0)),
        report(cell("decode", 0.5, steps=16), cell("load", 2.0, "s"), cell("new", 1.0)),
    )
    ours = {row["workload"]: row for row in rows if row["side"] == "openarctic"}
    assert {name: row["change"] for name, row in ours.items()} == {"decode": 2.0, "load": 0.5}
    assert (ours["decode"]["ratio_a"], ours["decode"]["ratio_b"]) == (2.0, 4.0)
    assert worst_change(rows, "openarctic") == 0.5
    assert worst_change(rows, "llama.cpp") == 1.0
    assert worst_change([], "openarctic") is None
    assert len(compare_table(rows)[0]) == 10


def test_a_cell_whose_repetitions_were_all_rejected_is_left_out() -> None:
    loud = Cell("decode", "m", {"batch": 1}, ("openarctic", "llama.cpp"), runs=[Run((), 27)])
    assert compare_reports(report(loud), report(loud)) == []


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no result at"):
        read_report(tmp_path / "none.json")
    for text, kind in (("[]", CorruptError), ("{}", CorruptError), ('{"results": [], "format": 99}', UserError)):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(kind):
            read_report(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(report()))
    assert read_report(tmp_path / "good.json")["results"] == []
