"""Running checked statements in a child process that can be killed outright (layers two and three of the guard).

The child starts when the `Worker` is made, so that it warms up while a model thinks; it serves many statements, and is
replaced when one of them got it killed. It is a fresh interpreter, never a fork of this process and its threads. What it opens,
credentials with it, it is told through its standard input: arguments and environment can be seen by others.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.copilot.databases import Database, State, has_changed, target_of
from openarctic.copilot.databases.failures import failure
from openarctic.copilot.guard import Checked
from openarctic.errors import CapacityError

SANDBOX = Path(__file__).with_name("sandbox.py")
START_TIMEOUT_S = 20.0
GRACE_S = 0.5  # the engine may stop by itself before the process is killed
MEMORY_BYTES = 1 << 30
RESULT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a statement; `truncated` says that there were more than the limit.

    Where it was asked for, decimals are texts with all their digits, and `kinds` has for each column the names of its values'
    types in Python, without NULL; `aware` is a datetime with a zone, `datetime_ns` one with nanoseconds.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool
    seconds: float
    kinds: Sequence[Sequence[str]] | None = None


class Worker:
    """Runs statements on one database, one after the other."""

    def __init__(self, database: Database, memory_bytes: int = MEMORY_BYTES) -> None:
        self.database, self.memory_bytes = database, memory_bytes
        self._buffer = b""
        self._state: State = None
        self._process: subprocess.Popen[bytes] | None = self._start()
        self._is_ready = self._is_stopped = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        target, self._state = target_of(self.database)
        # -I and an empty environment: nothing from outside changes what the child imports.
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")}
        process = subprocess.Popen(
            [sys.executable, "-I", str(SANDBOX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**keep, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # Ctrl-C reaches us, and we end the child
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"target": target, "memory": self.memory_bytes}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already: whoever reads from it is told
        return process

    def execute(
        self,
        checked: Checked,
        limit: int = 1000,
        timeout_s: float = 10.0,
        role: str | None = None,
        is_plan: bool = False,
        is_exact: bool = False,
    ) -> Result:
        """Run one statement, on PostgreSQL as `role` where one is named. Limits and role of the statement itself come first.
        With `is_plan` it does not run: the rows are the engine's plan for it, in the engine's own form. `is_exact` is for files:
        see `Result`.

        Raises CapacityError at a limit or when a server is gone, MissingError when a table or column of the schema is no longer
        there, RefusedError for a role that may write, UserError when the engine refuses the statement.
        """
        limit = limit if checked.max_rows is None else min(limit, checked.max_rows)
        timeout_s = timeout_s if checked.max_seconds is None else min(timeout_s, checked.max_seconds)
        role = checked.role or role
        if self._has_changed():
            self._end()
        if self._process is None and not self._is_stopped:
            self._process, self._is_ready = self._start(), False
        if self._is_stopped:  # perhaps while it started
            self._end()
            raise CapacityError("the query was stopped")
        self._wait_ready()
        request = {
            "sql": checked.sql,
            "tables": list(checked.tables),
            "limit": limit,
            "timeout": timeout_s,
            "max_bytes": RESULT_BYTES,
            "role": role,
            "plan": is_plan,
            "exact": is_exact,
        }
        deadline = time.monotonic() + timeout_s + GRACE_S
        try:
            reply = self._exchange(json.dumps(request), deadline)
            rows = [tuple(row) for _ in range(reply.get("lines", 0)) for row in self._read(deadline)]
        except TimeoutError as error:
            self._end()
            raise CapacityError(f"the query took longer than {timeout_s:g} s and was stopped", "raise --timeout") from error
        except (EOFError, BrokenPipeError) as error:
            self._end()
            raise CapacityError("the query used more memory than it may and was stopped", "ask for less at once") from error
        except BaseException:
            self._end()
            raise
        if self._has_changed():
            self._end()
            raise CapacityError(f"{self.database.place} was written to while it was read", "ask again")
        if "error" in reply:
            if reply["error"] == "lost":
                self._end()  # the next statement connects anew
            raise failure(self.database, reply["error"], reply["message"])
        return Result(reply["columns"], rows, reply["truncated"], reply["seconds"], reply["kinds"])

    def _has_changed(self) -> bool:
        return has_changed(self.database, self._state)

    def _wait_ready(self) -> None:
        if self._is_ready:
            return
        try:
            reply = self._read(time.monotonic() + START_TIMEOUT_S)
        except (TimeoutError, EOFError) as error:
            self._end()
            raise CapacityError("the process that runs queries did not start") from error
        if "error" in reply:
            self._end()
            raise failure(self.database, reply["error"], reply["message"], is_open=False)
        self._is_ready = True

    def _exchange(self, request: str, deadline: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()
        return dict(self._read(deadline))

    def _read(self, deadline: float) -> Any:
        """The next line."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        chunks = [self._buffer]
        while b"\n" not in chunks[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise EOFError
            chunks.append(chunk)
        line, _, self._buffer = b"".join(chunks).partition(b"\n")
        return json.loads(line)

    def stop(self) -> None:
        """From another thread: end what runs. Every statement fails from now on, until `close`, which comes after that thread is
        done: who closed its pipe under it could have it wait for another process, whose pipe got the same number."""
        self._is_stopped = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._end()
        self._is_stopped = False

    def _end(self) -> None:
        process, self._process, self._buffer = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


def execute(
    database: Database,
    checked: Checked,
    limit: int = 1000,
    timeout_s: float = 10.0,
    memory_bytes: int = MEMORY_BYTES,
) -> Result:
    """Run one statement in a process of its own."""
    with Worker(database, memory_bytes) as worker:
        return worker.execute(checked, limit=limit, timeout_s=timeout_s)
