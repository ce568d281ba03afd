"""One engine in its own process, timed by `bench_engine`: a line of work in, its seconds out.

`python engine_server.py ours|llama MODEL THREADS CONTEXT` answers `prefill N`, `decode CONTEXT N` and `greedy N ids...`.
The context of `decode` is computed before the clock starts. Only whole steps are timed, no sampling.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runner(Protocol):
    """What both engines can do: forget everything, and run tokens from a position on."""

    vocab: int

    def clear(self, length: int = 0) -> None:
        """Keep only the first `length` positions."""

    def run(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        """Logits [vocab] after the last of `ids`."""


class Ours:
    """OpenArctic."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        from openarctic.engine import Engine

        self.engine = Engine.load(path, threads=threads)
        self.vocab = self.engine.config.vocab_size
        self.description = f"openarctic {self.engine.kernels}"

    def clear(self, length: int = 0) -> None:
        """Nothing to do: a position is overwritten before it is read."""

    def run(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        """One step."""
        count = len(ids)
        return self.engine.step(ids, [0] * count, range(start, start + count), [count - 1])[0]


class Llama:
    """llama.cpp through the C interface of llama-cpp-python, with its defaults."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        features = llama_cpp.llama_print_system_info().decode()
        self.description = f"llama-cpp-python {llama_cpp.__version__} ({features})"

    def clear(self, length: int = 0) -> None:
        """Keep only the first `length` positions."""
        memory = self.lib.llama_get_memory(self.context)
        if length:
            self.lib.llama_memory_seq_rm(memory, 0, length, -1)
        else:
            self.lib.llama_memory_clear(memory, False)

    def run(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        """One decode call; positions follow those already there."""
        array = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.vocab,))


def main() -> None:
    """Answer lines until standard input ends."""
    kind, path, threads, context = sys.argv[1:5]
    runner: Runner = {"ours": Ours, "llama": Llama}[kind](path, int(threads), int(context))
    print(json.dumps({"description": getattr(runner, "description", kind)}), flush=True)
    jobs: dict[str, Callable[..., object]] = {"prefill": prefill, "decode": decode, "greedy": greedy}
    for line in sys.stdin:
        job, *numbers = line.split()
        print(json.dumps(jobs[job](runner, *map(int, numbers))), flush=True)


def prefill(runner: Runner, count: int) -> float:
    """Seconds for one step over `count` random tokens."""
    ids = random_ids(runner, count)
    runner.clear()
    start = time.perf_counter()
    runner.run(ids, 0)
    return time.perf_counter() - start


def decode(runner: Runner, context: int, count: int) -> float:
    """Seconds for `count` steps of one token each, after a context."""
    ids = random_ids(runner, context + count)
    runner.clear()
    runner.run(ids[:context], 0)
    start = time.perf_counter()
    for i in range(context, context + count):
        runner.run(ids[i : i + 1], i)
    return time.perf_counter() - start


def greedy(runner: Runner, count: int, *prompt: int) -> list[list[float]]:
    """`count` greedy tokens: [id, gap between the two largest logits] each."""
    runner.clear()
    logits, at, out = runner.run(list(prompt), 0), len(prompt), []
    for _ in range(count):
        second, top = np.argpartition(logits, -2)[-2:]
        second, top = sorted((int(second), int(top)), key=lambda i: float(logits[i]))
        out.append([top, float(logits[top] - logits[second])])
        logits, at = runner.run([top], at), at + 1
    return out


def random_ids(runner: Runner, count: int) -> list[int]:
    """Always the same ordinary tokens."""
    return np.random.default_rng(count).integers(300, runner.vocab, count).tolist()


if __name__ == "__main__":
    main()
