"""Documents laid end to end and cut into sequences of equal length: every sequence is full, no token is lost or read twice.

A document that crosses the end of a sequence goes on in the next one, as a piece of its own: it cannot see what stands before.

P pieces, S tokens a sequence, D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openarctic.data.batch import IGNORED


class Piece(NamedTuple):
    """Part of a document."""

    document: int
    begin: int  # its first token within the document
    length: int


class Packed(NamedTuple):
    """One sequence [S], as in `Batch`."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    document_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]


def pieces_between(ends_D: NDArray[np.int64], start: int, stop: int) -> Iterator[Piece]:
    """The pieces that make up tokens start to stop - 1 of documents laid end to end; document i ends before token ends_D[i]."""
    index = int(np.searchsorted(ends_D, start, "right"))
    while start < stop:
        begins_at = int(ends_D[index - 1]) if index else 0
        ends_at = min(int(ends_D[index]), stop)
        if ends_at > start:
            yield Piece(index, start - begins_at, ends_at - start)
        start = max(start, ends_at)
        index += 1


def lay_out(pieces: Sequence[NDArray[Any]], length: int, filler: int = 0) -> Packed:
    """Token ids of pieces as one sequence of `length`; what they leave free is a document of `filler` that does not count."""
    input_ids = np.full(length, filler, np.int64)
    labels = np.full(length, IGNORED, np.int64)
    document_ids = np.full(length, len(pieces), np.int32)
    position_ids = np.zeros(length, np.int32)
    at = 0
    for number, piece in enumerate(pieces):
        here = slice(at, at + len(piece))
        input_ids[here] = piece
        labels[at + 1 : here.stop] = piece[1:]
        document_ids[here] = number
        position_ids[here] = np.arange(len(piece))
        at = here.stop
    position_ids[at:] = np.arange(length - at)
    return Packed(input_ids, labels, document_ids, position_ids)
