"""Reading and writing safetensors files: a length, a JSON header, then the tensors' bytes without a gap.

Bytes stay bytes (numpy has no bfloat16): whoever needs numbers decodes them with `quants`. A reader trusts nothing in the
header and reads into given buffers. Written files are, byte for byte, those of the `safetensors` package: tensors in order
of item size, then of name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.planned import Place, Plan, PlannedFile, forget, open_to_read, read_at
from openarctic.formats.quants import Raw

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# Item sizes of the format's types. Ours are F32, F16 and BF16; the others are known so that they can be named in errors.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}

Shape = tuple[int, ...]
Described = Mapping[str, tuple[str, Shape]]  # name -> (dtype, shape)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: its bytes are `size` from byte `start` on."""

    name: str
    dtype: str
    shape: Shape
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; `tensors` in order of their bytes, `raw` everything before them."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, StoredTensor]
    raw: bytes
    size: int

    @property
    def sha256(self) -> str:
        """Of everything before the tensors."""
        return hashlib.sha256(self.raw).hexdigest()


class SafetensorsFile:
    """An open file: reads tensors, whole or from some byte on, into buffers. Close it, or use it as a context."""

    def __init__(self, path: str | Path) -> None:
        self.header = read_header(path)
        self._descriptor = open_to_read(self.header.path)

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, name: str, out: Raw | None = None) -> Raw:
        """A tensor's bytes (1-D), into `out` where it is given. Raises MissingError for an unknown name."""
        tensor = self._find(name)
        return self.read_part(name, 0, np.empty(tensor.size, dtype=np.uint8) if out is None else out)

    def read_part(self, name: str, offset: int, out: Raw) -> Raw:
        """Fill `out` with a tensor's bytes from `offset` on."""
        tensor = self._find(name)
        if offset + out.size > tensor.size:
            raise UserError(f"bytes {offset} to {offset + out.size} of {name} do not exist: it has {tensor.size}")
        read_at(self._descriptor, tensor.start + offset, out, self.header.path)
        return out

    def close(self) -> None:
        """Close, and let the system forget the file's pages: whoever streams checkpoints reads each byte once."""
        if self._descriptor >= 0:
            forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _find(self, name: str) -> StoredTensor:
        if name not in self.header.tensors:
            raise MissingError(f"{self.header.path} has no tensor {name}")
        return self.header.tensors[name]


def read_header(path: str | Path) -> Header:
    """The checked header of a file. Raises MissingError (no file) or CorruptError (any damage, named)."""
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"no file at {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise CorruptError(f"{path} is no safetensors file, or damaged: a header of {length} bytes in a file of {size}")
        text = file.read(length)
    entries = _parse(text, path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CorruptError(f"{path}: __metadata__ is not an object of texts")
    found = [_tensor(name, entry, 8 + length, path) for name, entry in entries.items()]
    found.sort(key=lambda tensor: (tensor.start, tensor.size))
    _check_cover(found, 8 + length, size, path)
    return Header(path, metadata, {tensor.name: tensor for tensor in found}, first + text, size)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise CorruptError(f"{path}: {double} stands twice in the header")
        return values

    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: the header is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CorruptError(f"{path}: the header is not a JSON object")
    return values


def _tensor(name: str, entry: Any, data_start: int, path: Path) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CorruptError(f"{path}: the header's entry of {name} is damaged")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BYTES if isinstance(dtype, str) else True:
        raise CorruptError(f"{path}: tensor {name} has the unknown dtype {dtype!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise CorruptError(f"{path}: shape or place of tensor {name} is damaged")
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise CorruptError(f"{path}: tensor {name} of shape {tuple(shape)} as {dtype} needs {size} bytes, not {offsets}")
    return StoredTensor(name, dtype, tuple(shape), data_start + offsets[0], size)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _check_cover(tensors: list[StoredTensor], start: int, size: int, path: Path) -> None:
    """The tensors must follow each other without gap or overlap up to the file's end."""
    at = start
    for tensor in tensors:
        if tensor.start != at:
            what = "overlaps the one before it" if tensor.start < at else f"leaves a gap of {tensor.start - at} bytes"
            raise CorruptError(f"{path}: tensor {tensor.name} {what}")
        at += tensor.size
        if at > size:
            raise CorruptError(f"{path} is cut short: {size} bytes, tensor {tensor.name} ends at {at}", "get the file again")
    if at != size:
        raise CorruptError(f"{path} has {size - at} bytes after its last tensor", "get the file again")


def plan_safetensors(files: Mapping[str, Described], metadata: Mapping[str, str]) -> Plan:
    """Headers and places of files (name -> its tensors); a tensor's name may stand in one file only."""
    planned, places = [], {}
    for number, (file_name, tensors) in enumerate(files.items()):
        entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        at = 0
        for name in sorted(tensors, key=lambda n: (-ITEM_BYTES[tensors[n][0]], n)):
            dtype, shape = tensors[name]
            size = math.prod(shape) * ITEM_BYTES[dtype]
            entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        text += b" " * (-len(text) % 8)
        header = struct.pack("<Q", len(text)) + text
        for name in tensors:
            assert name not in places, name
            begin, end = entries[name]["data_offsets"]
            places[name] = Place(number, len(header) + begin, end - begin)
        planned.append(PlannedFile(file_name, header, len(header) + at))
    return Plan(tuple(planned), places)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, tuple[str, Shape, Raw]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors that are in memory as one file; it appears when it is complete. Raises UserError for a wrong size."""
    path = Path(path)
    plan = plan_safetensors({path.name: {n: (t, s) for n, (t, s, _) in tensors.items()}}, metadata or {"format": "pt"})
    for name, (_, _, raw) in tensors.items():
        if raw.size != plan.places[name].size:
            raise UserError(f"tensor {name} has {raw.size} bytes, its shape needs {plan.places[name].size}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(plan.files[0].header)
            for name in sorted(tensors, key=lambda n: plan.places[n].offset):
                file.write(np.ascontiguousarray(tensors[name][2]).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
