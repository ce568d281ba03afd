"""Random requests, aborts and deadlines for a long time: nothing may leak, stall, or come out other than it should.

    python -m tests.engine.soak --minutes 30

A small random model under little memory, so that sequences are preempted all the time, with speculation. Every request that is
neither cancelled nor late must give what it gives alone. Ends with exit code 1, and says why, where pages or sequences are left,
memory grows, or an answer differs. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from openarctic.engine.engine import Engine
from openarctic.engine.request import Stream
from openarctic.generator import Completion
from tests.engine.test_submit import requests
from tests.engine.words import word_engine

KINDS = 60
STREAMS = 40  # at once
GROWTH_MB = 24  # that the allocator may need; a leak of a kilobyte a request would be more


@dataclass
class Tally:
    """What happened."""

    submitted: int = 0
    compared: int = 0
    cancelled: int = 0
    late: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, completions: list[Completion]) -> None:
        for done in completions:
            self.reasons[done.finish_reason] = self.reasons.get(done.finish_reason, 0) + 1


def main() -> None:
    """Run, report, exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), options.minutes * 60, random.Random(options.seed))
    print(json.dumps(report))
    sys.exit(bool(report["failures"]))


def soak(folder: Path, seconds: float, rng: random.Random) -> dict[str, object]:
    """The report; `failures` is empty when all is well."""
    kinds = requests(KINDS, seed=1)
    plain = word_engine(folder)
    wanted = [plain.generate(**kind) for kind in kinds]
    engine = word_engine(folder, cache_bytes=14 * plain._model.page_bytes, speculation="suffix", max_sequences=16)
    tally, failures = Tally(), []
    live: list[tuple[int, Stream, bool]] = []
    start = time.monotonic()
    settled = 0.0
    while (now := time.monotonic() - start) < seconds or live:
        if not settled and now > seconds / 5:
            settled = resident_mb()
        if now < seconds and len(live) < STREAMS and rng.random() < 0.7:
            live.append(submit(engine, kinds, rng, tally))
        if live and rng.random() < 0.1:
            kind, stream, _ = live.pop(rng.randrange(len(live)))
            stream.cancel()
            tally.cancelled += 1
            live.append((kind, stream, True))
        if live:
            kind, stream, is_cut = live.pop(rng.randrange(len(live)))
            if not stream.is_done and rng.random() < 0.7:
                live.append((kind, stream, is_cut))
                time.sleep(0.0005)
                continue
            done = stream.result()
            tally.count(done)
            if not is_cut:
                tally.compared += 1
                if done != wanted[kind]:
                    failures.append(f"request {kind} gave {done}, alone {wanted[kind]}")
    failures += leftovers(engine)
    growth = resident_mb() - settled
    if growth > GROWTH_MB:
        failures.append(f"memory grew by {growth:.1f} MB in the last four fifths of the time")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "submitted": tally.submitted,
        "compared": tally.compared,
        "cancelled": tally.cancelled,
        "with_deadline": tally.late,
        "reasons": tally.reasons,
        "preemptions": engine._loop.scheduler.preemptions,
        "evictions": engine._loop.scheduler.pool.evictions,
        "growth_mb": round(growth, 1),
        "failures": failures[:10],
    }


def submit(engine: Engine, kinds: list[dict[str, object]], rng: random.Random, tally: Tally) -> tuple[int, Stream, bool]:
    """One more request; every fifth has a deadline that it may miss."""
    kind = rng.randrange(KINDS)
    timeout = rng.choice([0.001, 0.01, 0.1]) if rng.random() < 0.2 else None
    tally.submitted += 1
    tally.late += timeout is not None
    stream = engine.submit(**kinds[kind], priority=rng.choice([0, 0, 0, 1, 5]), tenant=rng.choice("abc"), timeout=timeout)  # type: ignore[arg-type]
    return kind, stream, timeout is not None


def leftovers(engine: Engine) -> list[str]:
    """What should not be there when nobody asks for anything."""
    end = time.monotonic() + 10
    while engine._loop._thread is not None and time.monotonic() < end:
        time.sleep(0.01)
    scheduler = engine._loop.scheduler
    scheduler.check()
    found = {
        "pages held": scheduler.pool.held,
        "sequences waiting": scheduler.num_waiting,
        "sequences running": scheduler.num_running,
        "lines of the loop": len(engine._loop._lines),
        "thread": int(engine._loop._thread is not None),
    }
    return [f"{count} {what}" for what, count in found.items() if count]


def resident_mb() -> float:
    """Of this process, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
