"""Speculation as the loop sees it: drafts before a step, what came of them after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openarctic.engine.drafts import Drafter
from openarctic.engine.speculation import SpeculationPolicy


@dataclass(slots=True, eq=False)
class Speculator:
    """A drafter, and the policy that says how much of its drafts to verify. `is_costly`: the drafter's time counts (a model)."""

    drafter: Drafter
    is_costly: bool = False
    clock: Callable[[], float] = time.monotonic
    policy: SpeculationPolicy = field(default_factory=SpeculationPolicy)
    _known: set[int] = field(default_factory=set)

    def start(self, id: int, tenant: str, prompt: Sequence[int], first: Sequence[int]) -> None:
        """A sequence has its first tokens."""
        self.drafter.start(id, tenant, prompt)
        self._known.add(id)
        self.append(id, first)

    def append(self, id: int, tokens: Sequence[int]) -> None:
        """A sequence has grown."""
        if tokens:
            self.drafter.append(id, tokens)

    def finish(self, id: int) -> None:
        """A sequence has ended."""
        if id in self._known:
            self._known.remove(id)
            self.drafter.finish(id, keep=True)
            self.policy.forget(id)

    def propose(self, room: Mapping[int, int], num_tokens: int) -> dict[int, list[int]]:
        """Drafts by sequence, each at most `room` long, for a step that has `num_tokens` without them."""
        started = self.clock()
        self.drafter.tick(started)
        limits = self.policy.limits(num_tokens, room)
        if not limits:
            return {}
        drafts = self.drafter.draft(limits)
        if self.is_costly and drafts:
            self.policy.observe_drafting(max(len(draft.tokens) for draft in drafts.values()), self.clock() - started)
        lengths = self.policy.choose(num_tokens, len(room), drafts)  # also told of drafts that were asked for in vain
        return {id: list(drafts[id].tokens[:length]) for id, length in lengths.items()}

    def observe(self, num_tokens: int, num_sequences: int, outcomes: Mapping[int, tuple[int, int]], seconds: float) -> None:
        """A step is over."""
        self.policy.observe(num_tokens, max(num_sequences, 1), outcomes, seconds)
