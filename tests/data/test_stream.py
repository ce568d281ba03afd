from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.data.stream import DomainStream
from openarctic.errors import UserError
from tests.data.corpora import write_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream")


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    sequence_length=st.integers(2, 50),
    block=st.integers(1, 16),
    seed=st.integers(0, 99),
)
def test_every_epoch_has_every_token_once(folder: Path, lengths: list[int], sequence_length: int, block: int, seed: int) -> None:
    stream = DomainStream(write_shards(folder / "web", lengths), seed, block=block)
    total = sum(lengths)
    epochs = 3
    tokens = np.concatenate(
        [
            piece
            for start in range(0, epochs * total, sequence_length)
            for piece in stream.read(start, min(sequence_length, epochs * total - start))
        ]
    )
    for epoch in range(epochs):
        assert Counter(tokens[epoch * total : (epoch + 1) * total].tolist()) == Counter(range(total))


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 5000), length=st.integers(1, 400))
def test_any_place_reads_alone_as_it_reads_in_passing(folder: Path, start: int, length: int) -> None:
    shards = write_shards(folder / "code", [9, 1, 30, 4, 4, 17, 2] * 5)
    whole = np.concatenate(DomainStream(shards, 4, block=4).read(0, 6000))
    assert (np.concatenate(DomainStream(shards, 4, block=4).read(start, length)) == whole[start : start + length]).all()


def test_epochs_differ_and_seeds_differ(folder: Path) -> None:
    shards = write_shards(folder / "sql", [10] * 50)
    orders = [
        tuple(piece.document for piece in DomainStream(shards, seed).pieces(start, 500)) for seed in (0, 1) for start in (0, 500)
    ]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(50)) for order in orders)
    plain = DomainStream(shards, shuffle=False).pieces(0, 500)
    assert [piece.document for piece in plain] == list(range(50))


def test_documents_over_the_limit_are_left_out_and_counted(folder: Path) -> None:
    shards = write_shards(folder / "long", [5, 50, 6, 51, 7])
    stream = DomainStream(shards, max_document_tokens=50)
    assert (stream.num_left_out, stream.num_tokens) == (1, 68)
    assert {piece.document for piece in stream.pieces(0, 68)} == {0, 1, 2, 4}
    with pytest.raises(UserError, match=r"all 5 documents .* are longer than 4 tokens"):
        DomainStream(shards, max_document_tokens=4)
