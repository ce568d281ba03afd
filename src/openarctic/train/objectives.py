"""What a batch is trained for: language modelling on documents, supervised tuning on shared-prefix packs.

An objective says how large a batch is before it is computed, because the steps of an accumulated batch, and the processes of a
parallel one, weigh their losses by the targets of all of them.

Shapes: B sequences, S tokens of each, A attention heads, K key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openarctic.data import IGNORED, Batch
from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.model import ArcticForCausalLM
from openarctic.model.routing import RouteStats
from openarctic.train.packing import Pack, pack_loss
from openarctic.train.rounding import through_types


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Targets that count for the loss, tokens computed, examples (sequences, questions), and positions that the tokens see."""

    targets: int
    tokens: int
    examples: int
    seen: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean cross-entropy over a batch's targets, with gradient; what the routers add; how many targets were the likeliest."""

    cross_entropy: Tensor
    aux_loss: Tensor
    z_loss: Tensor
    correct: Tensor
    routes: tuple[RouteStats, ...]


class Objective(Protocol):
    """What is learned from batches of one kind."""

    def size(self, batch: Any) -> BatchSize:
        """Of a batch."""

    def check(self, model: ArcticForCausalLM, batch: Any) -> None:
        """Raise UserError for a batch that the model cannot learn from, naming what is wrong with it."""

    def __call__(self, model: nn.Module, batch: Any) -> Loss:
        """Forward. `model` is the model, or what processes that share it call."""


@dataclass(frozen=True, slots=True)
class PackTuning:
    """Supervised tuning on packs: cross-entropy of the answers, given the shared prefix and their own questions.

    Parameters named in `rounding` are trained through that GGUF type.
    """

    rounding: Mapping[str, str] = field(default_factory=dict)

    def size(self, batch: Pack) -> BatchSize:
        """Of a pack."""
        prefix = len(batch.prefix)
        seen = _triangle(prefix) + sum(len(s) * prefix + _triangle(len(s)) for s in batch.segments)
        return BatchSize(sum(len(s.target) for s in batch.segments), len(batch), len(batch.segments), seen)

    def check(self, model: ArcticForCausalLM, batch: Pack) -> None:
        """Ids must be of the model's vocabulary, positions within its context."""
        ids = batch.prefix + [i for s in batch.segments for i in s.prompt + s.target]
        _check_ids(np.asarray(ids), model.config.vocab_size)
        # Every segment's positions go on from the prefix.
        check_context(model.config.shape, len(batch.prefix) + max(map(len, batch.segments)), "an example")

    def __call__(self, model: nn.Module, batch: Pack) -> Loss:
        """Forward of a pack."""
        result = through_types(model, self.rounding, lambda rounded: pack_loss(rounded, batch))
        return Loss(result.cross_entropy, result.aux_loss, result.z_loss, torch.tensor(result.correct), result.routes)


class LanguageModelling:
    """Next tokens of packed documents: attention stays inside a document, positions restart with it."""

    def size(self, batch: Batch) -> BatchSize:
        """Of a batch."""
        targets = int((batch.labels[:, 1:] != IGNORED).sum())
        return BatchSize(
            targets, batch.input_ids.size, len(batch.input_ids), int(batch.position_ids.sum()) + batch.input_ids.size
        )

    def check(self, model: ArcticForCausalLM, batch: Batch) -> None:
        """Ids must be of the model's vocabulary, positions within its context."""
        _check_ids(batch.input_ids, model.config.vocab_size)
        check_context(model.config.shape, int(batch.position_ids.max()) + 1, "a document")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Forward of a batch; the loss is computed piece by piece, without all logits at once."""
        device = device_of(model)
        output = model(
            torch.from_numpy(batch.input_ids).to(device),
            position_ids=torch.from_numpy(batch.position_ids).to(device).long(),
            labels=torch.from_numpy(batch.labels).to(device),
            attention=DocumentAttention(batch.document_ids),
            use_cache=False,
            with_logits=False,
            num_items_in_batch=max(1, self.size(batch).targets),
        )
        return Loss(output.cross_entropy, output.aux_loss, output.z_loss, output.correct, output.routes)


class SupervisedTuning:
    """Packs and sequences of documents alike: what `PackTuning` and `LanguageModelling` say of their own."""

    def __init__(self) -> None:
        self._packs, self._documents = PackTuning(), LanguageModelling()

    def _of(self, batch: Pack | Batch) -> Objective:
        return self._packs if isinstance(batch, Pack) else self._documents

    def size(self, batch: Pack | Batch) -> BatchSize:
        """Of a batch."""
        return self._of(batch).size(batch)

    def check(self, model: ArcticForCausalLM, batch: Pack | Batch) -> None:
        """Ids and positions must be the model's."""
        self._of(batch).check(model, batch)

    def __call__(self, model: nn.Module, batch: Pack | Batch) -> Loss:
        """Forward of a batch."""
        return self._of(batch)(model, batch)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device


