"""OpenArctic in the measured process: bare steps of the native model, and whole requests through `Engine`.

The one place that knows how our engine is driven.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine import Engine
from openarctic.engine.loader import load_model
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.names import check_tensors
from openarctic.native._native import PAGE_SIZE

CACHE_TYPE = "f16"  # llama.cpp's default too


class OpenArctic:
    """See `server.Runner`."""

    def __init__(self, path: str, threads: int) -> None:
        self.path, self.threads = path, threads
        self.model: Any = None
        self.vocab = 0
        self.settings: dict[str, Any] = {}

    def open(self, tokens: int) -> float:
        """Load the file with room for the keys and values of `tokens` tokens; gives seconds."""
        start = time.perf_counter()
        file = read_gguf(self.path)
        config = config_from_gguf(file)
        check_tensors(config, file)
        pages = -(-tokens // PAGE_SIZE)
        self.model = load_model(file, config, pages=pages, threads=self.threads, cache_type=CACHE_TYPE)
        seconds = time.perf_counter() - start
        self.vocab = config.vocab_size
        self.settings = {
            "name": "openarctic",
            "kernels": self.model.kernels,
            "threads": self.threads,
            "cache_type": CACHE_TYPE,
            "page_size": PAGE_SIZE,
        }
        return seconds

    def layout(self, sequences: int, context: int) -> None:
        """Page tables for so many sequences of `context` tokens each."""
        pages = -(-context // PAGE_SIZE)
        self.tables = np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages)
        self._own = self.tables.copy()

    def forget(self, sequences: Sequence[int], length: int) -> None:
        """Keep only the first `length` positions of each: what lies behind is overwritten before it is read."""
        if not length:
            self.tables[list(sequences)] = self._own[list(sequences)]

    def fork(self, source: int, target: int, length: int) -> None:
        """`target` begins with the first `length` positions of `source`: whole pages are shared, the last one is copied."""
        whole = length // PAGE_SIZE
        self.tables[target, :whole] = self.tables[source, :whole]
        if length % PAGE_SIZE:
            self.model.copy_page(int(self.tables[source, whole]), int(self.tables[target, whole]))

    def step(
        self, tokens: Sequence[int], sequences: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
    ) -> NDArray[np.float32]:
        """One step; rows of logits [wanted, vocab] of the wanted tokens."""
        out = np.empty((max(len(wanted), 1), self.model.padded_vocab), np.float32)
        arrays = (np.asarray(a, np.int32) for a in (tokens, sequences, positions))
        self.model.step(*arrays, self.tables, list(wanted), out)
        return out[: len(wanted), : self.vocab]

    def engine(self) -> Engine:
        """The whole engine, in place of the bare model."""
        self.model = None
        return Engine.load(self.path, threads=self.threads)
