"""A cache of packed weights: panels in a file that is mapped, shared by all processes, instead of packed again.

A file of panels is named after the sha256 of the GGUF file's content (a tree: of the digests of its 16 MiB chunks, in order) and
the format version. It is made under another name, complete and synced, and then renamed; a lock keeps two processes from making
the same one, and what a killed process left is removed by the next. A reader trusts nothing: the table at the end has its own
sha256, every piece a checksum over all of its bytes that is compared each time; what does not agree is removed and made again.

    "OAPANELS", zeros to byte 64; pieces, each at a multiple of 64; table (JSON); its sha256, its length (8 bytes), "OAPANELS"

So that opening need not hash the GGUF file each time, its digest is remembered for its path, size, time and inode.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from openarctic.config import cache_folder
from openarctic.errors import UserError
from openarctic.formats.quants import Raw
from openarctic.native._native import checksum

try:
    import fcntl
except ImportError:  # then there is no cache
    fcntl = None  # type: ignore[assignment]

FORMAT = 1  # of the file and of the panels in it (native/kernels.h)
MIN_BYTES = 768 << 20  # smaller models are packed each time
BUDGET_BYTES = 64 << 30  # of all panels together
SPARE_BYTES = 2 << 30  # of the disk, which stay free
SWITCH, BUDGET = "OPENARCTIC_REPACK_CACHE", "OPENARCTIC_REPACK_CACHE_GB"
_MAGIC, _ALIGNMENT, _CHUNK = b"OAPANELS", 64, 16 << 20
_SETTLED_S = 2.0  # a file that changed more recently may change again within the same time stamp


@dataclass(frozen=True, slots=True)
class Piece:
    """A matrix in panels, or all experts' matrices: where its bytes stand."""

    layer: int
    name: str
    form: int
    rows: int
    cols: int
    offset: int
    size: int
    sum: int


# A matrix's place in the model -> what `Model.lend_matrix` takes: form, rows, cols, panels.
Packed = tuple[int, int, int, Raw]
Place = tuple[int, str]


def is_wanted(asked: bool | None, needed_bytes: int) -> bool:
    """Whether panels are cached: as asked, else as OPENARCTIC_REPACK_CACHE says (0 or 1), else for large models."""
    if fcntl is None:
        return False
    if asked is not None:
        return asked
    told = os.environ.get(SWITCH, "")
    if told not in ("", "0", "1"):
        raise UserError(f"{SWITCH} is {told!r}, it must be 0 or 1")
    return told == "1" if told else needed_bytes >= MIN_BYTES


def budget_bytes() -> int:
    """What all panels may take: OPENARCTIC_REPACK_CACHE_GB, or 64 GiB."""
    told = os.environ.get(BUDGET, "")
    if not told:
        return BUDGET_BYTES
    if not told.isdigit():
        raise UserError(f"{BUDGET} is {told!r}, it must be a whole number")
    return int(told) * 10**9


