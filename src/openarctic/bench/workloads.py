"""The workloads that run on one session of engines: each gives cells with one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from openarctic.bench.client import OURS, busy_processors
from openarctic.bench.limits import shares
from openarctic.bench.protocol import Side, compare
from openarctic.bench.results import Cell
from openarctic.bench.session import Session, lengths
from openarctic.bench.summary import Run, Timing

CONTENTION_FACTOR = 3

Workload = Callable[[Session], Iterator[Cell]]


def decode(session: Session) -> Iterator[Cell]:
    """One sequence."""
    session.layout(1, session.options.context + session.options.rewind)
    yield _decode_cell(session, "decode", 1, session.options.context)


def batch(session: Session) -> Iterator[Cell]:
    """Several sequences a step; one alone is `decode`."""
    options = session.options
    for count in options.batches:
        session.layout(count, options.context + options.rewind)
        yield _decode_cell(session, "batch", count, options.context)


def prefill(session: Session) -> Iterator[Cell]:
    """One prompt from nothing to its last token's logits."""
    tokens = session.options.prompt
    session.layout(1, tokens)
    sides = _sides(session, "prefill", tokens, tokens=tokens)
    yield _cell(session, "prefill", {"tokens": tokens}, sides, {"batch": 1, "context": tokens, "is_prefill": True})


def prefix(session: Session) -> Iterator[Cell]:
    """Shared in both engines, and ours against ours without sharing. Counted are all tokens of all prompts."""
    options = session.options
    session.layout(options.requests, options.shared + options.own)
    tokens = options.requests * (options.shared + options.own)
    job = {"requests": options.requests, "shared": options.shared, "own": options.own}
    yield _cell(session, "prefix", job, _sides(session, "prefix", tokens, **job, shares=True))
    ours = session.clients[OURS]
    both: dict[str, Side] = {
        "shared": lambda: ours.time("prefix", tokens, **job, shares=True),
        "not shared": lambda: ours.time("prefix", tokens, **job, shares=False),
    }
    yield _cell(session, "prefix, ours alone", job, both)


def long(session: Session) -> Iterator[Cell]:
    """One sequence that grows: what is added in between is timed once a run, decode as always."""
    options = session.options
    wanted = lengths(options, session.config)
    if not wanted:
        return
    session.layout(1, max(wanted) + options.rewind)
    at = 0
    for length in wanted:
        sides = {name: client.time("extend", length - at, tokens=length) for name, client in session.clients.items()}
        pair = tuple(sides.values())
        yield Cell("prefill between", session.model, {"from": at, "to": length}, tuple(sides), runs=[Run((pair,), 0)])
        yield _decode_cell(session, "long", 1, length)
        at = length


def contention(session: Session) -> Iterator[Cell]:
    """The processors are shared, so nothing is rejected, and repetitions are longer: shares of processors even out slowly."""
    session.layout(1, session.options.context + session.options.rewind)
    with busy_processors(os.cpu_count() or 1):
        yield _decode_cell(session, "contention", 1, session.options.context, is_contended=True)


ON_ONE_MODEL: dict[str, Workload] = {
    "decode": decode,
    "prefill": prefill,
    "batch": batch,
    "prefix": prefix,
    "long": long,
    "contention": contention,
}


def _decode_cell(session: Session, name: str, batch: int, context: int, *, is_contended: bool = False) -> Cell:
    steps = session.steps_of(name, batch, context, CONTENTION_FACTOR if is_contended else 1)
    settings = {"batch": batch, "context": context, "steps": steps}
    rewind = session.options.rewind
    sides = _sides(session, "decode", batch * steps, **settings, rewind=rewind)
    # While it is measured, the context grows by the steps.
    where = {"batch": batch, "context": context + min(steps, rewind) // 2, "is_prefill": False}
    return _cell(session, name, settings, sides, where, any_load=is_contended)


def _sides(session: Session, job: str, amount: float, **arguments: Any) -> dict[str, Side]:
    """The same job in every engine."""

    def side(name: str) -> Side:
        def work() -> Timing:
            return session.clients[name].time(job, amount, **arguments)

        return work

    return {name: side(name) for name in session.clients}


def _cell(
    session: Session,
    name: str,
    settings: dict[str, Any],
    sides: dict[str, Side],
    where: dict[str, Any] | None = None,
    *,
    any_load: bool = False,
) -> Cell:
    label = f"{name} of {session.model}" + (f", batch {settings['batch']}" if settings.get("batch", 1) > 1 else "")
    run = compare(sides, session.options.protocol, lambda text: session.on_progress(f"{label}: {text}"), any_load=any_load)
    return Cell(name, session.model, settings, tuple(sides), runs=[run], extra={"where": where} if where else {})


def add_shares(session: Session, cell: Cell, limits: dict[str, Any]) -> None:
    """The share of the machine's limit that our median reaches, for cells that say where they were measured."""
    where = cell.extra.get("where")
    value = cell.to_dict()["sides"].get(OURS)
    if where and value:
        kernels = session.clients[OURS].settings["kernels"]
        threads = session.options.threads
        tokens_per_s = value["median"]
        cell.extra["shares"] = shares(session.file, session.config, limits, kernels, threads, tokens_per_s=tokens_per_s, **where)
