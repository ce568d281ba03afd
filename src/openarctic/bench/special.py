"""The workloads that start their own processes: loading, numbers of experts, accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.bench.client import OURS, EngineSpec, started
from openarctic.bench.plan import Options
from openarctic.bench.protocol import OnProgress, Side, compare
from openarctic.bench.random_models import random_model
from openarctic.bench.results import Cell
from openarctic.bench.session import CALIBRATION_STEPS, HIGH_STEPS, LOW_STEPS, engine_specs
from openarctic.bench.summary import Timing, steps_for
from openarctic.errors import CapacityError
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.planned import chunks
from openarctic.planner import parameters

ACCURACY_TOKENS = 48
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
                reply = client.ask("open", tokens=1024, sequences=1, context=256)
            first.setdefault(name, []).append(reply["first_s"])
            return Timing(reply["seconds"], 1, reply["foreign"])

        return work

    sides = {name: side(name, spec) for name, spec in engine_specs(options).items()}
    size = sum(part.stat().st_size for part in read_gguf(path).paths)
    run = compare(sides, options.protocol, lambda text: on_progress(f"load {path.name}: {text}"))
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

            def side(number: int) -> Side:
                return lambda: clients[number].time("decode", steps, **job, steps=steps)

            sides = {f"{count} experts": side(count), f"{base} experts": side(base)}
            run = compare(sides, options.protocol, lambda text, n=count: on_progress(f"{n} experts: {text}"))  # type: ignore[misc]
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
