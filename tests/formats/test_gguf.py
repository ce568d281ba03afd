"""GGUF round trips, splits, and damage of every kind."""

from __future__ import annotations

import random
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import read_gguf, write_gguf
from openarctic.formats.gguf import MAX_ITEMS
from openarctic.formats.quants import TYPES, quantize

METADATA = {
    "general.architecture": "arctic",
    "a.count": 7,
    "a.scale": 0.5,
    "a.flag": True,
    "a.names": ["x", "\u00e9"],
    "a.ids": [1, 2, -3],
}


def tensors(seed: int = 0) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    rng = np.random.default_rng(seed)
    out = {}
    for type_ in TYPES:
        values = rng.standard_normal((4, 256), dtype=np.float32)
        out[f"t.{type_}"] = (type_, values.shape, quantize(values, type_))
    return out


def test_round_trip(tmp_path: Path) -> None:
    [path] = write_gguf(tmp_path / "m.gguf", METADATA, tensors())
    file = read_gguf(path, verify=True)
    assert {k: file.metadata[k] for k in METADATA} == METADATA
    for name, (type_, shape, raw) in tensors().items():
        tensor = file.tensors[name]
        assert (tensor.type, tensor.shape) == (type_, shape)
        assert np.array_equal(tensor.data, raw)
    assert not list(tmp_path.glob("*.partial"))


SCALARS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False), st.text(max_size=20))
LISTS = st.one_of(
    st.lists(st.text(max_size=8), min_size=1, max_size=5), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5)
)


@settings(max_examples=60, deadline=None)
@given(
    metadata=st.dictionaries(st.from_regex(r"[a-z]{1,8}\.[a-z_]{1,8}", fullmatch=True), SCALARS | LISTS, max_size=6),
    shapes=st.lists(st.tuples(st.sampled_from(sorted(TYPES)), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5),
)
def test_whatever_is_written_is_read(metadata: dict[str, object], shapes: list[tuple[str, int, int]]) -> None:
    rng = np.random.default_rng(len(shapes))
    written = {}
    for i, (type_, rows, groups) in enumerate(shapes):
        values = rng.standard_normal((rows, 256 * groups), dtype=np.float32)
        written[f"t{i}"] = (type_, values.shape, quantize(values, type_))
    reserved = ("general.alignment", "split.")
    metadata = {k: v for k, v in metadata.items() if not k.startswith(reserved)}
    with tempfile.TemporaryDirectory() as folder:
        [path] = write_gguf(Path(folder) / "m.gguf", {"general.architecture": "arctic", **metadata}, written)
        file = read_gguf(path, verify=True)
        assert {k: file.metadata[k] for k in metadata} == metadata
        for name, (type_, shape, raw) in written.items():
            tensor = file.tensors[name]
            assert (tensor.type, tensor.shape) == (type_, shape) and np.array_equal(tensor.data, raw)


def test_splits_are_one_file(tmp_path: Path) -> None:
    paths = write_gguf(tmp_path / "m.gguf", METADATA, tensors(), max_file_bytes=16000)
    assert len(paths) > 1 and all(p.stat().st_size <= 16000 for p in paths)
    file = read_gguf(paths[0], verify=True)
    assert set(file.tensors) == set(tensors()) and file.paths == paths
    paths[-1].unlink()
    with pytest.raises(MissingError):
        read_gguf(paths[0])


def test_every_truncation_is_told(tmp_path: Path) -> None:
    [path] = write_gguf(tmp_path / "m.gguf", METADATA, tensors())
    whole = path.read_bytes()
    for size in [1, 3, 4, 7, 8, 20, 24, 50, 200, len(whole) // 2, len(whole) - 40]:
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptError):
            read_gguf(path)


def test_flipped_bits_never_crash_and_are_found_in_tensors(tmp_path: Path) -> None:
    [path] = write_gguf(tmp_path / "m.gguf", METADATA, tensors())
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(1500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole) // 4)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read_gguf(path)
        except OpenArcticError:
            pass
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptError, match="checksum"):
        read_gguf(path, verify=True)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CorruptError, match="not a GGUF"):
        read_gguf(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptError, match="empty"):
        read_gguf(path)
    with pytest.raises(UserError):
        read_gguf(tmp_path)
    with pytest.raises(MissingError):
        read_gguf(tmp_path / "none.gguf")


def test_an_array_larger_than_any_vocabulary_is_damage(tmp_path: Path) -> None:
    """An array that the file is large enough for, counted by itself or together with others."""
    half = MAX_ITEMS // 2
    for lengths, is_sound in (([MAX_ITEMS + 1], False), ([half, half], True), ([half, half, 1], False)):
        raw = b"GGUF" + struct.pack("<IQQ", 3, 0, len(lengths))
        for key, length in enumerate(lengths):
            raw += struct.pack("<QsIIQ", 1, bytes([97 + key]), 9, 0, length)
            raw += bytes(length)
        (tmp_path / "x.gguf").write_bytes(raw + bytes(32))
        if is_sound:
            assert len(read_gguf(tmp_path / "x.gguf").metadata["b"]) == half
            continue
        with pytest.raises(CorruptError, match="length of key"):
            read_gguf(tmp_path / "x.gguf")
