"""Documents to token shards: read, check, tokenise, write; a run that was stopped goes on after its last complete shard.

Everything lies in `OUT.partial` until it is complete, beside a journal with a line for every set of shards that has reached the
disk. A document belongs to the validation split by the hash of its text, so copies of one text are never on both sides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.data.contamination import ContaminationCheck
from openarctic.data.documents import Document
from openarctic.data.readers import ReadOptions, read_documents
from openarctic.data.shards import (
    FORMAT,
    TRAIN,
    VALIDATION,
    Manifest,
    Shard,
    read_manifest,
    token_dtype,
    tokenizer_fingerprint,
    write_manifest,
    write_shard,
)
from openarctic.errors import UserError
from openarctic.formats.resume import open_locked
from openarctic.machine import default_threads
from openarctic.tokenizer import Tokenizer

JOURNAL = "journal.jsonl"
_CHUNK = 64  # documents handed to the threads at a time
# Called now and then: documents read, tokens written or waiting, bytes of text.
OnProgress = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareOptions:
    """What decides the shards, besides sources and tokenizer."""

    domain: str
    read: ReadOptions = field(default_factory=ReadOptions)
    validation_share: float = 0.0
    shard_tokens: int = 1 << 25

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise UserError(f"the validation share is {self.validation_share}", "give a part of 1, as 0.01")
        if self.shard_tokens < 1:
            raise UserError(f"shards of {self.shard_tokens} tokens", "give at least 1")


def prepare(
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    out: Path,
    options: PrepareOptions,
    *,
    contamination: ContaminationCheck | None = None,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    note: Callable[[str], None] = print,
) -> Manifest:
    """Make the folder `out` of the documents of `sources`; documents that `contamination` finds are left out.

    An unfinished `out` of the same sources and options is taken up where it stopped. Raises UserError where `out` exists, nothing
    is left to write, or a text is not valid Unicode (naming its place), and what `read_documents` raises.
    """
    if out.exists():
        raise UserError(f"{out} exists already", "give another name, or remove it")
    encoder = _Encoder(tokenizer, options, contamination, threads)
    fingerprint = _fingerprint(sources, tokenizer, options, contamination)
    with closing(_Work(out.with_name(out.name + ".partial"), fingerprint, note)) as work:
        _write_shards(work, sources, encoder, options, on_progress)
        return _finish(work, out, sources, tokenizer, options)


def _write_shards(
    work: _Work, sources: Sequence[Path], encoder: _Encoder, options: PrepareOptions, on_progress: OnProgress | None
) -> None:
    documents = (document for source in sources for document in read_documents(source, options.read))
    for _ in islice(documents, work.state.documents_read):
        pass
    writers = {split: _Writer(encoder.dtype) for split in (TRAIN, VALIDATION)}
    with encoder:
        for encoded in encoder.all(documents):
            work.state.documents_read += 1
            if isinstance(encoded, str):
                work.state.left_out[encoded] = work.state.left_out.get(encoded, 0) + 1
            else:
                work.state.text_bytes += encoded.text_bytes
                writers[encoded.split].add(encoded.ids)
            if any(writer.tokens >= options.shard_tokens for writer in writers.values()):
                work.commit(writers)
            if on_progress and work.state.documents_read % _CHUNK == 0:
                waiting = sum(writer.tokens for writer in writers.values())
                on_progress(work.state.documents_read, work.state.tokens + waiting, work.state.text_bytes)
    work.commit(writers)


def _finish(work: _Work, out: Path, sources: Sequence[Path], tokenizer: Tokenizer, options: PrepareOptions) -> Manifest:
    state = work.state
    if not any(shard.name.startswith(TRAIN) for shard in state.shards):
        told = ", ".join(f"{count} {reason}" for reason, count in state.left_out.items()) or "all were held out for validation"
        raise UserError(f"no document is left of {state.documents_read}: {told}", "check the sources and options")
    manifest = Manifest(
        format=FORMAT,
        domain=options.domain,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer_fingerprint(tokenizer),
        begin_id=_begin(tokenizer),
        end_id=tokenizer.eos_id,
        shards={split: [s for s in state.shards if s.name.startswith(split)] for split in (TRAIN, VALIDATION)},
        sources=[str(source) for source in sources],
        documents_read=state.documents_read,
        text_bytes=state.text_bytes,
        left_out=state.left_out,
    )
    (work.folder / JOURNAL).unlink()
    write_manifest(work.folder, manifest)
    os.replace(work.folder, out)
    return read_manifest(out)


def _fingerprint(
    sources: Sequence[Path], tokenizer: Tokenizer, options: PrepareOptions, contamination: ContaminationCheck | None
) -> str:
    files = [path for source in sources for path in ([source, *sorted(source.rglob("*"))] if source.is_dir() else [source])]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    checked = contamination and [contamination.words, {name: own.texts for name, own in contamination.evaluations.items()}]
    told = json.dumps([stamps, tokenizer_fingerprint(tokenizer), asdict(options), checked])
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass(slots=True)
class _State:
    """How far it has come; a line of the journal."""

    documents_read: int = 0
    text_bytes: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    def follow(self, line: dict[str, Any]) -> None:
        """Go to where a line was written, after the ones before it."""
        self.documents_read, self.text_bytes = line["documents_read"], line["text_bytes"]
        self.left_out = line["left_out"]
        self.shards += [Shard(**shard) for shard in line["shards"]]


class _Work:
    """The folder under construction and its journal."""

    def __init__(self, folder: Path, fingerprint: str, note: Callable[[str], None]) -> None:
        if folder.exists() and not (folder / JOURNAL).is_file():
            raise UserError(f"{folder} is in the way, and no preparation made it", "move it away")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.state = _State()
        self._journal = open_locked(folder / JOURNAL)
        head = {"fingerprint": fingerprint}
        lines = self._lines()
        if lines[:1] == [head]:
            for line in lines[1:]:
                self.state.follow(line)
            note(f"going on with {folder} after {self.state.documents_read} documents")
            return
        if lines:
            note(f"{folder} was begun from other sources or with other options: starting anew")
        for path in folder.iterdir():
            if path.name != JOURNAL:
                path.unlink()
        os.ftruncate(self._journal, 0)
        self._append(head)

    def _lines(self) -> list[dict[str, Any]]:
        """The journal's complete lines; one that was being written when the power went does not count."""
        text = os.pread(self._journal, os.fstat(self._journal).st_size, 0).decode("utf-8", "replace")
        try:
            return [json.loads(line) for line in text.split("\n")[:-1]]
        except ValueError:
            return [{}]  # of nothing that we know: it starts anew

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._journal, (json.dumps(line) + "\n").encode())
        os.fsync(self._journal)

    def commit(self, writers: dict[str, _Writer]) -> None:
        """Write what waits as shards, of all splits at once, so that one count of documents tells what is safe."""
        shards = []
        for split, writer in writers.items():
            if writer.tokens:
                number = sum(shard.name.startswith(split) for shard in self.state.shards)
                shards.append(writer.write(self.folder, f"{split}-{number:05d}"))
        self.state.shards += shards
        self._append({**asdict(self.state), "shards": [asdict(shard) for shard in shards]})

    def close(self) -> None:
        """Let others write here."""
        os.close(self._journal)


