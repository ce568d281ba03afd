"""schemathesis over the OpenAPI document of a running server, seed after seed until enough cases were tried.

    python -m tests.serve.fuzz_openapi --cases 10000 --log fuzz.jsonl

A line of the log is one run: seed, cases, what failed. Seeds that stand in the log are not run again, so that a long run can be
broken off and taken up. Ends with 1 where anything failed. `schemathesis` must be on the PATH
(scripts/conformance_environments.sh).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from openarctic.copilot.sample import database_or_sample
from openarctic.serve.desk import Desk

from .world import chat_engine, running

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance,no_leaks"
SETTINGS = {"max_output_tokens": 8, "request_timeout_s": 20.0}  # steps of the model are what costs
HANGS_S = 60.0  # an answer that has not come by then never does
LIMIT_S = 3000.0


@dataclass(frozen=True, slots=True)
class Run:
    """One seed's: `failed` is schemathesis' report, empty where all is well."""

    seed: int
    cases: int
    seconds: float
    failed: str


def fuzz(port: int, seed: int, examples: int) -> Run:
    """`examples` for each operation, beside those that cover its parameters."""
    command = ["schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", CHECKS, "-n", str(examples)]
    command += ["--seed", str(seed), "--request-timeout", str(HANGS_S), "--no-color"]
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_checks", "PYTHONPATH": str(Path(__file__).parent)}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # its own database of examples would make seeds depend on each other
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, cwd=folder, env={**os.environ, **hooks}, check=False
        )
    cases = re.findall(r"(\d+) generated", done.stdout)
    failed = "" if done.returncode == 0 else (done.stdout + done.stderr)[-20_000:]
    return Run(seed, int(cases[-1]) if cases else 0, round(time.monotonic() - started, 1), failed)


def main() -> int:
    """Runs until `--cases` are in the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=100, help="of each operation and seed")
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    if shutil.which("schemathesis") is None:
        print("schemathesis is not on the PATH", file=sys.stderr)
        return 2
    runs = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        engine = chat_engine(Path(folder))
        desk = Desk(engine, {"sample": database_or_sample(None)})
        with running(engine, desk, **SETTINGS) as server:
            while sum(run["cases"] for run in runs) < args.cases:
                run = asdict(fuzz(server.port, max((run["seed"] for run in runs), default=0) + 1, args.examples))
                runs.append(run)
                with args.log.open("a") as log:
                    log.write(json.dumps(run) + "\n")
                verdict = "failed" if run["failed"] else "ok"
                print(f"seed {run['seed']}: {run['cases']} cases, {run['seconds']} s, {verdict}", flush=True)
        desk.close()
    print(f"{sum(run['cases'] for run in runs)} cases, {sum(bool(run['failed']) for run in runs)} runs with failures")
    return int(any(run["failed"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
