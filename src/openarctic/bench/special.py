"""The workloads that start their own processes: loading, numbers of experts, accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.bench.client import OURS, Client, EngineSpec, started
from openarctic.bench.plan import Options
from openarctic.bench.protocol import OnProgress, Side, compare
from openarctic.bench.random_models import random_model
from openarctic.bench.results import Cell
from openarctic.bench.session import CALIBRATION_STEPS, HIGH_STEPS, LOW_STEPS, engine_specs
from openarctic.bench.summary import Timing, steps_for
from openarctic.bench.traces import Trace, sql_trace, text_trace
from openarctic.errors import CapacityError
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.formats.planned import chunks
from openarctic.planner import parameters

ACCURACY_TOKENS = 48
SUBMITTED = (1, 8, 16)  # requests at once
SUBMITTED_TOKENS = 32
MAX_REFERENCE_PARAMETERS = 400_000_000  # the reference holds them in float64


def load(path: Path, options: Options, on_progress: OnProgress) -> Iterator[Cell]:
    """Seconds until a fresh process has loaded the file; beside them those to the first token's logits. The file is in memory."""
    for part in read_gguf(path).paths:
        for _ in chunks(part, 0, part.stat().st_size):
            pass
    first: dict[str, list[float]] = {}

    def side(name: str, spec: EngineSpec) -> Side:
        def work() -> Timing:
            with started(spec, path) as client:
                reply = client.ask("load")
            first.setdefault(name, []).append(reply["first_s"])
            return Timing(reply["seconds"], 1, reply["foreign"])

        return work

    sides = {name: side(name, spec) for name, spec in engine_specs(options).items()}
    size = sum(part.stat().st_size for part in read_gguf(path).paths)
    run = compare(sides, options.protocol, partial(_say, on_progress, f"load {path.name}"))
    medians = {name: float(np.median(values)) for name, values in first.items()}
    yield Cell("load", path.stem, {"bytes": size}, tuple(sides), "s", [run], {"with_first_token_s": medians})


def experts(options: Options, on_progress: OnProgress) -> Iterator[Cell]:
    """Ours alone: decode with many experts over decode with the fewest, in pairs. All models are loaded at once."""
    base, *others = options.experts
    with ExitStack() as stack:
        clients = {}
        for count in options.experts:
            on_progress(f"a model with {count} experts")
            path = random_model(options.folder, f"E{count}", options.expert_type)
            clients[count] = stack.enter_context(started(EngineSpec(OURS, options.threads), path))
            tokens = options.context + options.rewind
            clients[count].ask("open", tokens=tokens + 64, sequences=1, context=tokens)
        job = {"context": options.context, "batch": 1, "rewind": options.rewind}
        slowest = max(c.ask("decode", **job, steps=CALIBRATION_STEPS)["seconds"] for c in clients.values()) / CALIBRATION_STEPS
        steps = steps_for(slowest, options.protocol.target_s, LOW_STEPS, HIGH_STEPS)
        for count in others:
            sides: dict[str, Side] = {
                f"{n} experts": partial(clients[n].time, "decode", steps, **job, steps=steps) for n in (count, base)
            }
            run = compare(sides, options.protocol, partial(_say, on_progress, f"{count} experts"))
            yield Cell("experts", f"E-{options.expert_type}", {"experts": count, "steps": steps}, tuple(sides), runs=[run])


def accuracy(path: Path, options: Options, on_progress: OnProgress) -> dict[str, Any]:
    """A result: relative error of each engine's logits, ||l - r|| / ||r|| over 48 random tokens, with r computed in float64 from
    the numbers in the file. Raises CapacityError for a model that is too large for it."""
    from openarctic.engine.reference import reference_logits

    file = read_gguf(path)
    count = parameters(config_from_gguf(file)).total
    if count > MAX_REFERENCE_PARAMETERS:
        raise CapacityError(
            f"{path.name} has {count:,} parameters, accuracy takes {MAX_REFERENCE_PARAMETERS:,}", "take a smaller model"
        )
    on_progress(f"accuracy of {path.name}: reference")
    logits: dict[str, NDArray[np.float32]] = {}
    ids: list[int] = []
    for name, spec in engine_specs(options).items():
        with started(spec, path) as client, tempfile.TemporaryDirectory() as folder:
            client.ask("open", tokens=1024, sequences=1, context=256)
            saved = Path(folder) / "logits.npy"
            ids = client.ask("logits", tokens=ACCURACY_TOKENS, path=str(saved))["ids"]
            logits[name] = np.load(saved)
    truth = reference_logits(file, ids)
    errors = {name: errors_of(values, truth) for name, values in logits.items()}
    return {"workload": "accuracy", "model": path.stem, "settings": {"tokens": ACCURACY_TOKENS}, "errors": errors}