class _Writer:
    """The documents of the next shard of a split."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._clear()

    def _clear(self) -> None:
        self._documents: list[np.ndarray[Any, Any]] = []
        self._ends: list[int] = []
        self.tokens = 0

    def add(self, ids: Sequence[int]) -> None:
        self._documents.append(np.asarray(ids, self._dtype))
        self.tokens += len(ids)
        self._ends.append(self.tokens)

    def write(self, folder: Path, name: str) -> Shard:
        shard = write_shard(folder, name, np.concatenate(self._documents), self._ends)
        self._clear()
        return shard


@dataclass(frozen=True, slots=True)
class _Encoded:
    split: str
    ids: list[int]
    text_bytes: int


class _Encoder:
    """Documents to token ids, or to the reason why one is left out; several at a time, in their order."""

    def __init__(
        self, tokenizer: Tokenizer, options: PrepareOptions, contamination: ContaminationCheck | None, threads: int | None
    ) -> None:
        self.dtype = token_dtype(tokenizer.vocab_size)
        self._tokenizer = tokenizer
        self._begin = [begin] if (begin := _begin(tokenizer)) is not None else []
        self._end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
        self._validation_below = int(options.validation_share * (1 << 64))
        self._contamination = contamination
        self._pool = ThreadPoolExecutor(threads or default_threads())

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def all(self, documents: Iterator[Document]) -> Iterator[_Encoded | str]:
        while chunk := list(islice(documents, _CHUNK)):
            yield from self._pool.map(self._encode, chunk)

    def _encode(self, document: Document) -> _Encoded | str:
        if not document.text.strip():
            return "empty"
        if self._contamination and self._contamination.check(document):
            return "contaminated"
        try:
            ids = self._tokenizer.encode(document.text)
        except UserError as error:
            raise UserError(f"{document.place}: {error.message}", error.hint) from error
        raw = document.text.encode()
        hashed = int.from_bytes(hashlib.sha256(raw).digest()[:8], "little")
        split = VALIDATION if hashed < self._validation_below else TRAIN
        return _Encoded(split, [*self._begin, *ids, *self._end], len(raw))


def _begin(tokenizer: Tokenizer) -> int | None:
    """The begin token, where the model wants one before a text."""
    return tokenizer.bos_id if tokenizer.adds_bos else None
