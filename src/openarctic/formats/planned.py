"""Files whose every byte has its place before the first one is written, so that tensors may arrive piece by piece, in any order.

A plan is a list of files, each a header and a size, and the place of every tensor in them. `gguf.plan_gguf` and
`safetensors.plan_safetensors` make plans; `create`, `write_at` and `sync` carry them out.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openarctic.errors import CapacityError, CorruptError, UserError
from openarctic.formats.quants import Raw

CHUNK_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes stand: in which of the plan's files, at which byte, how many."""

    file: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file's name, its first bytes, and its size; what no tensor fills is zero."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Files, and every tensor's place by name. `checksum_at` is where the first file keeps the tensors' sha256, if it does."""

    files: tuple[PlannedFile, ...]
    places: dict[str, Place]
    checksum_at: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def create(plan: Plan, folder: Path) -> None:
    """Make every file with its header and full size; the tensors are holes that take no room yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in plan.files:
        with full_disk_told(folder), (folder / file.name).open("wb") as out:
            out.write(file.header)
            out.truncate(file.size)


def write_at(path: Path, offset: int, data: Raw | bytes) -> None:
    """Write `data` into an existing file, and let the disk begin with it. Raises CapacityError when the disk is full."""
    view = (np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else memoryview(data)).cast("B")
    with full_disk_told(path):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            start, size = offset, len(view)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
            if size >= 1 << 20:
                forget(descriptor, start, size)  # pages that are not on the disk yet stay, but their writing starts
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with full_disk_told(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, out: Raw, path: Path) -> None:
    """Fill `out` (1-D, contiguous) from an open file. Plain reads, not a mapping: mapped pages count as resident memory."""
    view = out.data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise CorruptError(f"{path} ends at byte {offset}, {len(view)} more were expected", "it changed while it was read")
        view, offset = view[count:], offset + count


def chunks(path: Path, offset: int, size: int) -> Iterator[memoryview]:
    """The bytes of a part of a file in order, a few megabytes at a time; each piece is overwritten by the next."""
    buffer = np.empty(min(size, CHUNK_BYTES), dtype=np.uint8)
    descriptor = open_to_read(path)
    try:
        while size:
            count = min(size, CHUNK_BYTES)
            read_at(descriptor, offset, buffer[:count], path)
            yield buffer.data[:count]
            offset, size = offset + count, size - count
    finally:
        os.close(descriptor)


def open_to_read(path: Path) -> int:
    """A file descriptor. Raises UserError when the file cannot be read."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def forget(descriptor: int, offset: int = 0, size: int = 0) -> None:
    """Tell the system that the pages of a part of a file (size 0: to its end) are not needed, where it takes such advice."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Turn a full disk into a CapacityError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CapacityError(
            f"no space left on the disk of {path}", "make room and run the same command again: it goes on"
        ) from error