def errors_of(logits: NDArray[Any], truth: NDArray[np.float64]) -> dict[str, float]:
    """Relative error of all logits, the largest difference, and how often the most probable token is the same."""
    difference = logits.astype(np.float64) - truth
    return {
        "relative": float(np.linalg.norm(difference) / np.linalg.norm(truth)),
        "max": float(np.abs(difference).max()),
        "argmax_agreement": float((logits.argmax(-1) == truth.argmax(-1)).mean()),
    }


def speculation(path: Path, options: Options, on_progress: OnProgress) -> Iterator[Cell]:
    """Ours alone: tokens a second behind each first token, one request after the other, with suffix decoding over without.

    Both write the same tokens (`identical`). SQL is asked of bundled models alone, which were made for its prompts.
    """
    traces: dict[str, Callable[[int], Trace]] = {"free text": text_trace}
    if path in bundled_models().values():
        traces = {"SQL": sql_trace, "SQL with grammar": partial(sql_trace, with_grammar=True), **traces}
    for name, trace in traces.items():
        on_progress(f"speculation on {name}: loading")
        with ExitStack() as stack:
            clients = {}
            for side, setting in (("suffix", {"speculation": "suffix"}), ("plain", {})):
                clients[side] = stack.enter_context(started(EngineSpec(OURS, options.threads), path))
                clients[side].ask("start", **setting)
            yield _speculation_cell(name, path, trace, clients, options, on_progress)


def _speculation_cell(
    name: str,
    path: Path,
    trace: Callable[[int], Trace],
    clients: dict[str, Client],
    options: Options,
    on_progress: OnProgress,
) -> Cell:
    digests: dict[str, list[str]] = {side: [] for side in clients}

    def side(which: str) -> Side:
        def work() -> Timing:
            reply = clients[which].ask("generate", **trace(len(digests[which])).to_dict())
            digests[which].append(reply["digest"])
            return Timing(reply["seconds"], reply["tokens"], reply["foreign"])

        return work

    run = compare({which: side(which) for which in clients}, options.protocol, partial(_say, on_progress, name))
    identical = digests["suffix"] == digests["plain"]
    model = path.name.removesuffix(".gguf").split("-00001-of-")[0]
    return Cell("speculation", model, {"trace": name}, tuple(clients), runs=[run], extra={"identical": identical})


def submit(path: Path, options: Options, on_progress: OnProgress) -> Iterator[Cell]:
    """Whole requests: `Engine.submit` with its scheduler, sampler and text, over bare steps of the other engine and of ours,
    which have none of that. Counted are the tokens written; the time has the prompts in it."""
    counts = [count for count in options.batches if count in SUBMITTED] or list(options.batches)
    room = max(counts) * (options.context + SUBMITTED_TOKENS + 64)
    specs = engine_specs(options)
    with ExitStack() as stack:
        ours = stack.enter_context(started(specs[OURS], path))
        ours.ask("start", max_sequences=max(counts))
        bare = {name: stack.enter_context(started(spec, path)) for name, spec in specs.items()}
        for client in bare.values():
            client.ask("open", tokens=room, sequences=1, context=256)
        for count in counts:
            job = {"count": count, "prompt": options.context, "tokens": SUBMITTED_TOKENS}
            amount = count * SUBMITTED_TOKENS
            for name, client in bare.items():
                client.ask("layout", sequences=count, context=options.context + SUBMITTED_TOKENS)
                sides: dict[str, Side] = {
                    "submit": partial(ours.time, "submit", amount, **job),
                    f"{name} steps": partial(client.time, "requests", amount, **job),
                }
                run = compare(sides, options.protocol, partial(_say, on_progress, f"submit {count}"))
                settings = {"requests": count, "prompt": options.context, "tokens": SUBMITTED_TOKENS}
                yield Cell("submit", path.stem, {**settings, "against": name}, tuple(sides), runs=[run])


def _say(on_progress: OnProgress, what: str, text: str) -> None:
    on_progress(f"{what}: {text}")
