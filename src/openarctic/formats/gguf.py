"""Reading and writing GGUF files (version 3, little-endian), whole or as splits.

A reader trusts nothing: every count, length and offset is checked against the file's size before it is used, and any
damage is a CorruptError that names it. A writer plans first: `plan_gguf` knows every byte's place before the first tensor
comes, so that files of any size can be written piece by piece. Files appear when they are complete, the first split last.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.planned import Place, Plan, PlannedFile, chunks, create, sync, write_at
from openarctic.formats.quants import TYPE_OF_CODE, TYPES, F32Array, Raw, byte_size, dequantize

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_COUNT = 1 << 20  # keys or tensors; the real 480B has 493 tensors
MAX_ITEMS = 1 << 22  # in all arrays; the largest real ones are vocabularies, some 4 x 256,000
MAX_DIMENSIONS = 4
CHECKSUM_KEY = "openarctic.tensors.sha256"
SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$")

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")

Shape = tuple[int, ...]
# (type, shape, raw bytes) of one tensor to write.
TensorData = tuple[str, Shape, Raw]


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor in a file: `shape` is row-major (the file's order reversed), `data` its raw bytes, mapped.

    Its bytes begin at `offset` of the file `path`, for readers that must not map it.
    """

    name: str
    type: str
    shape: Shape
    data: Raw
    path: Path
    offset: int

    def dequantize(self) -> F32Array:
        """Its values as float32."""
        return dequantize(self.data, self.type, self.shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """Everything in a GGUF file; splits are joined."""

    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    paths: tuple[Path, ...]

    def dequantize(self, name: str) -> F32Array:
        """Values of one tensor. Raises CorruptError when it is not there."""
        if name not in self.tensors:
            raise CorruptError(f"{self.paths[0]} has no tensor {name}")
        return self.tensors[name].dequantize()

    def verify(self) -> None:
        """Compare the tensors with the checksum written beside them. Raises CorruptError; silent without one."""
        expected = self.metadata.get(CHECKSUM_KEY)
        if expected is None:
            return
        stored = {t.name: (t.type, chunks(t.path, t.offset, t.data.size)) for t in self.tensors.values()}
        if tensors_sha256(stored) != expected:
            raise CorruptError(f"{self.paths[0]}: tensor data does not match its checksum", "get the file again")


def tensors_sha256(tensors: Mapping[str, tuple[str, Iterable[Raw | memoryview]]]) -> str:
    """sha256 over name, type and bytes of all tensors (name -> type and its bytes in pieces) in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        type_, pieces = tensors[name]
        digest.update(f"{name}\0{type_}\0".encode())
        for piece in pieces:
            digest.update(piece if isinstance(piece, memoryview) else np.ascontiguousarray(piece).data)
    return digest.hexdigest()


def read_gguf(path: str | Path, *, verify: bool = False) -> GGUFFile:
    """Open a file, or all splits when `path` is the first of them (`x-00001-of-0000N.gguf`).

    Raises MissingError (no such file), UserError (not a file), CorruptError (damaged, foreign, of an unknown type).
    """
    first = Path(path)
    metadata, tensors = _read_one(first)
    paths = [first]
    count = metadata.get("split.count", 1)
    if count != 1:
        for other in _other_splits(first, count):
            _, more = _read_one(other)
            doubled = sorted(set(more) & set(tensors))
            if doubled:
                raise CorruptError(f"{other}: tensor {doubled[0]} stands in two splits")
            tensors.update(more)
            paths.append(other)
        wanted = metadata.get("split.tensors.count", len(tensors))
        if wanted != len(tensors):
            raise CorruptError(f"{first}: {len(tensors)} tensors in all splits, {wanted} expected")
    file = GGUFFile({k: v for k, v in metadata.items() if not k.startswith("split.")}, tensors, tuple(paths))
    if verify:
        file.verify()
    return file


def _other_splits(first: Path, count: Any) -> list[Path]:
    match = SPLIT_NAME.match(first.name)
    if match is None or not isinstance(count, int) or int(match["count"]) != count or int(match["no"]) != 1:
        raise CorruptError(f"{first} is a split, but not named like the first of {count}")
    others = [first.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(2, count + 1)]
    for other in others:
        if not other.exists():
            raise MissingError(f"split {other} is missing", f"{first.name} needs all {count} files beside it")
    return others


class _Cursor:
    """Reads values from a file's bytes, never past the end."""

    def __init__(self, data: Raw, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self.items_left = MAX_ITEMS
        self._view = data.data  # slices of it cost a fraction of an array's, and a vocabulary takes 100,000

    def fail(self, what: str) -> CorruptError:
        return CorruptError(f"{self.path}: {what} (at byte {self.at})", "the file is damaged or not GGUF")

    def take(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self._view):
            raise self.fail(f"the file ends inside {what}")
        piece = self._view[self.at : end].tobytes()
        self.at = end
        return piece

    def scalar(self, code: int, what: str) -> Any:
        form = _SCALARS[code]
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, what: str, limit: int) -> int:
        value: int = self.scalar(10, what)
        if value > limit:
            raise self.fail(f"{what} is {value}, more than {limit}")
        return value

    def string(self, what: str) -> str:
        length = self.count(f"length of {what}", len(self.data))
        return self.take(length, what).decode("utf-8", "surrogateescape")

    def strings(self, count: int, what: str) -> list[str]:
        """As many times `string`, which it leaves to say what is wrong."""
        view, at, found = self._view, self.at, []
        for _ in range(count):
            start = at + _LENGTH.size
            if start > len(view):
                break
            at = start + _LENGTH.unpack_from(view, at)[0]
            if at > len(view):
                break
            found.append(str(view[start:at], "utf-8", "surrogateescape"))
            self.at = at
        return found if len(found) == count else [self.string(what)]

    def value(self, what: str) -> Any:
        code = self.scalar(4, f"type of {what}")
        if code == _STRING:
            return self.string(what)
        if code == _ARRAY:
            return self.array(what)
        if code not in _SCALARS:
            raise self.fail(f"{what} has the unknown type {code}")
        return self.scalar(code, what)

    def array(self, what: str) -> list[Any]:
        code = self.scalar(4, f"type of {what}")
        count = self.count(f"length of {what}", self.items_left)
        self.items_left -= count
        if code == _STRING:
            return self.strings(count, what)
        if code not in _SCALARS:
            raise self.fail(f"{what} holds items of the unknown type {code}")
        form = _SCALARS[code]
        raw = self.take(count * struct.calcsize(form), what)
        return list(np.frombuffer(raw, dtype="?" if code == 7 else form).tolist())


def _read_one(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    cursor = _Cursor(_map(path), path)
    if cursor.take(4, "the magic number") != MAGIC:
        raise CorruptError(f"{path} is not a GGUF file", "its first bytes are not GGUF")
    version = cursor.scalar(4, "the version")
    if version not in (2, VERSION):
        raise CorruptError(f"{path}: GGUF version {version} is not supported", "versions 2 and 3 are")
    tensor_count = cursor.count("the number of tensors", MAX_COUNT)
    key_count = cursor.count("the number of keys", MAX_COUNT)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string("a key")
        if key in metadata:
            raise cursor.fail(f"key {key!r} stands twice")
        metadata[key] = cursor.value(f"key {key!r}")
    headers = [_read_header(cursor) for _ in range(tensor_count)]
    alignment = metadata.pop("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, type_, shape, offset in headers:
        size = byte_size(type_, shape)
        if offset % alignment or start + offset + size > len(cursor.data):
            raise CorruptError(f"{path}: tensor {name} lies outside the file", "the file is cut short or damaged")
        if name in tensors:
            raise CorruptError(f"{path}: tensor {name} stands twice")
        data = cursor.data[start + offset : start + offset + size]
        tensors[name] = GGUFTensor(name, type_, shape, data, path, start + offset)
    return metadata, tensors


def _map(path: Path) -> Raw:
    if not path.exists():
        raise MissingError(f"no model file at {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file", "give the path of a .gguf file")
    if path.stat().st_size == 0:
        raise CorruptError(f"{path} is empty")
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_header(cursor: _Cursor) -> tuple[str, str, Shape, int]:
    name = cursor.string("a tensor's name")
    dimensions = cursor.scalar(4, f"dimensions of {name}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.count(f"shape of {name}", 1 << 40) for _ in range(dimensions))[::-1]
    code = cursor.scalar(4, f"type of {name}")
    if code not in TYPE_OF_CODE:
        raise cursor.fail(f"tensor {name!r} has the unknown type {code} (known: {', '.join(TYPES)})")
    type_ = TYPE_OF_CODE[code]
    if math.prod(shape) == 0 or shape[-1] % TYPES[type_].block_values:
        raise cursor.fail(f"tensor {name!r} of shape {shape} cannot be {type_}")
    return name, type_, shape, cursor.scalar(10, f"offset of {name}")


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorData],
    max_file_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a file, or splits of at most `max_file_bytes` named `x-00001-of-0000N.gguf`; returns their paths.

    Python ints become uint32 (uint64 when larger, int32 when negative), floats float32. A checksum is added.
    Raises UserError when a tensor does not fit its type or a split.
    """
    path = Path(path)
    for name, (type_, shape, raw) in tensors.items():
        if byte_size(type_, shape) != raw.size:
            raise UserError(f"tensor {name} of shape {shape} as {type_} needs {byte_size(type_, shape)} bytes, not {raw.size}")
    plan = plan_gguf(path.name, metadata, {n: (t, s) for n, (t, s, _) in tensors.items()}, max_file_bytes)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        create(plan, partial)
        for name, (_, _, raw) in tensors.items():
            place = plan.places[name]
            write_at(partial / plan.files[place.file].name, place.offset, raw)
        write_checksum(plan, partial, tensors_sha256({n: (t, (raw,)) for n, (t, _, raw) in tensors.items()}))
        return publish(plan, partial, path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def plan_gguf(
    name: str, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, Shape]], max_file_bytes: int | None = None
) -> Plan:
    """Headers and places of a file `name`, or of its splits, for tensors of given type and shape, in their order.

    The checksum's value is left open: `write_checksum` fills it in. Raises as `write_gguf`.
    """
    # Last of the keys, so that its place is known from the length of the others.
    full = {**{k: v for k, v in metadata.items() if k != CHECKSUM_KEY}, CHECKSUM_KEY: "0" * 64}
    groups = _split(full, tensors, max_file_bytes)
    count = len(groups)
    stem = Path(name).stem
    names = [f"{stem}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)] if count > 1 else [name]
    files: list[PlannedFile] = []
    places: dict[str, Place] = {}
    checksum_at = 0
    for i, group in enumerate(groups):
        own = {"split.no": i, "split.count": count, "split.tensors.count": len(tensors)} if count > 1 else {}
        keys = _encode_metadata({**own, **full} if i == 0 else own)
        if i == 0:
            checksum_at = 24 + len(keys) - 64
        header, offsets = _encode_header(keys, len(own) + (len(full) if i == 0 else 0), group)
        at = len(header)
        for tensor, offset in offsets.items():
            size = byte_size(*group[tensor])
            places[tensor] = Place(i, len(header) + offset, size)
            at = len(header) + offset + size
        files.append(PlannedFile(names[i], header, -(-at // ALIGNMENT) * ALIGNMENT))
    return Plan(tuple(files), places, checksum_at)


def write_checksum(plan: Plan, folder: Path, sha256: str) -> None:
    """Put the tensors' checksum where the plan left room for it."""
    assert plan.checksum_at is not None
    write_at(folder / plan.files[0].name, plan.checksum_at, sha256.encode())


def publish(plan: Plan, partial: Path, folder: Path) -> tuple[Path, ...]:
    """Move a plan's complete files from `partial` to where they belong, the first split last: readers begin with it."""
    for file in reversed(plan.files):
        sync(partial / file.name)
        os.replace(partial / file.name, folder / file.name)
    sync(folder)
    return tuple(folder / file.name for file in plan.files)


def stored_pieces(plan: Plan, folder: Path, types: Mapping[str, str]) -> dict[str, tuple[str, Iterator[memoryview]]]:
    """A plan's tensors as they stand in `folder`, for `tensors_sha256`."""
    return {
        name: (types[name], chunks(folder / plan.files[place.file].name, place.offset, place.size))
        for name, place in plan.places.items()
    }


def _split(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, Shape]], limit: int | None
) -> list[dict[str, tuple[str, Shape]]]:
    if limit is None:
        return [dict(tensors)]
    header = len(_encode_metadata(metadata)) + 200 * len(tensors) + 4096
    groups: list[dict[str, tuple[str, Shape]]] = [{}]
    used = header
    for name, tensor in tensors.items():
        size = byte_size(*tensor) + ALIGNMENT
        if used + size > limit and groups[-1]:
            groups.append({})
            used = 200 * len(tensors) + 4096
        if used + size > limit:
            raise UserError(f"tensor {name} of {size} bytes does not fit a file of {limit} bytes")
        groups[-1][name] = tensor
        used += size
    return groups


def _encode_header(keys: bytes, key_count: int, tensors: Mapping[str, tuple[str, Shape]]) -> tuple[bytes, dict[str, int]]:
    """A file's bytes before the tensors' data, and each tensor's offset in that."""
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), key_count) + keys)
    offsets: dict[str, int] = {}
    offset = 0
    for name, (type_, shape) in tensors.items():
        header += _encode_string(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}QIQ", *shape[::-1], TYPES[type_].code, offset)
        offsets[name] = offset
        offset += -(-byte_size(type_, shape) // ALIGNMENT) * ALIGNMENT
    return bytes(header + bytes(-len(header) % ALIGNMENT)), offsets


def _encode_string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    out = bytearray()
    for key, value in metadata.items():
        code = _code_of(value, key)
        out += _encode_string(key) + struct.pack("<I", code) + _encode_value(value, code, key)
    return bytes(out)


def _code_of(value: Any, key: str) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, int):
        return (5 if value >= -(1 << 31) else 11) if value < 0 else (4 if value < 1 << 32 else 10)
    if isinstance(value, float):
        return 6
    if isinstance(value, str):
        return _STRING
    if isinstance(value, Sequence) and value:
        return _ARRAY
    raise UserError(f"metadata key {key} has a value that GGUF cannot hold: {value!r}")


def _encode_value(value: Any, code: int, key: str) -> bytes:
    if code == _STRING:
        return _encode_string(value)
    if code != _ARRAY:
        return struct.pack(_SCALARS[code], value)
    codes = {_code_of(item, key) for item in value}
    item = 5 if codes == {4, 5} else codes.pop()
    if item == 4 and all(v < 1 << 31 for v in value):
        item = 5  # the field writes small integer arrays (token types) as int32
    head = struct.pack("<IQ", item, len(value))
    return head + b"".join(_encode_value(v, item, key) for v in value)
