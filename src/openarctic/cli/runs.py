"""`openarctic runs`: the training runs of a folder, and a page about one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SUMMARY = "list training runs, and write the report of one"
DESCRIPTION = """\
`runs list DIR` has a line for every run in a folder (or in its subfolders); `runs report RUN` writes one HTML page with a run's
curves, its expert loads as heat maps, its events and its configuration. The page needs no network.

examples:
  openarctic runs list runs
  openarctic runs report runs/tiny
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("list", "report"), help="what to do")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of runs, or of one run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of report: where to write it (default DIR/report.html)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of list")


def run(args: argparse.Namespace) -> int:
    """List, or write and say where."""
    if args.action == "report":
        print(write_report(args.folder, args.out))
        return 0
    from openarctic.cli.render import render

    columns = ("run", "steps", "tokens", "minutes", "loss", "validation", "tokens_per_s", "rollbacks")
    print(render(columns, [_row(found, args.folder) for found in _runs(args.folder)], args.format), end="")
    return 0


def write_report(run: Path, out: Path | None) -> Path:
    """Write the page, by default into the run's folder."""
    from openarctic.train.report import write_page

    return write_page(run, out or run / "report.html")


def _runs(folder: Path) -> list[Path]:
    """Every run below, in order. Raises MissingError where there is none."""
    from openarctic.errors import MissingError
    from openarctic.train.runlog import LOG

    found = sorted(log.parent for log in folder.rglob(LOG))
    if not found:
        raise MissingError(f"there is no run in {folder}", f"a run is a folder with {LOG}")
    return found


def _row(run: Path, folder: Path) -> list[Any]:
    from openarctic.train.report import summary
    from openarctic.train.runlog import read_events, read_log

    name = str(run.relative_to(folder)) if run != folder else run.name
    log = read_log(run)
    if not log:
        return [name, 0, *[None] * 6]
    told = summary(log)
    validation = ", ".join(f"{domain} {loss:.3f}" for domain, loss in told["validation"].items())
    rollbacks = sum(event["event"] == "rollback" for event in read_events(run))
    rate, minutes = round(told["tokens_per_s"]), round(told["seconds"] / 60, 1)
    return [name, told["steps"], told["tokens"], minutes, round(told["loss"], 4), validation, rate, rollbacks]
