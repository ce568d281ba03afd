"""What only reading every byte can tell: checksums of files, and numbers that are none.

`SHA256SUMS` in a checkpoint's folder is the file that `sha256sum *` writes and `sha256sum -c SHA256SUMS` checks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from openarctic.errors import CorruptError, MissingError
from openarctic.formats.checkpoint import Checkpoint
from openarctic.formats.planned import chunks
from openarctic.formats.quants import Raw, first_not_finite

MANIFEST = "SHA256SUMS"
OnBytes = Callable[[int], None]


def manifest_text(paths: Iterable[Path], on_bytes: OnBytes = lambda count: None) -> str:
    """Lines of `SHA256SUMS` for files, which are read in full."""
    return "".join(f"{_file_sha256(path, on_bytes)}  {path.name}\n" for path in paths)


def _file_sha256(path: Path, on_bytes: OnBytes) -> str:
    digest = hashlib.sha256()
    for piece in chunks(path, 0, path.stat().st_size):
        digest.update(piece)
        on_bytes(len(piece))
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, str]:
    """File name -> sha256 of a `SHA256SUMS` file; empty without one. Raises CorruptError for a line of another form."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path} is not UTF-8") from error
    sums = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?([^/]+)", line)
        if match is None:
            raise CorruptError(f"{path} has a line that is not `SHA256  FILE`: {line[:80]!r}")
        sums[match[2]] = match[1].lower()
    return sums


def verify_checkpoint(checkpoint: Checkpoint, on_bytes: OnBytes = lambda count: None) -> None:
    """Read everything: sha256 where `SHA256SUMS` gives one, and no NaN or infinity anywhere.

    Raises MissingError or CorruptError with the file or tensor.
    """
    sums = read_manifest(checkpoint.folder)
    for name in sums:
        if not (checkpoint.folder / name).is_file():
            raise MissingError(f"{checkpoint.folder} lacks {name}, which stands in {MANIFEST}")
    for header in checkpoint.headers:
        digest = hashlib.sha256(header.raw)
        for tensor in header.tensors.values():
            for piece in chunks(header.path, tensor.start, tensor.size):
                digest.update(piece)
                check_finite(np.frombuffer(piece, dtype=np.uint8), tensor.dtype, tensor.name)
                on_bytes(len(piece))
        _compare(sums.pop(header.path.name, None), digest.hexdigest(), header.path)
    for name, wanted in sums.items():
        _compare(wanted, _file_sha256(checkpoint.folder / name, lambda count: None), checkpoint.folder / name)


def _compare(wanted: str | None, found: str, path: Path) -> None:
    if wanted not in (None, found):
        raise CorruptError(f"{path} does not match its sha256 in {MANIFEST}", "get the file again")


def check_finite(raw: Raw, type: str, name: str) -> None:
    """Raise CorruptError for a NaN or infinity in the raw bytes of a tensor."""
    if first_not_finite(raw, type) is not None:
        raise CorruptError(f"tensor {name} has values that are NaN or infinite", "it is damaged, or its training diverged")
