from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openarctic.data import TokenShards
from openarctic.data.shards import MANIFEST, token_dtype
from openarctic.errors import CorruptError, MissingError, UserError
from tests.data.corpora import write_shards

LENGTHS = [5, 1, 9, 30, 2, 2, 7, 4, 11]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "web", LENGTHS, per_shard=4)
    return tmp_path / "web"


def test_documents_are_numbered_through_all_shards(folder: Path) -> None:
    shards = TokenShards(folder)
    starts = np.cumsum([0, *LENGTHS])
    assert (shards.num_documents, shards.num_tokens) == (9, 71)
    for document, length in enumerate(LENGTHS):
        assert shards.read(document, 0, length).tolist() == list(range(starts[document], starts[document + 1]))
    assert shards.read(3, 4, 2).tolist() == [19, 20]
    for low in range(10):
        for high in range(low, 12):
            assert shards.lengths(low, high).tolist() == LENGTHS[low:high]


def test_a_file_that_was_cut_off_is_found_by_its_size(folder: Path) -> None:
    path = folder / "train-00001.tokens"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptError, match=r"train-00001.tokens has .* bytes, the manifest says .*cut off"):
        TokenShards(folder, verify=False)


@pytest.mark.parametrize("suffix", ["tokens", "ends"])
def test_a_changed_byte_is_found_by_its_checksum(folder: Path, suffix: str) -> None:
    path = folder / f"train-00002.{suffix}"
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptError, match=f"train-00002.{suffix} is damaged: its SHA-256"):
        TokenShards(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "train-00000.ends").unlink()
    with pytest.raises(CorruptError, match=r"train-00000.ends is missing"):
        TokenShards(folder)


def test_manifests_that_are_not_ours(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"has no manifest.json"):
        TokenShards(tmp_path)
    path = folder / MANIFEST
    good = json.loads(path.read_text())
    for change, error in (
        ({"format": 2}, UserError),
        ({"shards": 3}, CorruptError),
        ({"dtype": "float32"}, CorruptError),
        ({"vocab_size": "many"}, CorruptError),
        ({"surprise": 1}, CorruptError),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(error):
            TokenShards(folder)
    path.write_text(path.read_text()[:40])
    with pytest.raises(CorruptError, match="is not JSON"):
        TokenShards(folder)


def test_a_split_without_documents_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="has no documents for validation"):
        TokenShards(folder, "validation")


def test_a_model_with_fewer_rows_is_refused(folder: Path) -> None:
    shards = TokenShards(folder)
    shards.check_vocab(71)
    with pytest.raises(UserError, match=r"token ids up to 70, the model's vocab_size is 70"):
        shards.check_vocab(70)


def test_the_narrowest_type_holds_every_id() -> None:
    assert [token_dtype(size) for size in (256, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
