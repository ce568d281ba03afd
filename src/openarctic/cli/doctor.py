"""`openarctic doctor`: does everything that a question needs work here?"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

SUMMARY = "check that this installation works"
DESCRIPTION = "Checks the kernels, the bundled model, the sample database and the query process, one line each."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Print one line a check; exit code 1 when one fails."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.machine()}"),
        ("model", _model),
        ("sample database", _sample),
        ("query process", _query),
    ]
    failed = False
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}")
        except Exception as error:  # noqa: BLE001 - a doctor reports whatever is wrong
            failed = True
            print(f"FAIL  {name}: {error}")
    return int(failed)


def _model() -> str:
    from openarctic.engine import load

    engine = load()
    return f"{engine.name}, {engine.kernels} kernels"


def _sample() -> str:
    from openarctic.copilot.databases import read_schema
    from openarctic.copilot.sample import sample_database

    database = sample_database()
    return f"{len(read_schema(database, values=False).tables)} tables at {database.path}"


def _query() -> str:
    from openarctic.copilot.execute import execute
    from openarctic.copilot.guard import check
    from openarctic.copilot.sample import sample_database

    database = sample_database()
    result = execute(database, check("SELECT count(*) FROM customers", "duckdb", None, ["customers"]))
    return f"{result.rows[0][0]} customers counted"
