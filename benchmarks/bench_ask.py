"""How long does a person wait? Whole processes, from the start of Python to the last line.

Ten questions to the bundled sample, the import of the package, and `--help`; the first answer warms the disk and is not
counted. One JSON document on standard output.

    python benchmarks/bench_ask.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

QUESTIONS = [
    "How many customers are there?",
    "What is the average salary of employees?",
    "List the names of all suppliers from Norway.",
    "Which product has the highest price?",
    "How many orders have the status cancelled?",
    "Show the names of stores and their cities.",
    "What are the names of products in the category Tents?",
    "How many employees work in each store?",
    "What is the total amount of payments by method?",
    "Which customers have never placed an order?",
]
IMPORT = "import time, sys; t = time.perf_counter(); import openarctic; print(time.perf_counter() - t)"
ENTRY = "import sys; from openarctic.cli import main; sys.exit(main())"


def main() -> None:
    """Measure and print."""
    run(["ask", QUESTIONS[0]])
    answers = [timed(["ask", question]) for question in QUESTIONS]
    helps = [timed(["ask", "--help"])["seconds"] for _ in range(5)]
    imports = [float(python(["-c", IMPORT])) for _ in range(9)]
    bare = [clock(lambda: python(["-c", "pass"])) for _ in range(5)]
    report = {
        "ask_median_s": round(statistics.median(a["seconds"] for a in answers), 3),
        "ask_max_s": round(max(a["seconds"] for a in answers), 3),
        "import_median_ms": round(1000 * statistics.median(imports), 1),
        "help_median_ms": round(1000 * statistics.median(helps), 1),
        "bare_python_ms": round(1000 * statistics.median(bare), 1),
        "processors": os.cpu_count(),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "answers": answers,
    }
    print(json.dumps(report, indent=1))


def timed(arguments: list[str]) -> dict[str, object]:
    """Seconds of one command, with its exit code."""
    start = time.perf_counter()
    code = run(arguments)
    return {"arguments": arguments, "seconds": round(time.perf_counter() - start, 3), "exit_code": code}


def run(arguments: list[str]) -> int:
    """One process of ours."""
    return subprocess.run([sys.executable, "-c", ENTRY, *arguments], capture_output=True, check=False).returncode


def python(arguments: list[str]) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def clock(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
