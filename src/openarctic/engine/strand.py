"""Candidates that have written the same so far: one sequence, one row of logits and one mask serve them all, until they part.

Rows of logits go in, tokens come out. A row gives one chosen token and those that the grammar forces after it: the same as if
each had been chosen from a row of its own, since its mask would have left nothing else. Every candidate draws for itself, so
what it writes does not depend on the company it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.candidate import Candidate
from openarctic.engine.pages import common_prefix
from openarctic.engine.sampler import KERNELS
from openarctic.native._native import summarize

if TYPE_CHECKING:
    from openarctic.engine.constraint import Follower  # llguidance is loaded where there is a grammar


@dataclass(frozen=True, slots=True)
class Rows:
    """Logits [n, vocab] of a step, and of each row its first largest one and the log of the sum of exponentials [n, 2]."""

    logits: NDArray[np.float32]
    summaries: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.logits[part], self.summaries[part])


@dataclass(slots=True, eq=False)
class Strand:
    """Some candidates of one request, and where their text stands in the grammar.

    `agreed` counts the tokens of the last draft that they chose themselves.
    """

    candidates: list[Candidate]
    follower: Follower | None = None
    forces_tokens: bool = True
    agreed: int = 0

    @property
    def ids(self) -> list[int]:
        """What they have written; who ended may have less of it."""
        return max((candidate.ids for candidate in self.candidates), key=len)

    @property
    def live(self) -> list[Candidate]:
        """Those that have not ended."""
        return [candidate for candidate in self.candidates if candidate.finish_reason is None]

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return not self.live

    def take(self, rows: Rows, draft: Sequence[int]) -> list[Strand]:
        """Reads the row after the last token, then, as long as choices agree with `draft`, those after the draft's.

        Gives the strands that it parts into, at least one. What each candidate wrote is the same without any draft.
        """
        parted: list[Strand] = []
        reading = [self]
        self.agreed = 0
        while reading:
            strand = reading.pop()
            before = len(strand.ids)
            for part in strand._choose(rows.logits[strand.agreed], rows.summaries[strand.agreed]):
                new = part.ids[before:]
                same = common_prefix(new, draft[strand.agreed :])
                part.agreed = strand.agreed + same
                is_done = part.is_over or same < len(new)
                (parted if is_done else reading).append(part)
        return parted

    def _choose(self, row_V: NDArray[np.float32], summary: NDArray[np.float32]) -> list[Strand]:
        """A strand for each token that is chosen, and one of those that ended before: none is lost."""
        follower = self.follower
        bits = follower.bits(len(row_V)) if follower else b""
        if follower and follower.is_stuck:
            for candidate in self.live:
                candidate.finish("grammar")
            return [self]
        known = summarize(KERNELS, row_V, bits) if bits else (int(summary[0]), float(summary[1]))
        ended = [candidate for candidate in self.candidates if candidate.finish_reason is not None]
        chosen: dict[int, list[Candidate]] = {}
        for candidate in self.live:
            chosen.setdefault(candidate.choose(row_V, bits, known), []).append(candidate)
        first, *others = chosen.values()
        copies = [Strand(each, follower and follower.copy(), self.forces_tokens) for each in others]  # before it moves
        parts = [Strand(first, follower, self.forces_tokens), *copies]
        for part, token in zip(parts, chosen, strict=True):
            part._write(token)
        return [*parts, Strand(ended)] if ended else parts

    def _write(self, token: int) -> None:
        """Adds a chosen token, and those that the grammar forces after it."""
        self._append(token)
        follower = self.follower
        # A candidate whose tokens are scored needs a row for each.
        if follower is None or not self.forces_tokens or any(candidate.is_scored for candidate in self.candidates):
            return
        while not self.is_over and (forced := follower.forced()) is not None:
            for candidate in self.live:
                candidate.sampler.force(forced)
            self._append(forced)

    def _append(self, token: int) -> None:
        follower = self.follower
        going = [candidate for candidate in self.live if not candidate.is_ended_by(token, has_grammar=follower is not None)]
        if going and follower:
            follower.advance(token)
        is_complete = bool(going) and follower is not None and follower.is_complete
        for candidate in going:
            candidate.append(token)
            if is_complete and follower:
                candidate.finish("grammar" if follower.is_stuck else "stop")
            elif len(candidate.ids) >= candidate.limit:
                candidate.finish("length")
