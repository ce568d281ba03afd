"""Steps of a native model, into buffers that are kept between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.strand import Rows

KEPT_ROWS = 64  # buffers for more are given back: prompts whose every row is wanted are rare, and vocabularies large


class Runner:
    """`model` is native; one step at a time."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        self.model, self._vocab_size = model, vocab_size
        self._logits, self._summaries = self._buffers(1)

    def run(
        self,
        tokens: Sequence[int],
        sequences: Sequence[int],
        positions: Iterable[int],
        tables: NDArray[np.int32],
        wanted: Iterable[int],
    ) -> Rows:
        """Runs tokens, each after what its sequence holds; the wanted ones' rows, valid until the next step."""
        rows = list(wanted)
        logits, summaries = self._logits, self._summaries
        if len(rows) > len(logits):
            logits, summaries = self._buffers(len(rows))
            if len(rows) <= KEPT_ROWS:
                self._logits, self._summaries = logits, summaries
        arrays = (np.asarray(list(a), np.int32) for a in (tokens, sequences, positions))
        self.model.step(*arrays, tables, rows, logits, summaries)
        return Rows(logits[: len(rows), : self._vocab_size], summaries[: len(rows)])

    def _buffers(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.empty((count, self.model.padded_vocab), np.float32), np.empty((count, 2), np.float32)
