"""A whole benchmark: the machine's limits, then every workload on every model, as often as asked, as one JSON document."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openarctic.bench import special
from openarctic.bench.client import started
from openarctic.bench.estimate import estimate_seconds
from openarctic.bench.limits import measure_limits
from openarctic.bench.machine import describe_machine
from openarctic.bench.plan import Options
from openarctic.bench.protocol import OnProgress
from openarctic.bench.results import FORMAT, Cell, Cells
from openarctic.bench.session import Session, describe_model, engine_specs, lengths, opened
from openarctic.bench.workloads import ON_ONE_MODEL, add_shares
from openarctic.errors import CapacityError


def measure(
    names: Sequence[str],
    options: Options,
    on_progress: OnProgress,
    on_estimate: Callable[[float], None] = lambda seconds: None,
    on_result: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Everything measured, with what it was measured on. `on_estimate` hears about how many seconds it will take, `on_result`
    after each model what is known by then: a failure late in a long benchmark loses little.

    Raises MissingError where an engine or a model is not there.
    """
    for spec in engine_specs(options).values():
        with started(spec, options.models[0]):  # what is not installed is said before anything is measured
            pass
    on_progress("limits of the machine")
    bench = _Bench(names, options, on_progress, on_result)
    on_estimate(estimate_seconds(names, options, bench.limits))
    for number in range(options.protocol.runs):
        bench.run(number)
    return bench.report()


class _Bench:
    """What the runs add to."""

    def __init__(
        self, names: Sequence[str], options: Options, on_progress: OnProgress, on_result: Callable[[dict[str, Any]], None]
    ) -> None:
        self.names, self.options, self._say, self._on_result = names, options, on_progress, on_result
        self._start = time.monotonic()
        self.limits = measure_limits(options.threads, options.buffer_bytes)
        self.cells = Cells()
        self.errors: list[dict[str, Any]] = []  # of accuracy, which no run changes
        self.engines: dict[str, Any] = {}
        self.models: dict[str, Any] = {}
        self.notes: list[str] = []
        self._steps: dict[tuple[str, int, int], int] = {}

    def report(self) -> dict[str, Any]:
        """The document, as far as it goes."""
        return {
            "format": FORMAT,
            "machine": describe_machine(),
            "limits": self.limits,
            "settings": {
                **asdict(self.options.protocol),
                "threads": self.options.threads,
                "against": self.options.against,
                "workloads": list(self.names),
            },
            "engines": self.engines,
            "models": self.models,
            "results": [cell.to_dict() for cell in self.cells.to_list()] + self.errors,
            "notes": self.notes,
            "seconds": round(time.monotonic() - self._start, 1),
        }

    def run(self, number: int) -> None:
        """One run of everything that is asked for."""

        def say(text: str) -> None:
            self._say(f"run {number + 1} of {self.options.protocol.runs}: {text}")

        for place, path in enumerate(self.options.models):
            wanted = [n for n in self.names if n in ON_ONE_MODEL and (place == 0 or n not in self.options.first_only)]
            if wanted:
                self._session(path, wanted, say)
                self._on_result(self.report())
        for cell in self._special(say):
            self.cells.add(cell)
            self._on_result(self.report())
        if "accuracy" in self.names and number == 0:
            self._accuracy(say)

    def _special(self, say: OnProgress) -> Iterator[Cell]:
        options = self.options
        if "submit" in self.names:
            for path in options.models[: 1 if "submit" in options.first_only else None]:
                yield from special.submit(path, options, say)
        if "load" in self.names:
            for path in options.load_models or options.models:
                yield from special.load(path, options, say)
        if "speculation" in self.names:
            for path in options.text_models or options.models:
                yield from special.speculation(path, options, say)
        if "experts" in self.names:
            yield from special.experts(options, say)

    def _session(self, path: Path, wanted: Sequence[str], say: OnProgress) -> None:
        with opened(path, wanted, self.options, self._steps, say) as session:
            for name in wanted:
                for cell in ON_ONE_MODEL[name](session):
                    self.cells.add(cell)
            for cell in self.cells.to_list():
                if cell.model == session.model:
                    add_shares(session, cell, self.limits)
            self.models[session.model] = describe_model(session)
            if "long" in wanted:
                self._note_lengths(session)
            for engine, client in session.clients.items():
                self.engines[engine] = client.settings

    def _note_lengths(self, session: Session) -> None:
        left_out = sorted(set(self.options.lengths) - set(lengths(self.options, session.config)))
        limit = session.config.max_position_embeddings
        note = f"long: {session.model} has {limit} positions, left out {', '.join(map(str, left_out))}"
        if left_out and note not in self.notes:
            self.notes.append(note)

    def _accuracy(self, say: OnProgress) -> None:
        for path in self.options.models:
            try:
                self.errors.append(special.accuracy(path, self.options, say))
            except CapacityError as error:
                if len(self.options.models) == 1:
                    raise
                self.notes.append(f"accuracy: {error.message}")
