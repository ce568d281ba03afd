"""Text columns of Arrow IPC streams, the files of Hugging Face datasets on disk, read without pyarrow.

A stream is a schema and record batches, each a FlatBuffers table and a body of plain buffers (Arrow columnar format 1.5, sections
"Serialization and Interprocess Communication" and "Physical memory layout"). One record batch is in memory at a time.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openarctic.errors import CorruptError, UserError

_FILE_MAGIC = b"ARROW1\0\0"  # the file format is a stream between two magics
_CONTINUATION = -1
_SCHEMA, _RECORD_BATCH = 1, 3
# Codes of the union `Type` in Schema.fbs.
_UTF8, _LARGE_UTF8 = 5, 20
_TEXT = {_UTF8: "<i4", _LARGE_UTF8: "<i8"}  # code -> type of its offsets
_NULL, _STRUCT, _FIXED_SIZE_LIST = 1, 13, 16
_WITH_OFFSETS_AND_DATA = {4, _UTF8, 19, _LARGE_UTF8}  # binary and text
_FIXED_WIDTH = {2, 3, 6, 7, 8, 9, 10, 11, 15, 18}  # numbers, times, fixed binary
_LISTS = {12, 17, 21}


def read_text_column(path: Path, name: str) -> Iterator[str | None]:
    """The values of a text column, row by row; None where it is null.

    Raises UserError for a column that is not there (naming those that are), is no text, or follows what cannot be stepped over;
    CorruptError for a file that is cut off or no Arrow stream.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            yield from _Stream(raw, path).values(name)
    except (struct.error, IndexError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise CorruptError(f"{path} is damaged, or is no Arrow stream: {error}", "restore the file") from error


class _Table(NamedTuple):
    """A FlatBuffers table at a place in a buffer."""

    raw: mmap.mmap
    at: int

    def slot(self, number: int) -> int:
        """Where a field lies; 0 where it has its default."""
        (back,) = struct.unpack_from("<i", self.raw, self.at)
        vtable = self.at - back
        (size,) = struct.unpack_from("<H", self.raw, vtable)
        if 4 + 2 * number >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self.raw, vtable + 4 + 2 * number)
        return self.at + offset if offset else 0

    def integer(self, number: int, form: str) -> int:
        """A number."""
        at = self.slot(number)
        return int(struct.unpack_from(form, self.raw, at)[0]) if at else 0

    def follow(self, number: int) -> int:
        """Where an offset points to; 0 where there is none."""
        at = self.slot(number)
        return at + struct.unpack_from("<I", self.raw, at)[0] if at else 0

    def table(self, number: int) -> _Table | None:
        """A table inside this one."""
        at = self.follow(number)
        return _Table(self.raw, at) if at else None

    def tables(self, number: int) -> list[_Table]:
        """A vector of tables."""
        at = self.follow(number)
        if not at:
            return []
        (length,) = struct.unpack_from("<I", self.raw, at)
        places = range(at + 4, at + 4 + 4 * length, 4)
        return [_Table(self.raw, place + struct.unpack_from("<I", self.raw, place)[0]) for place in places]

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        at = self.follow(number)
        if not at:
            return []
        (length,) = struct.unpack_from("<I", self.raw, at)
        return [(int(a), int(b)) for a, b in struct.iter_unpack("<qq", self.raw[at + 4 : at + 4 + 16 * length])]

    def text(self, number: int) -> str:
        """A string."""
        at = self.follow(number)
        if not at:
            return ""
        (length,) = struct.unpack_from("<I", self.raw, at)
        return self.raw[at + 4 : at + 4 + length].decode()


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a text column's description and buffers stand among those of a record batch."""

    node: int
    buffer: int
    offset_type: str


