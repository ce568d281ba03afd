"""safetensors files: bytes in, the same bytes out, as the package of that name has them, and damage of every kind told."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats.quants import quantize
from openarctic.formats.safetensors import ITEM_BYTES, SafetensorsFile, plan_safetensors, read_header, write_safetensors


def tensors() -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    values = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    return {dtype.lower() + ".weight": (dtype, values.shape, quantize(values, dtype)) for dtype in ("BF16", "F32", "F16")}


def test_round_trip_whole_and_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors(), {"format": "pt", "layout": "x"})
    with SafetensorsFile(path) as file:
        assert file.header.metadata == {"format": "pt", "layout": "x"}
        for name, (dtype, shape, raw) in tensors().items():
            stored = file.header.tensors[name]
            assert (stored.dtype, stored.shape) == (dtype, shape)
            assert np.array_equal(file.read(name), raw)
            assert np.array_equal(file.read_part(name, 5, np.empty(7, np.uint8)), raw[5:12])
        with pytest.raises(UserError, match="do not exist"):
            file.read_part("f32.weight", 90, np.empty(7, np.uint8))
        with pytest.raises(MissingError, match="no tensor y"):
            file.read("y")
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_those_of_the_reference(tmp_path: Path) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(1)
    names = {"F32": ["b.weight", "a.weight"], "F16": ["experts.0", "experts.1", "experts.10", "experts.2", "\u00e9"]}
    arrays = {n: rng.standard_normal((3, 5)).astype(np.dtype(f"f{ITEM_BYTES[t]}")) for t, own in names.items() for n in own}
    ours = {n: (t, (3, 5), arrays[n].reshape(-1).view(np.uint8)) for t, own in names.items() for n in own}
    write_safetensors(tmp_path / "x.safetensors", ours, {"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == reference.save(arrays, {"format": "pt"})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 4), max_size=3).map(tuple)),
        max_size=6,
    )
)
def test_whatever_is_planned_is_read(tmp_path_factory: pytest.TempPathFactory, described: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("s") / "x"
    plan = plan_safetensors({"x": described}, {})
    path.write_bytes(plan.files[0].header + bytes(plan.files[0].size - len(plan.files[0].header)))
    header = read_header(path)
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == described
    assert {n: (t.start, t.size) for n, t in header.tensors.items()} == {n: (p.offset, p.size) for n, p in plan.places.items()}


def damaged(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [(end - begin) // 2], "data_offsets": [begin, end], **changes}


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6), "c": entry(6, 8)}, "b overlaps"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, "b leaves a gap of 2"),
        ({"a": entry(0, 12)}, "cut short"),
        ({"a": entry(0, 4)}, "4 bytes after its last"),
        ({"a": entry(0, 8, shape=[3])}, "needs 6 bytes"),
        ({"a": entry(0, 8, dtype="Q9")}, "unknown dtype 'Q9'"),
        ({"a": entry(0, 8, dtype=7)}, "unknown dtype 7"),
        ({"a": entry(0, 8, shape=[-4])}, "shape or place"),
        ({"a": entry(0, 8, shape=[True, 4])}, "shape or place"),
        ({"a": entry(0, 8, data_offsets=[0, 4, 8])}, "shape or place"),
        ({"a": {"dtype": "F16"}}, "entry of a"),
        ({"a": 3}, "entry of a"),
        ({"__metadata__": {"x": 1}, "a": entry(0, 8)}, "__metadata__"),
        (b'{"a": {"dtype":"F16","shape":[4],"data_offsets":[0,8]}, "a": 1}', "a stands twice"),
        (b"[]", "not a JSON object"),
        (b"{nonsense", "header is damaged"),
        (b"\xff\xfe{}", "header is damaged"),
        (b"[" * 100_000, "header is damaged"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_damage_is_named(tmp_path: Path, header: Any, told: str) -> None:
    with pytest.raises(CorruptError, match=told):
        read_header(damaged(tmp_path / "x.safetensors", header))


def test_foreign_and_cut_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors())
    whole = path.read_bytes()
    for size in (0, 3, 8, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptError):
            read_header(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CorruptError, match="no safetensors file"):
        read_header(path)
    with pytest.raises(MissingError):
        read_header(tmp_path / "none")
    with pytest.raises(UserError, match="its shape needs 6"):
        write_safetensors(path, {"a": ("F16", (3,), np.zeros(4, np.uint8))})


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors())
    with SafetensorsFile(path) as file:
        with path.open("r+b") as shrinking:
            shrinking.truncate(path.stat().st_size - 10)
        with pytest.raises(CorruptError, match="ends at byte"):
            file.read(list(file.header.tensors)[-1])


def test_flipped_bits_in_the_header_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors())
    whole, rng = path.read_bytes(), random.Random(0)
    length = len(read_header(path).raw)
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[rng.randrange(length)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            read_header(path)
        except OpenArcticError:
            pass
