from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.data.batch import IGNORED
from openarctic.data.packing import lay_out, pieces_between


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(2, 16))
def test_pieces_cover_all_tokens_once(lengths: list[int], sequence_length: int) -> None:
    ends = np.cumsum(lengths)
    covered = [
        (piece.document, piece.begin + i)
        for start in range(0, int(ends[-1]), sequence_length)
        for piece in pieces_between(ends, start, min(start + sequence_length, int(ends[-1])))
        for i in range(piece.length)
    ]
    assert covered == [(document, token) for document, length in enumerate(lengths) for token in range(length)]


def test_a_sequence_of_three_pieces() -> None:
    packed = lay_out([np.array([5, 6]), np.array([7]), np.array([8, 9, 10])], 8, filler=1)
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 1, 1]
    assert packed.labels.tolist() == [IGNORED, 6, IGNORED, IGNORED, 9, 10, IGNORED, IGNORED]
    assert packed.document_ids.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert packed.position_ids.tolist() == [0, 1, 0, 0, 1, 2, 0, 1]