class PanelCache:
    """The panels of one GGUF file (of all its splits). Where nothing can be written, nothing is cached."""

    def __init__(self, paths: Sequence[Path], threads: int) -> None:
        self.folder = cache_folder() / "panels"
        self.threads = threads
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest = hashlib.sha256(b"".join(self._content(path) for path in paths)).hexdigest()
        self.path = self.folder / f"{digest}-{FORMAT}.panels"

    def open(self) -> dict[Place, Packed] | None:
        """All panels, or None where there are none that are sound."""
        try:
            panels = self._read()
            os.utime(self.path)  # used last
        except (OSError, ValueError, KeyError, TypeError):
            panels = None
        if panels is None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        return panels

    def save(self, panels: dict[Place, Packed]) -> bool:
        """Writes them, unless another process does or there is no room. True when they are there."""
        try:
            with _locked(self.path.with_suffix(".lock")) as is_ours:
                return is_ours and self._save(panels)
        except OSError:
            return False

    def _read(self) -> dict[Place, Packed] | None:
        data = np.memmap(self.path, dtype=np.uint8, mode="r")
        end = data[-48:].tobytes()
        length = int.from_bytes(end[32:40], "little")
        table = data[-48 - length : -48].tobytes() if 0 < length <= data.size - 48 - _ALIGNMENT else b""
        if data[:8].tobytes() != _MAGIC or end[40:] != _MAGIC or hashlib.sha256(table).digest() != end[:32]:
            return None
        out: dict[Place, Packed] = {}
        for values in json.loads(table)["pieces"]:
            piece = Piece(**values)
            panels = data[piece.offset : piece.offset + piece.size]
            if panels.size != piece.size or checksum(panels, self.threads) != piece.sum:
                return None
            out[piece.layer, piece.name] = (piece.form, piece.rows, piece.cols, panels)
        return out

    def _save(self, panels: dict[Place, Packed]) -> bool:
        partial = self.path.with_suffix(".partial")
        partial.unlink(missing_ok=True)  # of a process that was killed: we hold the lock
        if not self._make_room(sum(panel.size + _ALIGNMENT for *_, panel in panels.values())):
            return False
        try:
            with partial.open("xb") as file:
                self._write(file, panels)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _write(self, file: BinaryIO, panels: dict[Place, Packed]) -> None:
        file.write(_MAGIC.ljust(_ALIGNMENT, b"\0"))
        pieces = []
        for (layer, name), (form, rows, cols, panel) in panels.items():
            offset = file.tell()
            pieces.append(asdict(Piece(layer, name, form, rows, cols, offset, panel.size, checksum(panel, self.threads))))
            file.write(panel.data)
            file.write(bytes(-panel.size % _ALIGNMENT))
        table = json.dumps({"format": FORMAT, "pieces": pieces}).encode()
        file.write(table + hashlib.sha256(table).digest() + struct.pack("<Q", len(table)) + _MAGIC)

    def _make_room(self, size: int) -> bool:
        """Removes what was not used for longest until `size` more fits the budget and the disk."""
        budget, held = budget_bytes(), []
        for path in self.folder.glob("*.panels"):
            with contextlib.suppress(OSError):  # another process removed it
                state = path.stat()
                held.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in held)
        for _, freed, path in sorted(held):
            if total + size <= budget and shutil.disk_usage(self.folder).free >= size + SPARE_BYTES:
                break
            path.unlink(missing_ok=True)  # processes that have mapped it keep it
            total -= freed
        return total + size <= budget and shutil.disk_usage(self.folder).free >= size + SPARE_BYTES

    def _content(self, path: Path) -> bytes:
        """The digest of a file, remembered."""
        state = path.stat()
        name = str(path.resolve())
        stamp = [name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
        note = self.folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()}.digest"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(note.read_text())
            if told["stamp"] == stamp:
                return bytes.fromhex(told["sha256"])
        digest = content_digest(path, self.threads)
        if time.time() - state.st_mtime > _SETTLED_S:
            with contextlib.suppress(OSError):
                own = note.with_suffix(f".{os.getpid()}.tmp")
                own.write_text(json.dumps({"stamp": stamp, "sha256": digest.hex()}))
                os.replace(own, note)
        return digest


def content_digest(path: Path, threads: int) -> bytes:
    """sha256 over the length of a file and the sha256 of each of its 16 MiB chunks, on several threads."""
    data = np.memmap(path, dtype=np.uint8, mode="r")

    def digest(start: int) -> bytes:
        return hashlib.sha256(data[start : start + _CHUNK].data).digest()

    with ThreadPoolExecutor(threads) as pool:
        return hashlib.sha256(struct.pack("<Q", data.size) + b"".join(pool.map(digest, range(0, data.size, _CHUNK)))).digest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether the lock is ours; it ends with the process at the latest."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def packed_of(model: Any, places: Sequence[Place]) -> dict[Place, Packed]:
    """All matrices of a native model that were packed."""
    return {(layer, name): model.packed(layer, name) for layer, name in places}
