"""Shared-prefix packing: one schema, many question-and-SQL segments that see the schema and themselves.

The schema is computed once instead of once a question: 3.5 times fewer tokens on Spider. Loss and gradients are those of
training each question on its own (tests/train/test_packing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openarctic.model.routing import RouteStats


@dataclass(frozen=True, slots=True)
class Segment:
    """One question: `prompt` ids carry no loss, `target` ids do."""

    prompt: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True)
class Pack:
    """A shared prefix and its segments."""

    prefix: list[int]
    segments: list[Segment]

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.segments))


class SharedPrefixAttention:
    """The prefix is causal; every segment sees the whole prefix and, causally, itself.

    Only attention pads segments to a common length; the linear layers never see padding.
    """

    def __init__(self, prefix: int, lengths: Sequence[int], device: torch.device | None = None) -> None:
        self.prefix, self.count, self.longest = prefix, len(lengths), max(lengths)
        gather = torch.zeros(self.count, self.longest, dtype=torch.long)
        valid = torch.zeros(self.count, self.longest, dtype=torch.bool)
        start = prefix
        for i, length in enumerate(lengths):
            gather[i, :length] = torch.arange(start, start + length)
            valid[i, :length] = True
            start += length
        self.gather = gather.flatten().to(device)
        self.valid = valid.flatten().nonzero().squeeze(1).to(device)
        own = torch.ones(self.longest, self.longest, dtype=torch.bool).tril()
        self.mask = torch.cat((torch.ones(self.longest, prefix, dtype=torch.bool), own), 1).to(device)

    def __call__(self, q_1ATD: Tensor, k_1KTD: Tensor, v_1KTD: Tensor) -> Tensor:
        """[1, A, T, D] and twice [1, K, T, D] to [1, T, A * D]."""
        groups = q_1ATD.shape[1] // k_1KTD.shape[1]
        k_1ATD, v_1ATD = k_1KTD.repeat_interleave(groups, 1), v_1KTD.repeat_interleave(groups, 1)
        first = [x[:, :, : self.prefix] for x in (q_1ATD, k_1ATD, v_1ATD)]
        prefix_out = F.scaled_dot_product_attention(first[0], first[1], first[2], is_causal=True)[0].transpose(0, 1).flatten(1)
        q, k, v = (self._segments(x) for x in (q_1ATD, k_1ATD, v_1ATD))
        k = torch.cat((first[1].expand(self.count, -1, -1, -1), k), 2)
        v = torch.cat((first[2].expand(self.count, -1, -1, -1), v), 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return torch.cat((prefix_out, out.transpose(1, 2).flatten(2).flatten(0, 1)[self.valid]))[None]

    def _segments(self, x_1ATD: Tensor) -> Tensor:
        return x_1ATD[0].transpose(0, 1)[self.gather].unflatten(0, (self.count, self.longest)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class PackLoss:
    """Mean cross-entropy over target tokens, what the routers add and tell, and how many targets were right."""

    cross_entropy: Tensor
    aux_loss: Tensor
    z_loss: Tensor
    targets: int
    correct: int
    routes: tuple[RouteStats, ...]


def pack_loss(model: nn.Module, pack: Pack) -> PackLoss:
    """Forward of one pack."""
    prefix, lengths, device = len(pack.prefix), [len(s) for s in pack.segments], next(model.parameters()).device
    ids = torch.tensor(pack.prefix + [i for s in pack.segments for i in s.prompt + s.target]).to(device)
    positions = torch.cat([torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in lengths)]).to(device)
    sources: list[int] = []
    targets: list[int] = []
    start = prefix
    for segment in pack.segments:
        sources += range(start + len(segment.prompt) - 1, start + len(segment) - 1)
        targets += segment.target
        start += len(segment)
    output = model(
        ids[None],
        position_ids=positions[None],
        attention=SharedPrefixAttention(prefix, lengths, device),
        use_cache=False,
        logits_to_keep=torch.tensor(sources, device=device),
    )
    logits, wanted = output.logits[0], torch.tensor(targets, device=device)
    correct = int((logits.argmax(-1) == wanted).sum())
    return PackLoss(F.cross_entropy(logits, wanted), output.aux_loss, output.z_loss, len(targets), correct, output.routes)
