"""The comparison itself: prompts, the forms of the model, the reference, and what each runtime differs by."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.engine.reference import PlainModel
from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats.names import state_dict_shapes, stock_obstacles
from openarctic.formats.state import read_state
from openarctic.machine import check_memory
from openarctic.model.parity.forms import Model, make_forms, prompt_ids
from openarctic.model.parity.runtimes import RUNTIMES, Answer, Forms, Logits, Task, measure, read_answer

FLOAT_TOLERANCE = 1e-3  # largest difference of a logit where weights are floats
QUANTISED_TOLERANCE = 5.0  # where not, kernels round activations: llama.cpp is 3.35 off on SmolLM2-135M, we 2.61
TIMEOUT_S = 3600.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """How one runtime differs from the reference.

    `greedy_agreement` is the share of tokens before the first divergence of each prompt; `first_divergence` the earliest of
    these, counted in tokens, and `divergence_margin` the largest gap of the reference's two best logits at one. A divergence is
    a tie, which rounding decides, where that gap is at most twice the runtime's own difference at the position; `ties` says
    whether all are. `error` says why there are no numbers.
    """

    name: str
    version: str
    max_logit_diff: float | None = None
    mean_logit_diff: float | None = None
    greedy_agreement: float | None = None
    first_divergence: int | None = None
    divergence_margin: float | None = None
    ties: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The comparison of all runtimes; `skipped` maps those that did not run to the reason."""

    reference: str
    prompts: int
    max_tokens: int
    tolerance: float
    runtimes: list[Difference]
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "ok": self.is_ok}

    @property
    def is_ok(self) -> bool:
        """Every runtime answered, within tolerance, and diverged only at ties."""
        return all(_is_ok(difference, self.tolerance) for difference in self.runtimes)


def _is_ok(difference: Difference, tolerance: float) -> bool:
    if difference.error is not None or difference.max_logit_diff is None or difference.max_logit_diff > tolerance:
        return False
    return difference.ties is not False


def compare(
    source: str | Path,
    *,
    texts: Sequence[str] | None = None,
    runtimes: Sequence[str] | None = None,
    max_tokens: int = 64,
    tolerance: float | None = None,
    threads: int = 2,
    progress: Progress = lambda _: None,
) -> Report:
    """Run a checkpoint folder or GGUF file through every installed runtime (or those named), all in float32.

    Prompts are `texts` (by default twenty of our own), or random ids where there is no tokenizer. Raises MissingError for a
    named runtime that is not installed, UserError for one that cannot run this model and for prompts that do not fit.
    """
    available, skipped = _choose(runtimes)
    with tempfile.TemporaryDirectory(prefix="openarctic-parity-") as name:
        scratch = Path(name)
        model = make_forms(Path(source), scratch, progress)
        # float64 for the reference, beside the float32 that it is read from
        needed = 12 * sum(math.prod(shape) for shape in state_dict_shapes(model.config).values())
        check_memory(needed, "the reference", "compare a model of the same layout with fewer layers and experts")
        _leave_out_stock(model, available, skipped, was_named=runtimes is not None)
        ids = prompt_ids(model, texts, max_tokens)
        # Somebody must say how the prompts go on; the reference then judges every position of that.
        progress("greedy tokens")
        first = _run("transformers", model.forms, Task(ids, max_tokens, threads), scratch)
        sequences = [p + t for p, t in zip(ids, first.tokens, strict=True)]
        progress("the reference")
        plain = PlainModel(*read_state(model.source))
        wanted = [plain.logits(sequence) for sequence in sequences]
        del plain
        task = Task(ids, max_tokens, threads, sequences)
        differences = []
        for runtime in available:
            progress(runtime)
            differences.append(_difference(runtime, model.forms, task, wanted, scratch))
    limit = tolerance if tolerance is not None else QUANTISED_TOLERANCE if model.is_quantised else FLOAT_TOLERANCE
    return Report("plain numpy, float64", len(ids), max_tokens, limit, differences, skipped)


def _leave_out_stock(model: Model, available: list[str], skipped: dict[str, str], was_named: bool) -> None:
    """Stock runtimes cannot express every layout: told, or an error for one that was asked for."""
    obstacles = "; ".join(stock_obstacles(model.config))
    for name in [n for n in available if obstacles and RUNTIMES[n].needs_stock_gguf]:
        if was_named:
            raise UserError(f"{name} cannot run this model: {obstacles}")
        available.remove(name)
        skipped[name] = obstacles


