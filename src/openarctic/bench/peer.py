"""llama.cpp through the C interface of llama-cpp-python, with the defaults that it ships.

Loaded by path in the measured process, which may run in a Python that has llama-cpp-python and not OpenArctic: imports nothing
of this package. Only threads, context, number of sequences and (for one call a prompt) the batch are set; `settings` states all
that llama.cpp then runs with.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BATCH = 512  # llama.cpp's own n_ubatch


class LlamaCpp:
    """See `server.Runner`."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.path, self.threads = path, threads
        self.model: Any = None
        self.context: Any = None
        self.batch: Any = None
        self.vocab = 0
        self.settings: dict[str, Any] = {}

    def open(self, tokens: int) -> float:
        """Load the file; gives seconds. `tokens` does not matter here: `layout` makes the context."""
        start = time.perf_counter()
        params = self.lib.llama_model_default_params()
        self.model = self.lib.llama_model_load_from_file(self.path.encode(), params)
        if not self.model:
            raise RuntimeError("llama.cpp cannot load this file")
        seconds = time.perf_counter() - start
        self.vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.settings = {
            "name": "llama.cpp",
            "llama_cpp_python": self.lib.__version__,
            "features": self.lib.llama_print_system_info().decode().strip(" |"),
            "model": _fields(params),
        }
        return seconds

    def layout(self, sequences: int, context: int) -> None:
        """An empty context for so many sequences of `context` tokens each."""
        lib = self.lib
        if self.context:
            lib.llama_free(self.context)
            lib.llama_batch_free(self.batch)
        params = lib.llama_context_default_params()
        # The context is divided among the sequences, in pieces of 256 tokens.
        params.n_ctx, params.n_seq_max = sequences * -(-context // 256) * 256, sequences
        params.n_threads = params.n_threads_batch = self.threads
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context of {sequences} x {context} tokens")
        self.memory = lib.llama_get_memory(self.context)
        capacity = max(MAX_BATCH, sequences)
        self.batch = lib.llama_batch_init(capacity, 0, 1)
        fields = ("token", "pos", "n_seq_id", "logits")
        self._arrays = {name: np.ctypeslib.as_array(getattr(self.batch, name), (capacity,)) for name in fields}
        self._arrays["n_seq_id"][:] = 1
        self._sequences: list[int] = []
        self.settings["context"] = _fields(params)

    def forget(self, sequences: Sequence[int], length: int) -> None:
        """Keep only the first `length` positions of each."""
        for sequence in sequences:
            self.lib.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def fork(self, source: int, target: int, length: int) -> None:
        """`target` begins with the first `length` positions of `source`, which must hold no more: llama.cpp copies whole ones."""
        self.lib.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def step(
        self, tokens: Sequence[int], sequences: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
    ) -> NDArray[np.float32]:
        """One decode call; rows of logits [wanted, vocab] of the wanted tokens."""
        count = len(tokens)
        self._arrays["token"][:count] = tokens
        self._arrays["pos"][:count] = positions
        self._arrays["logits"][:count] = 0
        self._arrays["logits"][list(wanted)] = 1
        if self._sequences[:count] != list(sequences):
            self._sequences = list(sequences)
            for i, sequence in enumerate(sequences):
                self.batch.seq_id[i][0] = sequence
        self.batch.n_tokens = count
        if code := self.lib.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode failed with {code}")
        rows = [np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.vocab,)) for i in wanted]
        return np.stack(rows) if rows else np.empty((0, self.vocab), np.float32)


def _fields(params: Any) -> dict[str, Any]:
    """The plain fields of a C struct."""
    values = {name: getattr(params, name) for name, _ in params._fields_}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float)}
