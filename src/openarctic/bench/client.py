"""The measuring side of a measured process: starts it, asks, and watches what else the machine does meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.bench.machine import ForeignClock
from openarctic.bench.summary import Timing
from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, UserError

SERVER = Path(__file__).with_name("server.py")
OURS, LLAMA = "openarctic", "llama.cpp"
HINT = "pip install llama-cpp-python, or name a Python that has it with --peer-python"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine runs in which Python, on how many threads."""

    kind: str
    threads: int
    python: str = sys.executable


class Client:
    """A running measured process."""

    def __init__(self, spec: EngineSpec, process: subprocess.Popen[str], errors: Any) -> None:
        self.spec, self._process, self._errors = spec, process, errors
        self.settings: dict[str, Any] = {}
        self._read()

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        """One piece of work; what the process answers, with `foreign`. Raises what went wrong there."""
        assert self._process.stdin is not None
        clock = ForeignClock()
        clock.start()
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        reply = self._read()
        reply["foreign"] = clock.stop(reply["cpu_s"])
        self.settings = reply.get("settings", self.settings)
        return reply

    def time(self, job: str, amount: float, **arguments: Any) -> Timing:
        """One repetition."""
        reply = self.ask(job, **arguments)
        return Timing(reply["seconds"], amount, reply["foreign"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if error := reply.get("error"):
            raise as_error(self.spec, error)
        return reply

    def _ended(self) -> OpenArcticError:
        self._errors.seek(0)
        said = [text for text in self._errors.read().decode(errors="replace").splitlines() if text.strip()]
        last = said[-1] if said else f"exit code {self._process.wait()}"
        return CapacityError(f"the process of {self.spec.kind} ended early: {last}", "is there enough memory?")


def as_error(spec: EngineSpec, body: dict[str, Any]) -> OpenArcticError:
    """The error of a measured process, as if it had been raised here."""
    kinds: dict[str, type[OpenArcticError]] = {kind.type: kind for kind in (UserError, MissingError, CapacityError, CorruptError)}
    if body["type"] in kinds:
        return kinds[body["type"]](body["message"], body["hint"])
    if body["type"] == "missing_module" and spec.kind != OURS:
        return MissingError(f"{spec.kind} is not installed for {spec.python} ({body['message']})", HINT)
    return UserError(f"{spec.kind} cannot do this: {body['message']}", body["hint"])


@contextmanager
def started(spec: EngineSpec, path: Path) -> Iterator[Client]:
    """A process for one engine and one file, ended at the end. Raises MissingError where the engine is not installed."""
    command = [spec.python, str(SERVER), spec.kind, str(path), str(spec.threads)]
    # No file beside server.py takes the place of a library, and where llama.cpp fails it starts no debugger.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "GGML_NO_BACKTRACE": "1"}
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        except OSError as error:
            raise MissingError(f"cannot start {spec.python}: {error.strerror}", "give the path of a Python") from error
        with process:
            try:
                yield Client(spec, process, errors)
            finally:
                process.kill()
                with suppress(BrokenPipeError):  # a last job that the process did not live to read
                    if process.stdin:
                        process.stdin.close()


@contextmanager
def busy_processors(count: int) -> Iterator[None]:
    """So many other processes that never rest."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
