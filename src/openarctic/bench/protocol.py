"""How two sides are compared: warmed up twice, then pairs in alternating order, until enough of them count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from openarctic.bench.summary import Run, Timing, is_quiet

PAUSE_S = 0.05
ATTEMPTS = 3  # pairs tried for each that is wanted

Side = Callable[[], Timing]
OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How often, and which repetitions count. `max_foreign` is a share of the machine, fixed before anything runs."""

    repetitions: int = 9
    runs: int = 1
    max_foreign: float = 0.10
    warmups: int = 2
    target_s: float = 0.35  # of one repetition, where steps can be chosen


def compare(sides: Mapping[str, Side], protocol: Protocol, on_progress: OnProgress, *, any_load: bool = False) -> Run:
    """One run: pairs (or single repetitions of one side) that count. `any_load` rejects none.

    Stops after three times as many attempts as repetitions are wanted, with what there is.
    """
    order = list(sides)
    for _ in range(protocol.warmups):
        for name in order:
            sides[name]()
    pairs: list[tuple[Timing, ...]] = []
    rejected = 0
    limit = 1.0 if any_load else protocol.max_foreign
    while len(pairs) < protocol.repetitions and len(pairs) + rejected < ATTEMPTS * protocol.repetitions:
        turn = len(pairs) + rejected
        timings = {name: sides[name]() for name in (order if turn % 2 else reversed(order))}
        pair = tuple(timings[name] for name in order)
        if is_quiet(pair, limit):
            pairs.append(pair)
        else:
            rejected += 1
        on_progress(f"repetition {len(pairs)} of {protocol.repetitions}" + (f", {rejected} rejected" if rejected else ""))
        time.sleep(PAUSE_S)
    return Run(tuple(pairs), rejected)