class _Stream:
    def __init__(self, raw: mmap.mmap, path: Path) -> None:
        self._raw = raw
        self._path = path

    def values(self, name: str) -> Iterator[str | None]:
        column = None
        for kind, header, body in self._messages():
            if kind == _SCHEMA:
                column = self._find(header, name)
            elif kind == _RECORD_BATCH:
                if column is None:
                    raise ValueError("a record batch stands before the schema")
                yield from self._batch(header, body, column)
        if column is None:
            raise ValueError("it has no schema")

    def _messages(self) -> Iterator[tuple[int, _Table, int]]:
        """Kind, header and place of the body of each message, to the end of the stream."""
        at = len(_FILE_MAGIC) if self._raw[: len(_FILE_MAGIC)] == _FILE_MAGIC else 0
        while at < len(self._raw):
            (size,) = struct.unpack_from("<i", self._raw, at)
            if size == _CONTINUATION:
                at += 4
                (size,) = struct.unpack_from("<i", self._raw, at)
            if size == 0:
                return
            message = _Table(self._raw, at + 4 + struct.unpack_from("<I", self._raw, at + 4)[0])
            body = at + 4 + size
            length = message.integer(3, "<q")
            header = message.table(2)
            if size < 0 or length < 0 or header is None or body + length > len(self._raw):
                raise ValueError(f"the message at byte {at} does not fit into {len(self._raw)} bytes")
            yield message.integer(1, "<B"), header, body
            at = body + length

    def _find(self, schema: _Table, name: str) -> _Column:
        node = buffer = 0
        fields = schema.tables(1)
        for field in fields:
            if field.text(0) == name:
                code = field.integer(2, "<B")
                if code not in _TEXT or field.table(4):
                    raise UserError(f"{self._path}: column {name!r} is no plain text", "name a column of strings with --field")
                return _Column(node, buffer, _TEXT[code])
            nodes, buffers = self._footprint(field)
            node, buffer = node + nodes, buffer + buffers
        known = ", ".join(field.text(0) for field in fields)
        raise UserError(f"{self._path} has no column {name!r}", f"it has {known}; name one with --field")

    def _footprint(self, field: _Table) -> tuple[int, int]:
        """How many nodes and buffers a column has in every record batch."""
        code = field.integer(2, "<B")
        if field.table(4):  # a dictionary's indices
            return 1, 2
        own = 0 if code == _NULL else 3 if code in _WITH_OFFSETS_AND_DATA else 1 if code in (_STRUCT, _FIXED_SIZE_LIST) else 2
        if code != _NULL and own == 2 and code not in _FIXED_WIDTH | _LISTS:
            name = field.text(0)
            raise UserError(f"{self._path}: column {name!r} has a type that is not known, code {code}", "remove it first")
        inner = [self._footprint(child) for child in field.tables(5)]
        return 1 + sum(nodes for nodes, _ in inner), own + sum(buffers for _, buffers in inner)

    def _batch(self, header: _Table, body: int, column: _Column) -> Iterator[str | None]:
        if header.table(3):
            raise UserError(f"{self._path} has compressed buffers", "save the dataset again without compression")
        length, num_nulls = header.pairs(1)[column.node]
        validity, offsets, data = (self._buffer(place, body) for place in header.pairs(2)[column.buffer : column.buffer + 3])
        if length == 0:
            return
        ends = np.frombuffer(offsets, column.offset_type, length + 1).tolist()
        if num_nulls and len(validity) * 8 < length:
            raise ValueError("a column is shorter than its record batch")
        for row in range(length):
            if num_nulls and not validity[row >> 3] >> (row & 7) & 1:
                yield None
            elif not 0 <= ends[row] <= ends[row + 1] <= len(data):
                raise ValueError(f"row {row} of a record batch lies outside its data")
            else:
                yield data[ends[row] : ends[row + 1]].decode()

    def _buffer(self, place: tuple[int, int], body: int) -> bytes:
        offset, length = place
        if offset < 0 or length < 0 or body + offset + length > len(self._raw):
            raise ValueError("a buffer lies outside the file")
        return self._raw[body + offset : body + offset + length]
