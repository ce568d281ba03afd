"""The measured process: one engine, a JSON object of work in a line, a JSON object of seconds out.

`python server.py openarctic|llama.cpp MODEL THREADS`. Runs by its path and imports nothing of this package unless it measures
OpenArctic, so that a Python without it can run llama.cpp. Only whole steps are timed: no sampling, no text. The context of a
`decode` is computed before the clock starts and kept for the next repetition. Standard output carries the answers alone.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK = 512
FIRST_ID = 300  # ordinary tokens; below stand bytes and controls


class Runner(Protocol):
    """What both engines can do. Sequences are numbers from 0, each with positions from 0."""

    vocab: int
    settings: dict[str, Any]

    def open(self, tokens: int) -> float:
        """Load the file with room for keys and values of `tokens` tokens; gives seconds."""

    def layout(self, sequences: int, context: int) -> None:
        """Room for so many sequences of `context` tokens each, all empty."""

    def forget(self, sequences: Sequence[int], length: int) -> None:
        """Keep only the first `length` positions of each."""

    def fork(self, source: int, target: int, length: int) -> None:
        """`target` begins with the first `length` positions of `source`."""

    def step(
        self, tokens: Sequence[int], sequences: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
    ) -> NDArray[np.float32]:
        """Runs the tokens, each behind what its sequence holds; rows of logits of the wanted ones."""


class Jobs:
    """The work that can be asked for: a method each, whose arguments are the fields of the object."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.filled: dict[int, int] = {}  # sequence -> positions that it holds
        self.engine: Any = None
        self.turn = 0

    def open(self, tokens: int, sequences: int, context: int) -> dict[str, Any]:
        """Load, lay out, and run one token: `seconds` of the loading, `first_s` with the first token."""
        start = time.perf_counter()
        seconds = self.runner.open(tokens)
        self.layout(sequences, context)
        self.runner.step([FIRST_ID % self.runner.vocab], [0], [0], [0])
        first = time.perf_counter() - start
        self.forget()
        return {"seconds": seconds, "first_s": first, "vocab": self.runner.vocab, "settings": self.runner.settings}

    def layout(self, sequences: int, context: int) -> dict[str, Any]:
        """Room for other sequences."""
        self.runner.layout(sequences, context)
        self.sequences = sequences
        self.filled = {}
        return {"settings": self.runner.settings}

    def prefill(self, tokens: int) -> dict[str, Any]:
        """One prompt."""
        self.forget()
        return {"seconds": self.extend(tokens)["seconds"]}

    def extend(self, tokens: int) -> dict[str, Any]:
        """Sequence 0 grows to `tokens` tokens."""
        return {"seconds": self.fill(0, tokens)}

    def decode(self, context: int, batch: int, steps: int, rewind: int) -> dict[str, Any]:
        """`steps` steps of one token of each of `batch` sequences behind `context` tokens, that are computed where they are not
        there yet and are all that is left afterwards. After every `rewind` steps the sequences go back to there."""
        for sequence in range(batch):
            self.fill(sequence, context)
        sequences, seconds = list(range(batch)), 0.0
        ids = self.ids(context + steps, batch * steps).reshape(steps, batch).tolist()
        for first in range(0, steps, rewind):
            start = time.perf_counter()
            for i, row in enumerate(ids[first : first + rewind]):
                self.runner.step(row, sequences, [context + i] * batch, sequences)
            seconds += time.perf_counter() - start
            self.runner.forget(sequences, context)
        return {"seconds": seconds}

    def prefix(self, requests: int, shared: int, own: int, shares: bool) -> dict[str, Any]:
        """The first logits of `requests` prompts of `shared` equal and `own` other tokens; `shares` computes
        the equal ones once."""
        self.forget()
        start = time.perf_counter()
        for sequence in range(requests):
            if sequence and shares:
                self.runner.fork(0, sequence, shared)
                self.filled[sequence] = shared
            else:
                self.fill(sequence, shared, seed=0, is_last=False)
        self.fill_together(range(requests), shared, own)
        seconds = time.perf_counter() - start
        self.forget()
        return {"seconds": seconds}

    def requests(self, count: int, prompt: int, tokens: int) -> dict[str, Any]:
        """`count` prompts of `prompt` tokens at once, and `tokens` more of each in bare steps:
        what whole requests are held to."""
        self.forget()
        start = time.perf_counter()
        self.fill_together(range(count), 0, prompt)
        sequences = list(range(count))
        for i, row in enumerate(self.ids(prompt, tokens * count).reshape(tokens, count)[1:].tolist()):
            self.runner.step(row, sequences, [prompt + i] * count, sequences)
        seconds = time.perf_counter() - start
        self.forget()
        return {"seconds": seconds}

    def start(self, **options: Any) -> dict[str, Any]:
        """The whole engine in place of bare steps, with options of its own."""
        self.engine = self.runner.start(options)  # type: ignore[attr-defined]  # only ours has one
        return {"settings": self.runner.settings}

    def load(self) -> dict[str, Any]:
        """What a user waits for: ours as a whole engine, with tokenizer and all; `first_s` with the first token's logits."""
        if not hasattr(self.runner, "start"):
            return self.open(tokens=1024, sequences=1, context=256)
        start = time.perf_counter()
        self.start()
        seconds = time.perf_counter() - start
        self.engine.first()
        return {"seconds": seconds, "first_s": time.perf_counter() - start, "settings": self.runner.settings}

    def submit(self, count: int, prompt: int, tokens: int) -> dict[str, Any]:
        """`requests` through the engine's scheduler, with prompts that it has never seen."""
        self.turn += 1
        vocab = self.runner.vocab
        prompts = np.random.default_rng(self.turn).integers(min(FIRST_ID, vocab // 2), vocab, (count, prompt)).tolist()
        return dict(self.engine.together(prompts, tokens))

    def generate(self, prompts: list[str], **options: Any) -> dict[str, Any]:
        """Texts one after the other; `seconds` leaves out the time to each first token."""
        return dict(self.engine.in_turn(prompts, **options))

    def stream(self, requests: list[list[Any]], forbidden: int | None) -> dict[str, Any]:
        """Texts of fixed lengths one after the other, as a server's only client sees them: [prompt, tokens] each."""
        return dict(self.engine.streamed(requests, forbidden))

    def logits(self, tokens: int, path: str) -> dict[str, Any]:
        """Logits of every position of a prompt of at most one chunk, saved as a .npy file."""
        self.forget()
        ids = self.ids(tokens, tokens).tolist()
        np.save(path, self.runner.step(ids, [0] * tokens, list(range(tokens)), list(range(tokens))))
        self.forget()
        return {"ids": ids}

    def fill_together(self, sequences: Sequence[int], at: int, count: int) -> None:
        """`count` tokens more for each sequence that holds `at`, as many sequences a step as a chunk takes."""
        for first in range(0, len(sequences), max(1, CHUNK // count)):
            group = sequences[first : first + max(1, CHUNK // count)]
            tokens = [token for s in group for token in self.ids(1000 + s, count).tolist()]
            positions = [at + i for _ in group for i in range(count)]
            wanted = [count * (i + 1) - 1 for i in range(len(group))]
            self.runner.step(tokens, [s for s in group for _ in range(count)], positions, wanted)

    def forget(self) -> None:
        """Every sequence is empty."""
        self.runner.forget(range(self.sequences), 0)
        self.filled = {}

    def fill(self, sequence: int, length: int, seed: int | None = None, is_last: bool = True) -> float:
        """Seconds until the sequence holds `length` tokens; the last one's logits are computed where that `is_last`."""
        at = self.filled.get(sequence, 0)
        if at > length:
            self.runner.forget([sequence], length)
        ids = self.ids(sequence if seed is None else seed, length).tolist()
        start = time.perf_counter()
        for first in range(at, length, CHUNK):
            end = min(length, first + CHUNK)
            wanted = [end - first - 1] if is_last and end == length else []
            self.runner.step(ids[first:end], [sequence] * (end - first), list(range(first, end)), wanted)
        self.filled[sequence] = length
        return time.perf_counter() - start

    def ids(self, seed: int, count: int) -> NDArray[np.int64]:
        """Always the same ordinary tokens; of a toy vocabulary all."""
        first = FIRST_ID if self.runner.vocab > 2 * FIRST_ID else 0
        return np.random.default_rng(seed).integers(first, self.runner.vocab, count)


def make_runner(kind: str, path: str, threads: int) -> Runner:
    """The engine of that name."""
    if kind == "llama.cpp":
        runner: Runner = runpy.run_path(str(Path(__file__).with_name("peer.py")))["LlamaCpp"](path, threads)
        return runner
    from openarctic.bench.ours import OpenArctic

    return OpenArctic(path, threads)


def cpu_seconds() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def failure(error: Exception) -> dict[str, Any]:
    """An error as an object: its own words where it has them."""
    describe = getattr(error, "to_dict", None)
    if describe:
        return dict(describe())
    kind = "missing_module" if isinstance(error, ModuleNotFoundError) else "failed"
    return {"type": kind, "message": f"{type(error).__name__}: {error}", "hint": None}


def main() -> None:
    """Answer lines until standard input ends."""
    # Libraries that print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(body: dict[str, Any]) -> None:
        answers.write(json.dumps(body) + "\n")
        answers.flush()

    kind, path, threads = sys.argv[1:4]
    try:
        jobs = Jobs(make_runner(kind, path, int(threads)))
    except Exception as error:  # noqa: BLE001, the measuring process says it
        answer({"error": failure(error)})
        return
    answer({"ready": True})
    work = {name: method for name, method in inspect.getmembers(jobs, inspect.ismethod)}
    for line in sys.stdin:
        request = json.loads(line)
        used = cpu_seconds()
        try:
            reply = work[request.pop("job")](**request)
        except Exception as error:  # noqa: BLE001, the measuring process says it
            reply = {"error": failure(error)}
        answer({**reply, "cpu_s": cpu_seconds() - used})


if __name__ == "__main__":
    main()
