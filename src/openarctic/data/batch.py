"""What a training step takes.

B sequences, S tokens each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the label that does not count, as everywhere in the field


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed sequences. Attention stays inside a document: `document_ids` are equal exactly where tokens may see each other.

    Labels lie under their own tokens, as in transformers: `labels[b, t]` is `input_ids[b, t]`, the target of position t - 1, so
    whoever computes the loss shifts by one. The first token of every document (or piece of one) has -100, for nothing before it
    belongs to it. Positions restart at 0 with every document or piece.
    """

    input_ids: NDArray[np.int64]  # [B, S]
    labels: NDArray[np.int64]  # [B, S], -100 does not count
    document_ids: NDArray[np.int32]  # [B, S], 0, 1, ... within each sequence
    position_ids: NDArray[np.int32]  # [B, S]
    domains: NDArray[np.int32]  # [B], index into the source's list of domains

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.input_ids)