def check_context(shape: HybridConfig, tokens: int, what: str, hint: str = "give shorter ones") -> None:
    """Raise UserError where `what`, of so many tokens, is longer than a model's context."""
    if tokens > shape.max_position_embeddings:
        raise UserError(
            f"{what} of {tokens} tokens is longer than the model's context, {shape.max_position_embeddings}",
            hint,
        )


def _triangle(n: int) -> int:
    """1 + 2 + ... + n: what n causal tokens see."""
    return n * (n + 1) // 2


def _check_ids(ids: Any, vocab_size: int) -> None:
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise UserError(
            f"token {wrong} is not in the model's vocabulary of {vocab_size}", "tokenizer and model must be of one kind"
        )


class DocumentAttention:
    """Causal attention inside documents: `document_ids` [B, S] are equal where tokens may see each other.

    Sequences cut into the same runs are computed together, and each run is causal attention over contiguous tokens, which needs
    no mask and none of the products that a mask would throw away. `document_mask` is the plain form of the same.
    """

    def __init__(self, document_ids: Any) -> None:
        ids = np.asarray(document_ids)
        self.groups: dict[tuple[int, ...], list[int]] = {}  # ends of a sequence's documents -> sequences
        for row, own in enumerate(ids):
            ends = (*np.flatnonzero(own[1:] != own[:-1]) + 1, len(own))
            self.groups.setdefault(tuple(int(end) for end in ends), []).append(row)

    def __call__(self, q_BASD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> Tensor:
        """[B, A, S, D] and twice [B, K, S, D] to [B, S, A * D]."""
        repeats = q_BASD.shape[1] // k_BKSD.shape[1]
        q, k, v = q_BASD, k_BKSD.repeat_interleave(repeats, 1), v_BKSD.repeat_interleave(repeats, 1)
        if len(self.groups) == 1:
            out = _attend_runs(q, k, v, next(iter(self.groups)))
        else:
            rows = [row for own in self.groups.values() for row in own]
            parts = [_attend_runs(q[own], k[own], v[own], ends) for ends, own in self.groups.items()]
            out = torch.cat(parts)[np.argsort(rows).tolist()]
        return out.transpose(1, 2).flatten(2)


def _attend_runs(q: Tensor, k: Tensor, v: Tensor, ends: tuple[int, ...]) -> Tensor:
    """Causal attention within each run of tokens that ends at one of `ends`."""
    starts = (0, *ends[:-1])
    runs = [
        F.scaled_dot_product_attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], is_causal=True)
        for a, b in zip(starts, ends, strict=True)
    ]
    return runs[0] if len(runs) == 1 else torch.cat(runs, 2)


def document_mask(document_ids: Any) -> Tensor:
    """bool [B, 1, S, S]: whether a token (second last dimension) sees another: of the same document, and not a later one."""
    ids = torch.as_tensor(np.asarray(document_ids))
    same = ids[:, None, :, None] == ids[:, None, None, :]
    return same & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