def _choose(runtimes: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Names that can run, and why the others cannot."""
    unknown = [name for name in runtimes or () if name not in RUNTIMES]
    if unknown:
        raise MissingError(f"no runtime named {unknown[0]!r}", f"known: {', '.join(RUNTIMES)}")
    absent = [name for name in runtimes or RUNTIMES if RUNTIMES[name].version() is None]
    if runtimes and absent:
        raise MissingError(f"{absent[0]} is not installed", f"it is the package {RUNTIMES[absent[0]].package}")
    return [n for n in runtimes or RUNTIMES if n not in absent], dict.fromkeys(absent, "not installed")


def _run(name: str, forms: Forms, task: Task, scratch: Path) -> Answer:
    """One runtime in a fresh process; its failure is ours to tell."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        failures = context.SimpleQueue()
        process = context.Process(target=_measure, args=(failures, name, forms, task, Path(folder)))
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise CapacityError(f"{name} did not answer within {TIMEOUT_S:.0f} s", "fewer prompts or tokens take less")
        if process.exitcode:
            reason = failures.get() if not failures.empty() else f"its process ended with code {process.exitcode}"
            raise UserError(f"{name} failed: {reason}")
        return read_answer(Path(folder))


def _measure(failures: Any, name: str, forms: Forms, task: Task, folder: Path) -> None:
    try:
        measure(name, forms, task, folder)
    except OpenArcticError as error:
        failures.put(error.message)
        raise SystemExit(1) from error
    except Exception as error:  # a foreign runtime may raise whatever it likes; the report says it
        traceback.print_exc()
        failures.put(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _difference(name: str, forms: Forms, task: Task, wanted: list[Any], scratch: Path) -> Difference:
    version = RUNTIMES[name].version() or "unknown"
    try:
        answer = _run(name, forms, task, scratch)
        return judge(name, version, task, wanted, answer, is_sparse=RUNTIMES[name].is_sparse)
    except OpenArcticError as error:
        return Difference(name, version, error=error.message)


def judge(name: str, version: str, task: Task, wanted: Sequence[Any], answer: Answer, *, is_sparse: bool = False) -> Difference:
    """The numbers of one runtime's answer against the reference's logits of every sequence.

    Raises CorruptError for logits of another shape, and for NaN where the runtime is not sparse.
    """
    diffs = [_absolute(got, want, is_sparse) for got, want in zip(answer.logits, wanted, strict=True)]
    agreed, total, divergences = 0, 0, []
    for prompt, sequence, own, want, diff in zip(task.prompts, task.sequences, answer.tokens, wanted, diffs, strict=True):
        chain = _greedy_chain(len(prompt), sequence, want)
        same = next((i for i, (a, b) in enumerate(zip(own, chain, strict=False)) if a != b), len(chain))
        agreed, total = agreed + same, total + len(chain)
        if same < len(chain):
            position = len(prompt) - 1 + same
            best = np.sort(want[position])[-2:]
            divergences.append((same, float(best[1] - best[0]), 2 * float(np.nanmax(diff[position]))))
    return Difference(
        name,
        version,
        max_logit_diff=float(max(np.nanmax(d) for d in diffs)),
        mean_logit_diff=float(sum(np.nansum(d) for d in diffs) / sum(np.isfinite(d).sum() for d in diffs)),
        greedy_agreement=agreed / total,
        first_divergence=min(d[0] for d in divergences) if divergences else None,
        divergence_margin=max(d[1] for d in divergences) if divergences else None,
        ties=all(margin <= limit for _, margin, limit in divergences) if divergences else None,
    )


def _absolute(got: Logits, want: Any, is_sparse: bool) -> Any:
    """Absolute differences [positions, vocab]; NaN where a sparse runtime did not tell a logit."""
    if got.shape[0] != want.shape[0] or (got.shape[1] != want.shape[1] and not is_sparse):
        raise CorruptError(f"logits have the shape {got.shape}, {want.shape} were expected")
    diff = np.abs(got - want[:, : got.shape[1]])
    untold = np.isnan(diff)
    if untold.all(axis=1).any() or (untold.any() and not is_sparse):
        raise CorruptError(f"{int(untold.any(axis=1).sum())} positions have logits that are not a number")
    return diff


def _greedy_chain(start: int, sequence: Sequence[int], want: Any) -> list[int]:
    """The reference's greedy tokens, as far as `sequence` follows them (and the one token past that)."""
    chain = []
    for position in range(start - 1, len(sequence) - 1):
        chain.append(int(want[position].argmax()))
        if chain[-1] != sequence[position + 1]:
            break
    return chain
