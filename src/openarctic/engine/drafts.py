"""Drafters: what guesses the next tokens of a sequence, so that one step can verify several (see `speculation.py`).

`SuffixDrafter` reads guesses off the texts that were written before: a tree of the sequence's own prompt and output, and one tree
for each tenant of all its responses, finished and running. A tenant's tokens are in that tenant's tree and nowhere else, so they
can never be drafted for another. A drafter serves one model.

The shared trees stay within a budget of bytes: the largest tree gives up its oldest response. They forget a response when it is
older than the time to live. There is no clock here: `tick` tells the time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openarctic.engine.suffix import NO_DRAFT, Draft, SuffixTree

SHARED_CONTEXT = 32  # last tokens of a prompt that a response is remembered with: its first tokens need something to match
LOCAL_CONTEXT = 8192  # last tokens of a prompt that the sequence's own tree holds
UNSEEN = 32  # committed tokens that may wait before the trees take them


class Drafter(Protocol):
    """Sequences are named by ids of the caller's. What a drafter says is a guess; nothing rests on it but speed."""

    def tick(self, now: float) -> None:
        """The time in seconds, of any clock that does not go back."""

    def start(self, sequence_id: int, tenant: str, prompt_ids: Sequence[int]) -> None:
        """A new sequence with its prompt."""

    def append(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Tokens that are committed: they stand in the sequence for good."""

    def draft(self, limits: Mapping[int, int]) -> dict[int, Draft]:
        """For each sequence a draft of at most that many tokens after the committed ones; those with none may be missing."""

    def finish(self, sequence_id: int, keep: bool) -> None:
        """The sequence has ended; `keep` its response as a source of drafts for others."""


@dataclass(slots=True)
class _Sequence:
    tenant: str
    prompt: list[int]
    local: SuffixTree | None = None  # made when the first draft is asked for
    output: list[int] = field(default_factory=list)
    in_local: int = 0  # tokens of the output that the trees have taken
    in_shared: int = 0


class SuffixDrafter:
    """Drafts of suffix trees; where both have one of the same score, the sequence's own wins."""

    def __init__(
        self, *, max_bytes: int = 64 << 20, ttl_s: float = 3600.0, alpha: float = 1.0, offset: float = 0.0, floor: float = 0.1
    ) -> None:
        self.responses = SharedResponses(max_bytes, ttl_s)
        self._rule = (alpha, offset, floor)
        self._sequences: dict[int, _Sequence] = {}

    def tick(self, now: float) -> None:
        """The time; responses that are too old vanish."""
        self.responses.tick(now)

    def start(self, sequence_id: int, tenant: str, prompt_ids: Sequence[int]) -> None:
        """A new sequence."""
        assert sequence_id not in self._sequences
        self._sequences[sequence_id] = _Sequence(tenant, list(prompt_ids[-LOCAL_CONTEXT:]))
        self.responses.append(tenant, sequence_id, prompt_ids[-SHARED_CONTEXT:])

    def append(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Committed tokens."""
        sequence = self._sequences[sequence_id]
        sequence.output += tokens
        if len(sequence.output) - sequence.in_shared > UNSEEN:
            self._share(sequence_id, sequence)

    def draft(self, limits: Mapping[int, int]) -> dict[int, Draft]:
        """The better of both trees' drafts."""
        for sequence_id in limits:
            self._share(sequence_id, self._sequences[sequence_id])
        drafts = {}
        for sequence_id, limit in limits.items():
            sequence = self._sequences[sequence_id]
            local = self._own(sequence).draft(0, limit, *self._rule)
            shared = self.responses.draft(sequence.tenant, sequence_id, limit, *self._rule)
            draft = local if local.score >= shared.score else shared
            if draft.tokens:
                drafts[sequence_id] = draft
        return drafts

    def finish(self, sequence_id: int, keep: bool) -> None:
        """The sequence's own tree goes; its response stays, if asked."""
        sequence = self._sequences[sequence_id]
        if keep:
            self._share(sequence_id, sequence)
        del self._sequences[sequence_id]
        self.responses.finish(sequence.tenant, sequence_id, keep)

    def _own(self, sequence: _Sequence) -> SuffixTree:
        if sequence.local is None:
            sequence.local = SuffixTree()
            sequence.local.append(0, sequence.prompt)
            sequence.prompt = []
        if sequence.in_local < len(sequence.output):
            sequence.local.append(0, sequence.output[sequence.in_local :])
            sequence.in_local = len(sequence.output)
        return sequence.local

    def _share(self, sequence_id: int, sequence: _Sequence) -> None:
        if sequence.in_shared < len(sequence.output):
            self.responses.append(sequence.tenant, sequence_id, sequence.output[sequence.in_shared :])
            sequence.in_shared = len(sequence.output)


@dataclass(slots=True)
class _Tenant:
    tree: SuffixTree = field(default_factory=SuffixTree)
    running: dict[int, int] = field(default_factory=dict)  # of a sequence, the number of its response
    used: OrderedDict[int, float] = field(default_factory=OrderedDict)  # when a response last grew, the oldest first

    def oldest(self) -> float:
        return next(iter(self.used.values()))


class SharedResponses:
    """A suffix tree of responses for each tenant, within `max_bytes` for all together, and none older than `ttl_s`."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self.max_bytes, self.ttl_s = max_bytes, ttl_s
        self.num_bytes = 0  # that the trees take
        self.evictions = 0
        self._now = 0.0
        self._oldest = math.inf  # no response is older
        self._next = 0
        self._tenants: dict[str, _Tenant] = {}

    @property
    def num_responses(self) -> int:
        """Responses that are remembered, running ones included."""
        return sum(len(tenant.used) for tenant in self._tenants.values())

    def tick(self, now: float) -> None:
        """Responses that last grew `ttl_s` ago vanish."""
        self._now = now
        if self._oldest + self.ttl_s > now:
            return
        for name, tenant in list(self._tenants.items()):
            while tenant.used and tenant.oldest() + self.ttl_s <= now:
                self._evict(name)
        self._oldest = min((tenant.oldest() for tenant in self._tenants.values()), default=math.inf)

    def append(self, tenant: str, sequence_id: int, tokens: Sequence[int]) -> None:
        """Tokens of a running response; the first ones start it, and start it anew after an eviction."""
        if not tokens:
            return
        owner = self._tenants.setdefault(tenant, _Tenant())
        if sequence_id not in owner.running:
            owner.running[sequence_id] = self._next
            self._next += 1
        number = owner.running[sequence_id]
        self.num_bytes -= owner.tree.num_bytes
        owner.tree.append(number, tokens)
        self.num_bytes += owner.tree.num_bytes
        owner.used[number] = self._now
        owner.used.move_to_end(number)
        self._oldest = min(self._oldest, self._now)
        while self.num_bytes > self.max_bytes and self._tenants:
            self._evict(max(self._tenants, key=lambda name: self._tenants[name].tree.num_bytes))

    def draft(self, tenant: str, sequence_id: int, limit: int, alpha: float, offset: float, floor: float) -> Draft:
        """The draft of the tenant's tree for a running response."""
        owner = self._tenants.get(tenant)
        if owner is None or sequence_id not in owner.running:
            return NO_DRAFT
        return owner.tree.draft(owner.running[sequence_id], limit, alpha, offset, floor)

    def finish(self, tenant: str, sequence_id: int, keep: bool) -> None:
        """The response grows no more; without `keep` it is forgotten."""
        owner = self._tenants.get(tenant)
        number = owner.running.pop(sequence_id, None) if owner else None
        if owner is not None and number is not None and not keep:
            self._remove(tenant, number)

    def _evict(self, tenant: str) -> None:
        """The tenant's oldest response goes."""
        owner = self._tenants[tenant]
        number = next(iter(owner.used))
        owner.running = {sequence: n for sequence, n in owner.running.items() if n != number}
        self._remove(tenant, number)
        self.evictions += 1

    def _remove(self, tenant: str, number: int) -> None:
        owner = self._tenants[tenant]
        self.num_bytes -= owner.tree.num_bytes
        del owner.used[number]
        owner.tree.remove(number)
        self.num_bytes += owner.tree.num_bytes
        if not owner.used:
            self.num_bytes -= owner.tree.num_bytes
            del self._tenants[tenant]
