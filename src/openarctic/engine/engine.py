"""The embedded engine: one GGUF file and one native model; `generation.py` is the loop that turns prompts into completions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.generation import generate
from openarctic.errors import CorruptError, UserError
from openarctic.formats import GGUFFile, HybridConfig, config_from_gguf, read_gguf
from openarctic.formats.names import check_tensors
from openarctic.formats.quants import TYPES
from openarctic.generator import GREEDY, Completion, Constraint, OnText, Sampling
from openarctic.native._native import Model
from openarctic.tokenizer import Tokenizer, has_vocabulary

MAX_SEQUENCES = 65  # sequence 0 holds the prompt, the others its candidates
MAX_CONTEXT = 4096
PREFILL_CHUNK = 512


class Engine:
    """Runs one model. Not for several threads at once: a call at a time."""

    def __init__(
        self, file: GGUFFile, *, threads: int | None = None, name: str = "", f16_cache: bool = True, kernels: str = ""
    ) -> None:
        self.config = config_from_gguf(file)
        check_tensors(self.config, file)
        self.tokenizer = Tokenizer.from_gguf_metadata(file.metadata) if has_vocabulary(file.metadata) else None
        self.name = name or str(file.metadata.get("general.name", file.paths[0].stem))
        self.context = min(self.config.max_position_embeddings, MAX_CONTEXT)
        self._model = _native_model(file, self.config, self.context, threads or default_threads(), f16_cache, kernels)
        self.max_candidates = MAX_SEQUENCES - 1
        self._cached: list[int] = []  # tokens whose keys and values stand in sequence 0

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None, **options: Any) -> Engine:
        """From a GGUF file. Raises MissingError, UserError (unsupported) or CorruptError."""
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
        self._model.copy(0, sequence, length)

    def step(
        self, tokens: Sequence[int], sequences: Sequence[int], positions: Iterable[int], wanted: Iterable[int]
    ) -> NDArray[np.float32]:
        """Runs tokens of any sequences, each after what its sequence holds; gives [wanted, vocab] logits.

        Several tokens of one sequence are allowed, in the order of their positions.
        """
        rows = list(wanted)
        out = np.empty((max(len(rows), 1), self._model.padded_vocab), np.float32)
        arrays = (np.asarray(list(a), np.int32) for a in (tokens, sequences, positions))
        self._model.step(*arrays, rows, out)
        return out[: len(rows), : self.config.vocab_size]


def _shared_length(ids: Sequence[int], cached: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (mine, its) in enumerate(zip(ids, cached, strict=False)) if mine != its), min(len(ids), len(cached)))


def default_threads() -> int:
    """The processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _native_model(file: GGUFFile, config: HybridConfig, context: int, threads: int, f16_cache: bool, kernels: str) -> Model:
    model = Model(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        eps=config.rms_norm_eps,
        theta=config.rope_theta,
        max_sequences=MAX_SEQUENCES,
        max_context=context,
        threads=threads,
        f16_cache=f16_cache,
        kernels=kernels,
    )
    loader = _Loader(file, config, model)
    for layer in range(config.num_hidden_layers):
        loader.layer(layer)
    loader.ends()
    return model


@dataclass(frozen=True, slots=True)
class _Loader:
    """Hands the tensors of a checked file to the native model."""

    file: GGUFFile
    config: HybridConfig
    model: Model

    def layer(self, index: int) -> None:
        """Everything of one layer."""
        config, prefix = self.config, f"blk.{index}."
        for name in "qkv":
            self._set(index, name, [self._matrix(f"{prefix}attn_{name}")])
        self._set(index, "o", [self._matrix(f"{prefix}attn_output")])
        self._vector(index, "attn_norm", f"{prefix}attn_norm")
        self._vector(index, "ffn_norm", f"{prefix}ffn_norm")
        if not config.is_moe_layer(index) or config.is_parallel_layer(index):
            pair = [self._matrix(f"{prefix}ffn_{name}") for name in ("gate", "up")]
            self._set(index, "gate_up", pair, interleave=True)
            self._set(index, "down", [self._matrix(f"{prefix}ffn_down")])
        if config.is_moe_layer(index):
            self._experts(index, prefix)

    def _experts(self, index: int, prefix: str) -> None:
        if self.config.is_parallel_layer(index):
            self._vector(index, "moe_norm", f"{prefix}ffn_norm_exps")
        self._vector(index, "router", f"{prefix}ffn_gate_inp")
        gate, up, down = (self._stacked(f"{prefix}ffn_{name}_exps") for name in ("gate", "up", "down"))
        for e in range(self.config.num_local_experts):
            self._set(index, "expert_gate_up", [gate[e], up[e]], interleave=True)
            self._set(index, "expert_down", [down[e]])

    def ends(self) -> None:
        """Embedding, final norm and head."""
        embedding = self._matrix("token_embd")
        self.model.set_embedding(embedding)
        self._set(-1, "head", [embedding if self.config.tie_word_embeddings else self._matrix("output")])
        self._vector(-1, "output_norm", "output_norm")

    def _set(self, layer: int, name: str, matrices: list[tuple[int, int, int, Any]], interleave: bool = False) -> None:
        if interleave and matrices[0][1] % 8:
            raise UserError(f"an MLP of width {matrices[0][1]} is not supported", "it must be a multiple of 8")
        self.model.set_matrix(layer, name, matrices, interleave)

    def _matrix(self, name: str) -> tuple[int, int, int, Any]:
        tensor = self.file.tensors[f"{name}.weight"]
        rows, cols = tensor.shape
        return TYPES[tensor.type].code, rows, cols, tensor.data

    def _stacked(self, name: str) -> list[tuple[int, int, int, Any]]:
        tensor = self.file.tensors[f"{name}.weight"]
        count, rows, cols = tensor.shape
        data = tensor.data.reshape(count, -1)
        return [(TYPES[tensor.type].code, rows, cols, data[e]) for e in range(count)]

    def _vector(self, layer: int, name: str, tensor: str) -> None:
        values = self.file.dequantize(f"{tensor}.weight").reshape(-1)
        if not np.isfinite(values).all():
            raise CorruptError(f"tensor {tensor}.weight holds values that are not finite")
        self.model.set_vector(layer, name, np.ascontiguousarray(values, np.float32))
