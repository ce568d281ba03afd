"""GGUF round trips, splits, and damage of every kind."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import read_gguf, write_gguf
from openarctic.formats.quants import TYPES, dequantize, quantize

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
        values = rng.standard_normal((4, 64), dtype=np.float32)
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
        values = rng.standard_normal((rows, 32 * groups), dtype=np.float32)
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
    paths = write_gguf(tmp_path / "m.gguf", METADATA, tensors(), max_file_bytes=7000)
    assert len(paths) > 1 and all(p.stat().st_size <= 7000 for p in paths)
    file = read_gguf(paths[0], verify=True)
    assert set(file.tensors) == set(tensors()) and file.paths == paths
    paths[-1].unlink()
    with pytest.raises(MissingError):
        read_gguf(paths[0])


@pytest.mark.parametrize("type_", TYPES)
def test_numbers_are_those_of_the_reference(type_: str) -> None:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((16, 96)) * rng.choice([1e-4, 1, 300], (16, 1))).astype(np.float32)
    values[3] = 0
    reference = gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, type_))
    raw = quantize(values, type_)
    assert np.array_equal(raw, np.ascontiguousarray(reference).view(np.uint8).reshape(-1))
    wanted = gguf.quants.dequantize(reference, getattr(gguf.GGMLQuantizationType, type_))
    assert np.array_equal(dequantize(raw, type_, values.shape), wanted)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(TYPES)), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_quantising_is_close(type_: str, seed: int, scale: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((2, 32)) * scale).astype(np.float32)
    steps = {"F32": 1e9, "F16": 2000, "Q8_0": 250, "Q4_0": 14, "Q4_1": 14, "Q5_0": 28, "Q5_1": 28, "BF16": 250}[type_]
    error = np.abs(dequantize(quantize(values, type_), type_, values.shape) - values).max()
    assert error <= np.ptp(values) / steps + np.abs(values).max() / 1000


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
