"""The embedded engine: one GGUF file and one native model; `generation.py` is the loop that turns prompts into completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.generation import generate
from openarctic.engine.loader import OnProgress, load_model
from openarctic.errors import UserError
from openarctic.formats import GGUFFile, config_from_gguf, read_gguf
from openarctic.formats.names import check_tensors
from openarctic.generator import GREEDY, Completion, Constraint, OnText, Sampling
from openarctic.native._native import PAGE_SIZE
from openarctic.tokenizer import Tokenizer, has_vocabulary

MAX_SEQUENCES = 65  # sequence 0 holds the prompt, the others its candidates
MAX_CONTEXT = 4096
PREFILL_CHUNK = 512


class Engine:
    """Runs one model. Not for several threads at once: a call at a time."""

    def __init__(
        self,
        file: GGUFFile,
        *,
        threads: int | None = None,
        name: str = "",
        cache_type: str = "f16",
        kernels: str = "",
        on_progress: OnProgress | None = None,
    ) -> None:
        self.config = config_from_gguf(file)
        check_tensors(self.config, file)
        self.tokenizer = Tokenizer.from_gguf_metadata(file.metadata) if has_vocabulary(file.metadata) else None
        self.name = name or str(file.metadata.get("general.name", file.paths[0].stem))
        self.context = min(self.config.max_position_embeddings, MAX_CONTEXT)
        self._pages = -(-self.context // PAGE_SIZE)  # of a sequence
        self._tables = np.arange(MAX_SEQUENCES * self._pages, dtype=np.int32).reshape(MAX_SEQUENCES, -1)
        options: dict[str, Any] = {"pages": self._tables.size, "threads": threads, "on_progress": on_progress}
        self._model = load_model(file, self.config, cache_type=cache_type, kernels=kernels, **options)
        self.max_candidates = MAX_SEQUENCES - 1
        self._cached: list[int] = []  # tokens whose keys and values stand in sequence 0

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None, **options: Any) -> Engine:
        """From a GGUF file; `on_progress` is called with (bytes of weights that are ready, of all).

        Raises MissingError, UserError (unsupported), CorruptError, or CapacityError where memory does not suffice.
        """
        return cls(read_gguf(path), threads=threads, **options)

    @property
    def kernels(self) -> str:
        """Which instruction set runs: avx512, avx2 or plain."""
        return str(self._model.kernels)

    @cached_property
    def _constraints(self) -> Any:
        from openarctic.engine.constraint import Constraints

        return Constraints(self._text())

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "give token ids instead of text")
        return self.tokenizer

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens."""
        return len(self._text().encode(text))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [len(ids), vocab] of every position of one sequence."""
        self._cached = []
        parts = []
        for start in range(0, len(ids), PREFILL_CHUNK):
            chunk = list(ids[start : start + PREFILL_CHUNK])
            parts.append(self.step(chunk, [0] * len(chunk), range(start, start + len(chunk)), range(len(chunk))))
        return np.concatenate(parts)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sequence[Sampling] | Sampling = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | None = None,
        on_text: OnText | None = None,
        forces_tokens: bool = True,
    ) -> list[Completion]:
        """`n` completions for each of `sampling`; the prompt is computed once and all candidates advance in one batch.

        What the prompt shares with the last one is not computed again, unless its log probabilities are wanted. `grammar` is Lark
        text or a Constraint. `forces_tokens` appends what the grammar leaves no choice about without a step of its own; False is
        slower and gives the same. Raises UserError, or CapacityError when the prompt is too long.
        """
        settings = [sampling] if isinstance(sampling, Sampling) else list(sampling)
        ids = self._text().encode(prompt, add_special=True) if isinstance(prompt, str) else list(prompt)
        return generate(
            self,
            ids,
            settings,
            max_tokens=max_tokens,
            follower=self._constraints.start(grammar) if grammar is not None else None,
            on_text=on_text,
            forces_tokens=forces_tokens,
        )

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        return self.config.vocab_size

    def prefill(self, ids: list[int], every_row: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Computes the prompt in sequence 0; gives (position of the first row, rows): of all tokens, or of the last alone.

        Only what follows the prefix shared with the cached tokens is computed, or all of it for `every_row`.
        """
        shared = 0 if every_row else _shared_length(ids[:-1], self._cached)
        self._cached = self._cached[:shared]
        for start in range(shared, len(ids), PREFILL_CHUNK):
            chunk = ids[start : start + PREFILL_CHUNK]
            end = start + len(chunk)
            wanted = range(len(chunk)) if every_row else [len(chunk) - 1] if end == len(ids) else []
            rows = self.step(chunk, [0] * len(chunk), range(start, end), wanted)
            self._cached += chunk
            if len(rows):
                yield end - len(rows), rows

    def fork(self, sequence: int, length: int) -> None:
        """`sequence` becomes a copy of the prompt's first `length` positions."""
        for source, target in zip(self._tables[0], self._tables[sequence][: -(-length // PAGE_SIZE)], strict=False):
            self._model.copy_page(source, target)

    def step(
        self, tokens: Sequence[int], sequences: Sequence[int], positions: Iterable[int], wanted: Iterable[int]
    ) -> NDArray[np.float32]:
        """Runs tokens of any sequences, each after what its sequence holds; gives [wanted, vocab] logits.

        Several tokens of one sequence are allowed, in the order of their positions.
        """
        rows = list(wanted)
        out = np.empty((max(len(rows), 1), self._model.padded_vocab), np.float32)
        arrays = (np.asarray(list(a), np.int32) for a in (tokens, sequences, positions))
        self._model.step(*arrays, self._tables, rows, out)
        return out[: len(rows), : self.config.vocab_size]


def _shared_length(ids: Sequence[int], cached: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (mine, its) in enumerate(zip(ids, cached, strict=False)) if mine != its), min(len(ids), len(cached)))
