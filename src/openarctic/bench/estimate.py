"""About how long a benchmark takes: a guess from the sizes of the models and the limits of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openarctic.bench.limits import active_bytes
from openarctic.bench.plan import Options
from openarctic.bench.session import LOW_STEPS, lengths
from openarctic.bench.special import SUBMITTED, SUBMITTED_TOKENS
from openarctic.bench.traces import PER_DRAW
from openarctic.bench.workloads import CONTENTION_FACTOR
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.planner import parameters

BUS_SHARE = 0.7  # that decode reaches of the measured bandwidth
ARITHMETIC_SHARE = 0.25  # that prefill reaches of the peak of 8-bit integers
UNKNOWN_PEAK = 1e10
PEER_FACTOR = 1.7  # the other engine's time over ours
START_S = 1.5
LOAD_BYTES_PER_S = 2e9
SQL_TOKENS = 30  # that an answer has, of 96 that it may have; free text has 48
LONG_FACTOR = 1.5  # what attention adds to the tokens of a long context


def estimate_seconds(names: Sequence[str], options: Options, limits: dict[str, Any]) -> float:
    """Of all runs, if no pair is rejected."""
    sides = 1 + (PEER_FACTOR if options.against else 0)
    times = options.protocol.repetitions + options.protocol.warmups
    total = 0.0
    for place, path in enumerate(options.models):
        wanted = [n for n in names if place == 0 or n not in options.first_only]
        total += _model_seconds(wanted, _Model(path, options, limits), options, times) * sides
    if "speculation" in names:
        for path in options.text_models or options.models:
            model = _Model(path, options, limits)
            total += 2 * times * PER_DRAW * (2 * SQL_TOKENS + 48) * model.step_s(1)
    if "experts" in names:
        total += 2 * len(options.experts[1:]) * times * options.protocol.target_s + 4 * START_S
    if "load" in names:
        size = sum(_size(path) for path in options.load_models or options.models)
        total += sides * times * (size / LOAD_BYTES_PER_S + 0.5)
    return total * options.protocol.runs


class _Model:
    """Guessed speeds of ours."""

    def __init__(self, path: Path, options: Options, limits: dict[str, Any]) -> None:
        self.file = read_gguf(path)
        self.config = config_from_gguf(self.file)
        threads = str(options.threads)
        self.bytes_per_s = BUS_SHARE * limits["read_bytes_per_s"][threads]
        by_kernels = list(limits["operations_per_s"].values())  # the fastest first
        peaks = by_kernels[0].get(threads, {}) if by_kernels else {}
        self.token_s = 2 * parameters(self.config).active_matrices / (ARITHMETIC_SHARE * peaks.get("int8", UNKNOWN_PEAK))

    @property
    def load_s(self) -> float:
        """With the start of the process."""
        return START_S + sum(part.stat().st_size for part in self.file.paths) / LOAD_BYTES_PER_S

    def step_s(self, batch: int) -> float:
        """Of a decode step."""
        return max(active_bytes(self.file, self.config, batch) / self.bytes_per_s, batch * self.token_s)


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in read_gguf(path).paths)


def _model_seconds(names: Sequence[str], model: _Model, options: Options, times: int) -> float:
    def decode(batch: int, context: int = options.context) -> float:
        repetition = max(options.protocol.target_s / PEER_FACTOR, LOW_STEPS * model.step_s(batch))
        return times * repetition + batch * context * model.token_s

    out = model.load_s
    if "decode" in names:
        out += decode(1)
    if "prefill" in names:
        out += times * options.prompt * model.token_s
    if "batch" in names:
        out += sum(decode(count) for count in options.batches)
    if "prefix" in names:
        whole = options.requests * (options.shared + options.own)
        out += times * (options.shared + options.requests * options.own + whole) * model.token_s
    if "long" in names and (wanted := lengths(options, model.config)):
        out += LONG_FACTOR * max(wanted) * model.token_s + sum(decode(1, 0) for _ in wanted)
    if "contention" in names:
        out += CONTENTION_FACTOR * times * options.protocol.target_s
    if "submit" in names:
        counts = [count for count in options.batches if count in SUBMITTED]
        each = [count * options.context * model.token_s + SUBMITTED_TOKENS * model.step_s(count) for count in counts]
        out += 2 * times * sum(each) + model.load_s
    return out
