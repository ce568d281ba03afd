"""OpenArctic in the measured process: bare steps of the native model, and whole requests through `Engine`.

The one place that knows how our engine is driven.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine import Engine
from openarctic.engine.loader import load_model
from openarctic.formats import config_from_gguf, read_gguf
from openarctic.formats.names import check_tensors
from openarctic.generator import Sampling
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

    def start(self, options: dict[str, Any]) -> Requests:
        """The whole engine, in place of the bare model."""
        self.model = None
        engine = Engine.load(self.path, threads=self.threads, **options)
        self.vocab = engine.config.vocab_size
        self.settings = {"name": "openarctic", "kernels": engine.kernels, "threads": self.threads, **options}
        return Requests(engine)


class Requests:
    """Whole requests, as callers make them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def first(self) -> None:
        """One token's logits."""
        self.engine.logits([0])

    def together(self, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """All at once, `tokens` tokens each, greedy: seconds until the last has ended, and the tokens that were written."""
        sampling = Sampling(ignore_eos=True)
        start = time.perf_counter()
        streams = [self.engine.submit(prompt, sampling=sampling, max_tokens=tokens) for prompt in prompts]
        written = [len(stream.result()[0].ids) for stream in streams]
        return {"seconds": time.perf_counter() - start, "tokens": sum(written)}

    def streamed(self, requests: Sequence[Sequence[Any]], forbidden: int | None) -> dict[str, Any]:
        """(prompt, tokens) each, one after the other, without the token `forbidden`: seconds of all, and of each request seconds
        to the first event, between events and to the end, and its tokens."""
        sampling = Sampling(logit_bias={} if forbidden is None else {forbidden: -100.0})
        start = time.perf_counter()
        seen = []
        for prompt, tokens in requests:
            began = time.perf_counter()
            times = [time.perf_counter() for _ in self.engine.submit(prompt, sampling=sampling, max_tokens=tokens)]
            between = [after - before for before, after in pairwise(times)]
            seen.append([times[0] - began, between, times[-1] - began, tokens])
        return {"seconds": time.perf_counter() - start, "seen": seen}

    def in_turn(
        self, prompts: Sequence[str], max_tokens: int, temperature: float, seed: int, grammar: str | None = None
    ) -> dict[str, Any]:
        """One after the other: seconds from first tokens to ends, the tokens written meanwhile, and a digest of all."""
        seconds, count = 0.0, 0
        digest = hashlib.sha256()
        for i, prompt in enumerate(prompts):
            sampling = Sampling(temperature=temperature, seed=seed + i)
            stream = self.engine.submit(prompt, sampling=sampling, max_tokens=max_tokens, grammar=grammar)
            times, ids = [], []
            for event in stream:
                times.append(time.perf_counter())
                ids.append(event.ids)
            digest.update(repr([token for group in ids for token in group]).encode())
            seconds += times[-1] - times[0]
            count += sum(len(group) for group in ids[1:])
        return {"seconds": seconds, "tokens": count, "digest": digest.hexdigest()}
