"""What goes wrong is told to the caller it concerns, and to no other; nobody waits for ever; the engine goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from openarctic.engine import Engine
from openarctic.engine.scheduler import Scheduler
from openarctic.engine.strand import Strand
from openarctic.errors import CapacityError, UserError
from openarctic.generator import Sampling
from tests.engine.test_submit import is_idle
from tests.engine.words import word_engine
from tests.tiny import IDS

LONG = {"sampling": Sampling(ignore_eos=True), "max_tokens": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return word_engine(folder)


def works(engine: Engine) -> bool:
    return len(engine.generate(IDS, sampling=Sampling(ignore_eos=True), max_tokens=3)[0].ids) == 3 and is_idle(engine)


def test_an_event_loop_that_closes_while_it_waits(engine: Engine) -> None:
    loop = asyncio.new_event_loop()
    stream = engine.submit(IDS, **LONG)

    async def read() -> None:
        async for _ in stream:
            pass

    async def wait_a_little() -> None:
        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0.001)
        reading.cancel()

    loop.run_until_complete(wait_a_little())
    loop.close()
    other = engine.submit(IDS, **LONG)
    with other._changed:
        other._waiters.append(lambda: loop.call_soon_threadsafe(print))  # raises: the loop is closed
    assert other.result()[0].finish_reason == "length"
    assert works(engine)


def test_two_readers_of_one_stream_both_end(engine: Engine) -> None:
    async def both() -> int:
        stream = engine.submit(IDS, **LONG)

        async def read() -> int:
            return sum([len(event.ids) async for event in stream])

        return sum(await asyncio.wait_for(asyncio.gather(read(), read()), 20))

    assert asyncio.run(both()) <= 200
    assert works(engine)


@pytest.mark.parametrize("name", ["schedule", "commit"])
def test_a_bug_between_steps(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    engine = word_engine(folder)
    true = getattr(Scheduler, name)
    calls: list[int] = []

    def broken(self: Scheduler, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise AssertionError("a bug")
        return true(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, name, broken)
        with pytest.raises(AssertionError, match="a bug"):
            engine.submit(IDS, **LONG).result()
    assert len(engine.generate(IDS, sampling=Sampling(ignore_eos=True), max_tokens=3)[0].ids) == 3


def test_a_bug_while_a_failure_is_cleared_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller is told, and the thread ends as always: nobody waits for ever."""
    engine = word_engine(folder)

    def broken(*_: Any) -> Any:
        raise AssertionError("a bug")

    monkeypatch.setattr(Scheduler, "schedule", broken)
    monkeypatch.setattr(Scheduler, "abort", broken)
    streams = [engine.submit(IDS, **LONG) for _ in range(3)]
    for stream in streams:
        with pytest.raises(AssertionError, match="a bug"):
            stream.result()
    for _ in range(100):
        if engine._loop._thread is None:
            break
        time.sleep(0.05)
    assert engine._loop._thread is None and not engine._loop._jobs and not engine._loop._lines


def test_a_request_that_fails_is_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = engine.generate(IDS, **LONG)
    true = Strand.take

    def take(self: Strand, rows: Any, draft: list[int]) -> list[Strand]:
        if any(c.sampling.seed == 666 for c in self.candidates) and len(self.ids) == 3:
            raise ValueError("no token is allowed")
        return true(self, rows, draft)

    with monkeypatch.context() as patch:
        patch.setattr(Strand, "take", take)
        streams = [engine.submit(IDS, **LONG) for _ in range(2)]
        bad = engine.submit(IDS, sampling=[Sampling(seed=666, temperature=1), Sampling(seed=1, temperature=1)], max_tokens=50)
        with pytest.raises(ValueError, match="no token is allowed"):
            bad.result()
        assert [stream.result() for stream in streams] == [wanted] * 2
    assert works(engine)


def test_a_thread_that_cannot_be_started(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert is_idle(engine)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(CapacityError, match="cannot start its thread"):
            engine.submit(IDS, **LONG)
    assert works(engine)


def test_a_drafter_that_fails_is_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = word_engine(folder, speculation="suffix")
    wanted = word_engine(folder).generate(IDS, **LONG)
    speculator = engine._loop.speculator
    assert speculator is not None

    def broken(*_: Any) -> Any:
        raise ValueError("no draft")

    monkeypatch.setattr(speculator.drafter, "tick", broken)
    with pytest.warns(RuntimeWarning, match="speculation is off from now on"):
        assert engine.generate(IDS, **LONG) == wanted
    assert engine._loop.speculator is None and works(engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": b"bytes"}, "the prompt is of type bytes"),
        ({"prompt": None}, "the prompt is of type NoneType"),
        ({"prompt": [1.5]}, "the prompt holds 1.5, it must hold token ids"),
        ({"prompt": ["a"]}, "the prompt holds 'a'"),
        ({"prompt": [-1]}, "the prompt holds token -1"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5, it must be a whole number"),
        ({"max_tokens": float("nan")}, "max_tokens is nan"),
        ({"priority": "high"}, "priority is 'high', it must be a whole number"),
        ({"tenant": 7}, "tenant is 7, it must be a text"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"sampling": "greedy"}, "sampling is 'greedy'"),
        ({"sampling": [None]}, "sampling holds None"),
    ],
)
def test_what_is_no_request_is_refused(engine: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine.submit(**{"prompt": IDS, **options})
    assert is_idle(engine)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A process with `engine` over the file that is there."""
    start = "from pathlib import Path\nfrom tests.engine.words import word_engine\nfrom tests.tiny import IDS\n"
    start += f"from openarctic.generator import Sampling\nengine = word_engine(Path({str(folder)!r}), threads=2)\n"
    start += "LONG = {'sampling': Sampling(ignore_eos=True), 'max_tokens': 200}\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "for event in stream: break"])
def test_a_process_that_ends_while_a_request_runs(engine: Engine, folder: Path, ending: str) -> None:
    done = run(folder, f"stream = engine.submit(IDS, **LONG)\n{ending}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_is_told(engine: Engine, folder: Path) -> None:
    done = run(
        folder,
        """
        import os
        engine.generate(IDS, max_tokens=2)
        if not os.fork():
            try:
                engine.generate(IDS, max_tokens=2)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            del engine
            raise SystemExit
        os.wait()
        print(len(engine.generate(IDS, **LONG)[0].ids))
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "UserError this engine was loaded before the process was forked" in done.stdout and "200" in done.stdout
