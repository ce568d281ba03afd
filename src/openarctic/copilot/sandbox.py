"""The child process that runs statements: engine locks inside, killed from outside. Run as a file, never imported.

It imports as little as possible so that it is ready in a moment. The first line of its input says what to open; requests and
replies follow as JSON, one a line, and after a reply its rows, so many a line. When the input ends (the parent is gone) the
process ends at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).with_name("engines")
FIRST_ROWS, MOST_ROWS = 16, 4096  # fetched at once; wide rows stay few
SMALL_BATCH_BYTES = 1 << 20
ROWS_PER_LINE = 256  # the parent parses a line in one go, in which none of its other threads gets a turn


def main() -> None:
    """Open what the first line names, then serve."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)  # nothing but replies reaches the parent
    opening = json.loads(sys.stdin.readline())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    _limit_memory(opening["memory"])
    engine_module = _load_engine(opening["target"]["kind"])
    try:
        engine = engine_module.Engine(opening["target"], opening["memory"])
    except Exception as error:
        _send(out, {"error": engine_module.kind_of(error), "message": _text(error)})
        return
    _send(out, {"ready": True})
    while True:
        _send(out, _reply(engine, engine_module, json.loads(requests.get())))


def _send(out: Any, reply: dict[str, Any] | str) -> None:
    out.write((reply if isinstance(reply, str) else json.dumps(reply)) + "\n")
    out.flush()


def _read_requests(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _load_engine(kind: str) -> Any:
    # By its path: the package itself need not be importable here.
    spec = importlib.util.spec_from_file_location(f"engine_{kind}", ENGINES / f"{kind}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _limit_memory(memory: int) -> None:
    try:
        import resource

        # Threads and mapped libraries need address space of their own.
        resource.setrlimit(resource.RLIMIT_AS, (memory + (2 << 30), memory + (2 << 30)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # the engines' own limits and the parent's kill remain


class _TooLargeError(Exception):
    """The result has more bytes than the parent takes."""


def _reply(engine: Any, engine_module: Any, request: dict[str, Any]) -> dict[str, Any] | str:
    started = time.perf_counter()
    try:
        try:
            columns = engine.start(request)
            kinds = [set[str]() for _ in columns] if request["exact"] else None
            lines, truncated = _lines(engine, request["limit"], request["max_bytes"], kinds)
        finally:
            engine.finish()
    except MemoryError:
        return {"error": "capacity", "message": "the query needs more memory than it may use"}
    except _TooLargeError:
        return {"error": "capacity", "message": f"the result has more than {request['max_bytes']} bytes"}
    except Exception as error:
        kind = engine_module.kind_of(error)
        text = f"the query took longer than {request['timeout']:g} s" if kind == "timeout" else _text(error)
        return {"error": kind, "message": text}
    head = {
        "columns": columns,
        "truncated": truncated,
        "seconds": time.perf_counter() - started,
        "kinds": None if kinds is None else _told_kinds(kinds, engine),
        "lines": len(lines),
    }
    return "\n".join([json.dumps(head), *lines])


def _told_kinds(kinds: list[set[str]], engine: Any) -> list[list[str]]:
    """Of each column, without NULL; what an engine gives as text is of the kind that it says."""
    given: dict[int, str] = getattr(engine, "kinds", {})
    return [[given[i]] if i in given else sorted(found - {"NoneType"}) for i, found in enumerate(kinds)]


def _text(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]


def _lines(engine: Any, limit: int, max_bytes: int, kinds: list[set[str]] | None) -> tuple[list[str], bool]:
    """Encoded rows, some in a line, fetched in batches so that a result which is too large is noticed before all of it is here;
    and whether there were more. With `kinds` they are exact, and the kinds of each column's values are added."""
    lines: list[str] = []
    total, done, count = 0, 0, FIRST_ROWS
    while True:
        batch = engine.fetch(min(count, limit + 1 - done))
        size = 0
        for start in range(0, min(len(batch), limit - done), ROWS_PER_LINE):
            rows = batch[start : min(start + ROWS_PER_LINE, limit - done)]
            lines.append(_encoded(rows, _cell if kinds is None else _exact_cell))
            size += len(lines[-1])
            if total + size > max_bytes:
                raise _TooLargeError
            for found, column in zip(kinds or (), zip(*rows, strict=True), strict=False):
                found |= _kinds(column)
        total, done = total + size, done + len(batch)
        if not batch or done > limit:
            return lines, done > limit
        if size < SMALL_BATCH_BYTES:
            count = min(2 * count, MOST_ROWS)


def _encoded(rows: list[Any], cell: Callable[[object], object]) -> str:
    try:
        return json.dumps(rows, default=cell, allow_nan=False)  # value by value in Python takes six times as long
    except (ValueError, TypeError):  # a float that JSON does not have, or such a key
        return json.dumps([[cell(value) for value in row] for row in rows])


def _kinds(values: tuple[object, ...]) -> set[str]:
    """The names of their types; of a time with a zone, `aware`."""
    names = {kind.__name__ for kind in set(map(type, values))}
    if "datetime" in names and any(getattr(value, "tzinfo", None) is not None for value in values):
        names = names - {"datetime"} | {"aware"}
    return names


def _exact_cell(value: object) -> object:
    """As `_cell`, but decimals as text with all their digits."""
    return format(value, "f") if type(value).__name__ == "Decimal" else _cell(value)


def _cell(value: object) -> object:
    """What JSON can carry: numbers, text, null; bytes as hex, dates as ISO text, decimals as the nearest number."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if hasattr(value, "isoformat"):
        return value.isoformat(" ") if hasattr(value, "hour") and hasattr(value, "year") else value.isoformat()
    if isinstance(value, list | tuple):
        return [_cell(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _cell(v) for k, v in value.items()}
    if type(value).__name__ == "Decimal":
        number: Any = value
        if not number.is_finite():
            return str(number)
        return int(number) if number == number.to_integral_value() else float(number)
    return str(value)


if __name__ == "__main__":
    main()
