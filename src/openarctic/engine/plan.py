"""What the scheduler plans with: sequences, their chunks of a step, the step.

The loop reads and grows `Sequence.tokens`, sets `draft`, and reads the rest; everything else belongs to `scheduler.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from openarctic.engine.pages import common_prefix

UNLIMITED = 2**62


@dataclass(slots=True, eq=False)
class Sequence:
    """One line of tokens. The loop appends to `tokens` and sets `draft`; the fields below belong to the scheduler.

    `limit` is the most tokens in all, prompt and output. A smaller `priority` goes first. Pages are shared only with sequences of
    the same `salt`. `rows_from`: the logits of every prompt position from there on are asked for, so none of them is taken from
    the cache; None: of the last one only.
    """

    id: int
    tokens: list[int]
    limit: int = UNLIMITED
    priority: int = 0
    tenant: str = ""
    salt: str = ""
    deadline: float = math.inf
    rows_from: int | None = None
    draft: Items[int] = ()  # guessed to follow `tokens`; set before each schedule

    end_reason: str | None = field(default=None, init=False)
    pages: list[int] = field(default_factory=list, init=False)
    computed: int = field(default=0, init=False)  # positions whose keys and values stand in the pages
    cached: int = field(default=0, init=False)  # prompt tokens that came from the prefix cache, each counted once
    arrival: int = field(default=0, init=False)
    prompt_length: int = field(default=0, init=False)
    prefill_end: int = field(default=0, init=False)  # what stands before it is prefill
    reached: int = field(default=0, init=False)  # the most positions that were ever computed
    num_rows: int = field(default=0, init=False)  # no prompt row before this position is still wanted
    served_at: int = field(default=0, init=False)  # the last step with a token of this sequence
    is_promoted: bool = field(default=False, init=False)
    is_resuming: bool = field(default=False, init=False)  # was preempted or forked, and has not caught up

    def __post_init__(self) -> None:
        self.tokens = list(self.tokens)  # its own: it grows
        self.num_rows = self.rows_from or 0

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed but for the last token."""
        return self.computed >= self.prefill_end

    @property
    def left(self) -> int:
        """Tokens to compute."""
        return len(self.tokens) - self.computed

    @property
    def wants_rows(self) -> bool:
        """Whether rows of prompt positions are still to come."""
        return self.rows_from is not None and self.num_rows < self.prompt_length

    @property
    def cacheable(self) -> int:
        """How many positions may come from the cache: not those whose rows are wanted."""
        if self.wants_rows:
            return self.num_rows
        return len(self.tokens) - 1

    @property
    def level(self) -> tuple[bool, int]:
        """The class; a smaller one displaces a larger."""
        return (not self.is_promoted, self.priority)

    @property
    def rank(self) -> tuple[bool, int, int]:
        return (not self.is_promoted, self.priority, self.arrival)


@dataclass(slots=True, eq=False)
class Chunk:
    """Tokens of one sequence in a step: known ones from position `start`, then drafts."""

    sequence: Sequence
    start: int
    tokens: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def agreement(self) -> int:
        """The position up to which the chunk's tokens are the sequence's: keys, values and logits from there on are of no use."""
        known = self.sequence.tokens[self.start : self.end]
        return self.start + common_prefix(self.tokens, known)

    @property
    def rows(self) -> range:
        """Positions whose logits are wanted: the last known token's, each draft's, and where asked for those of the prompt.

        To be read before tokens are appended.
        """
        sequence = self.sequence
        first = len(sequence.tokens) - 1
        if sequence.wants_rows:
            first = min(first, max(self.start, sequence.num_rows))
        return range(min(first, self.end), self.end)


@dataclass(slots=True, eq=False)
class Plan:
    """One step. `copies` (source page, target page) come first, in this order. `room` is what was left of the step's tokens."""

    room: int
    copies: list[tuple[int, int]] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)  # deadlines that passed: no step for these
    preempted: list[Sequence] = field(default_factory=list)
    by_id: dict[int, Chunk] = field(default_factory=dict)

    @property
    def chunks(self) -> list[Chunk]:
        return list(self.by_id.values())

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.by_id.values())
