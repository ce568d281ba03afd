"""Tokenised documents of one domain on disk: a folder of shards, read through memory maps, and a manifest that is written last.

A split (`train`, `validation`) has shards `SPLIT-00000.tokens`, its documents' token ids one after the other (little-endian
uint16, or uint32 for vocabularies past 65,536), and `SPLIT-00000.ends`, where each document ends (int64). The manifest has the
counts and SHA-256 of every file, the tokenizer's fingerprint, what was read and what was left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.config import read_object, write_text
from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.tokenizer import MODEL, UNUSED, Tokenizer
from openarctic.tokenizer.vocabulary import MERGES, TOKENS, TYPES

MANIFEST = "manifest.json"
FORMAT = 1
TRAIN, VALIDATION = "train", "validation"
_ENDS = np.dtype("<i8")


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what decides the ids: kind, tokens in order (without unused ones at the end) and merges."""
    metadata = tokenizer.to_gguf_metadata()
    tokens, types = list(metadata[TOKENS]), list(metadata.get(TYPES, ()))
    while types and types[-1] == UNUSED:
        types.pop()
        tokens.pop()
    told = json.dumps([metadata.get(MODEL), tokens, list(metadata.get(MERGES, ()))], ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One pair of files and what they must hold."""

    name: str  # SPLIT-00000
    tokens: int
    documents: int
    tokens_sha256: str
    ends_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a folder of shards holds."""

    format: int = FORMAT
    domain: str
    dtype: str  # uint16 or uint32
    vocab_size: int
    tokenizer_sha256: str
    begin_id: int | None  # the token before every document
    end_id: int | None  # the token after every document
    shards: dict[str, list[Shard]]  # by split
    sources: list[str]
    documents_read: int
    text_bytes: int  # UTF-8 bytes of the documents that were kept
    left_out: dict[str, int]  # reason -> documents

    def tokens(self, split: str) -> int:
        """Tokens of a split."""
        return sum(shard.tokens for shard in self.shards.get(split, ()))

    def documents(self, split: str) -> int:
        """Documents of a split."""
        return sum(shard.documents for shard in self.shards.get(split, ()))

    def fingerprint(self) -> str:
        """SHA-256 of the content: which tokens, in which order."""
        return hashlib.sha256(json.dumps([self.dtype, self._told_shards()]).encode()).hexdigest()

    def _told_shards(self) -> dict[str, Any]:
        return {split: [asdict(shard) for shard in shards] for split, shards in sorted(self.shards.items())}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last thing that is written: where it is, everything is."""
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Raises MissingError where there are no finished shards, CorruptError or UserError for a manifest that is not ours."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingError(f"{folder} has no {MANIFEST}", "make shards with `openarctic data prepare`, and let it end")
    values = read_object(path)
    if values.get("format") != FORMAT:
        raise UserError(f"{path} has format {values.get('format')!r}, this version reads {FORMAT}", "prepare the data again")
    try:
        shards = {split: [Shard(**shard) for shard in own] for split, own in values["shards"].items()}
        manifest = Manifest(**{**values, "shards": shards})
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is damaged: {error}", "prepare the data again") from error
    for field in fields(Manifest):
        if field.type == "int" and not isinstance(getattr(manifest, field.name), int):
            raise CorruptError(f"{path} is damaged: {field.name} is no number", "prepare the data again")
    if manifest.dtype not in ("uint16", "uint32"):
        raise CorruptError(f"{path} is damaged: dtype {manifest.dtype!r}", "prepare the data again")
    return manifest


def write_shard(folder: Path, name: str, tokens: NDArray[Any], ends: Sequence[int]) -> Shard:
    """Write both files of a shard and wait until they are on the disk. Whoever writes the manifest makes them count."""
    hashes = []
    for suffix, values in (("tokens", tokens), ("ends", np.asarray(ends, _ENDS))):
        raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8).data
        with (folder / f"{name}.{suffix}").open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        hashes.append(hashlib.sha256(raw).hexdigest())
    return Shard(name=name, tokens=len(tokens), documents=len(ends), tokens_sha256=hashes[0], ends_sha256=hashes[1])


def token_dtype(vocab_size: int) -> str:
    """The narrowest of the two types that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenShards:
    """One split of a folder. Documents are numbered through all shards.

    Sizes are checked always, checksums with `verify` (the default). Raises MissingError, CorruptError (which names the file), or
    UserError for a split without documents.
    """

    def __init__(self, folder: str | Path, split: str = TRAIN, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.split = split
        self.manifest = read_manifest(self.folder)
        self._shards = self.manifest.shards.get(split, [])
        if not self.manifest.documents(split):
            raise UserError(f"{self.folder} has no documents for {split}", _hint_for_empty(split))
        self._tokens, self._ends = [], []
        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        for shard in self._shards:
            self._tokens.append(self._open(shard, "tokens", dtype, shard.tokens, shard.tokens_sha256 if verify else None))
            self._ends.append(self._open(shard, "ends", _ENDS, shard.documents, shard.ends_sha256 if verify else None))
            if int(self._ends[-1][-1]) != shard.tokens:
                raise CorruptError(f"{self.folder / shard.name}.ends ends at {self._ends[-1][-1]}, not at {shard.tokens}", _AGAIN)
        self._documents_before = np.cumsum([0, *(shard.documents for shard in self._shards)])

    def _open(self, shard: Shard, suffix: str, dtype: np.dtype[Any], count: int, sha256: str | None) -> NDArray[Any]:
        path = self.folder / f"{shard.name}.{suffix}"
        if not path.is_file():
            raise CorruptError(f"{path} is missing, though the manifest names it", _AGAIN)
        size = path.stat().st_size
        if size != count * dtype.itemsize:
            raise CorruptError(
                f"{path} has {size} bytes, the manifest says {count * dtype.itemsize}: it was cut off or changed", _AGAIN
            )
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise CorruptError(
                    f"{path} is damaged: its SHA-256 is {found[:16]}..., the manifest says {sha256[:16]}...", _AGAIN
                )
        return np.memmap(path, dtype, mode="r", shape=(count,)).view(np.ndarray)  # which is sliced twice as fast

    @property
    def num_documents(self) -> int:
        """Documents of the split."""
        return int(self._documents_before[-1])

    @property
    def num_tokens(self) -> int:
        """Tokens of the split."""
        return self.manifest.tokens(self.split)

    def lengths(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens of each of the documents start to stop - 1."""
        parts = [np.zeros(0, np.int64)]
        for before, ends in zip(self._documents_before, self._ends, strict=False):
            low, high = max(0, start - before), min(len(ends), stop - before)
            if low < high:
                first = int(ends[low - 1]) if low else 0
                parts.append(np.diff(ends[low:high], prepend=first))
        return np.concatenate(parts)

    def read(self, document: int, begin: int, length: int) -> NDArray[Any]:
        """`length` token ids of a document from its token `begin` on."""
        shard = int(np.searchsorted(self._documents_before, document, "right")) - 1
        local = document - int(self._documents_before[shard])
        first = (int(self._ends[shard][local - 1]) if local else 0) + begin
        return self._tokens[shard][first : first + length]

    def check_fits(self, tokenizer: Tokenizer) -> None:
        """Raises UserError unless `tokenizer` made these tokens."""
        if tokenizer_fingerprint(tokenizer) != self.manifest.tokenizer_sha256:
            raise UserError(
                f"{self.folder} was tokenised by another tokenizer (vocabulary of {self.manifest.vocab_size}, "
                f"this one has {tokenizer.vocab_size})",
                "prepare the data with the tokenizer of the model that you train",
            )

    def check_vocab(self, vocab_size: int) -> None:
        """Raises UserError when a model of `vocab_size` rows lacks rows for some of the tokens."""
        if self.manifest.vocab_size > vocab_size:
            raise UserError(
                f"{self.folder} has token ids up to {self.manifest.vocab_size - 1}, the model's vocab_size is {vocab_size}",
                "prepare the data with the tokenizer of the model that you train",
            )


_AGAIN = "restore the folder from where it came, or prepare the data again"


def _hint_for_empty(split: str) -> str:
    return "prepare the data with --validation-share" if split == VALIDATION else "check what was left out and why"
