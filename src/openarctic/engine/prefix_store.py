"""Prompts that come again, on disk: the keys and values of their whole pages, a safetensors file each.

A file's name is the hash of everything that its content depends on: the model, how keys and values are held, the tokens. What is
damaged or not what it says is removed and computed anew. Files hold what the prompts hold, so only their owner may read them.
When they take more than `max_bytes`, those go that were not used for longest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats import GGUFFile
from openarctic.formats.safetensors import SafetensorsFile, write_safetensors

Pages = NDArray[np.uint8]  # [pages, bytes of a page]
SAMPLE_BYTES = 4096
FORMAT = "1"  # raise it when the layout of a page changes


class PrefixStore:
    """`model` names what made the pages (`fingerprint`); `page_bytes` is the size of one. Raises UserError for a bad folder."""

    def __init__(self, folder: str | Path, model: str, page_bytes: int, max_bytes: int = 1 << 30) -> None:
        self.folder, self._model, self._page_bytes, self.max_bytes = Path(folder), model, page_bytes, max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)  # so nobody reads a file while it is written either
        except OSError as error:
            raise UserError(f"prefixes cannot be kept in {folder}: {error.strerror}") from error

    def load(self, tokens: Sequence[int], tenant: str = "") -> Pages | None:
        """The pages of exactly these tokens of a tenant; None where they are not there."""
        path = self._path(tokens, tenant)
        try:
            with SafetensorsFile(path) as file:
                stored = file.header.tensors
                if "pages" not in stored or stored["pages"].size % self._page_bytes:
                    raise CorruptError(f"{path} holds no whole pages")
                pages = file.read("pages").reshape(-1, self._page_bytes)
                if file.header.metadata.get("sha256") != hashlib.sha256(pages.data).hexdigest():
                    raise CorruptError(f"{path} is damaged")
        except MissingError:
            return None
        except (CorruptError, OSError):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # only for the order in which files go
            os.utime(path)
        return pages

    def save(self, tokens: Sequence[int], pages: Pages, tenant: str = "") -> None:
        """Keep the pages of these tokens. A disk that is full or read-only is no error: they will be computed again."""
        if pages.nbytes > self.max_bytes:
            return
        path = self._path(tokens, tenant)
        metadata = {"sha256": hashlib.sha256(np.ascontiguousarray(pages).data).hexdigest()}
        with suppress(OSError):
            write_safetensors(path, {"pages": ("U8", pages.shape, pages.reshape(-1))}, metadata)
            path.chmod(0o600)
            self._trim(path)

    def _path(self, tokens: Sequence[int], tenant: str) -> Path:
        key = hashlib.sha256(json.dumps([FORMAT, self._model, self._page_bytes, tenant]).encode())
        key.update(np.asarray(tokens, np.int32).tobytes())
        return self.folder / f"{key.hexdigest()}.safetensors"

    def _trim(self, newest: Path) -> None:
        for partial in self.folder.glob(".*.partial"):  # of processes that were killed
            if time.time() - partial.stat().st_mtime > 3600:
                partial.unlink(missing_ok=True)
        files = sorted(((p, p.stat()) for p in self.folder.glob("*.safetensors")), key=lambda item: item[1].st_mtime_ns)
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total <= self.max_bytes:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size


def fingerprint(file: GGUFFile, cache_type: str, kernels: str) -> str:
    """Tells models apart: sizes and times of the files, every tensor's place, shape and first and last bytes."""
    hasher = hashlib.sha256(f"{cache_type} {'plain' if kernels == 'plain' else 'vectors'}".encode())
    for path in file.paths:
        status = path.stat()
        hasher.update(f"{status.st_size} {status.st_mtime_ns} ".encode())
    for name, tensor in sorted(file.tensors.items()):
        hasher.update(f"{name} {tensor.type} {tensor.shape} ".encode())
        hasher.update(np.ascontiguousarray(tensor.data[:SAMPLE_BYTES]).data)
        hasher.update(np.ascontiguousarray(tensor.data[-SAMPLE_BYTES:]).data)
    return hasher.hexdigest()
