"""About how long a benchmark takes: a guess from sizes alone, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openarctic.bench.limits import active_bytes
from openarctic.bench.plan import Options
from openarctic.bench.session import LOW_STEPS, lengths
from openarctic.formats import HybridConfig, config_from_gguf, read_gguf
from openarctic.planner import parameters

# Of a processor like those of docs/benchmarks.md, a thread; the other engine takes 1.7 times as long.
BYTES_PER_S = 8e9
OPERATIONS_PER_S = 60e9
PEER_FACTOR = 1.7
START_S = 2.0
LOAD_BYTES_PER_S = 1e9


def estimate_seconds(names: Sequence[str], options: Options) -> float:
    """Of all runs, with every pair counting at once."""
    sides = 1 + (PEER_FACTOR if options.against else 0)
    times = options.protocol.repetitions + options.protocol.warmups
    total = 0.0
    for place, path in enumerate(options.models):
        wanted = [n for n in names if place == 0 or n not in options.first_only]
        total += sides * _model_seconds(wanted, path, options, times)
    if "experts" in names:
        total += 2 * len(options.experts[1:]) * times * options.protocol.target_s + 6 * START_S
    if "load" in names:
        size = sum(_size(path) for path in options.load_models or options.models)
        total += sides * times * (size / LOAD_BYTES_PER_S + 0.5)
    return 10 + total * options.protocol.runs


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in read_gguf(path).paths)


def _model_seconds(names: Sequence[str], path: Path, options: Options, times: int) -> float:
    file = read_gguf(path)
    config = config_from_gguf(file)
    active = active_bytes(file, config)
    step = active / (BYTES_PER_S * options.threads)
    token = _token_seconds(config, options.threads)

    def decode(batch: int) -> float:
        return times * max(options.protocol.target_s, LOW_STEPS * max(step, batch * token)) + batch * options.context * token

    out = START_S + _size(path) / LOAD_BYTES_PER_S
    if "decode" in names:
        out += decode(1)
    if "prefill" in names:
        out += times * options.prompt * token
    if "batch" in names:
        out += sum(decode(count) for count in options.batches)
    if "prefix" in names:
        out += times * (options.shared + options.requests * options.own) * token
        out += times * options.requests * (options.shared + options.own) * token / 2
    if "long" in names and (wanted := lengths(options, config)):
        out += 2 * max(wanted) * token + sum(decode(1) for _ in wanted)
    if "contention" in names:
        out += 4 * decode(1)
    return out


def _token_seconds(config: HybridConfig, threads: int) -> float:
    return 2 * parameters(config).active_matrices / (OPERATIONS_PER_S * threads)
