"""Conversions between checkpoint folders, GGUF files and number types, in little memory and safe against interruption.

Everything is checked and planned before the first byte is written. Then pieces of some rows, in the order in which the source
has them, go through three steps that overlap: one thread reads ahead, this one encodes (on several threads), one writes.
Memory holds a few pieces whatever the model's size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import openarctic
from openarctic.errors import CapacityError, UserError
from openarctic.formats.checkpoint import Layout
from openarctic.formats.gguf import CHECKSUM_KEY
from openarctic.formats.names import permute, state_dict_shapes, stock_obstacles
from openarctic.formats.planned import Plan
from openarctic.formats.quants import Raw, byte_size, encode, first_not_finite
from openarctic.formats.resume import Note, PartialOutput, partial_folder, real_destination
from openarctic.formats.sources import CollapsedSource, GGUFSource, Source, base, is_gguf, plan_collapse, repeated_kv
from openarctic.formats.targets import FolderTarget, GGUFTarget, Slot
from openarctic.formats.verify import MANIFEST, check_finite

PIECE_VALUES = 1 << 23
COMMIT_BYTES = 1 << 29
Phase = Literal["verifying", "converting", "checking"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """What to make. `type` is a GGUF file type, or a folder's F32, F16 or BF16; None keeps the source's.

    `kv_heads`: "keep", "auto" (collapse equal copies), or how many. `max_file_bytes`, `is_pure` and `imatrix` are for GGUF.
    `commit_bytes`: how much is written between two entries of the journal, and may be lost by a kill.
    """

    type: str | None = None
    is_pure: bool = False
    layout: Layout = "huggingface"
    kv_heads: int | Literal["keep", "auto"] = "keep"
    max_file_bytes: int | None = None
    imatrix: Path | None = None
    is_stock: bool = False
    is_verified: bool = False
    restart: bool = False
    force: bool = False
    threads: int = 1
    commit_bytes: int = COMMIT_BYTES


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase is, in bytes; `start` is where this run began it."""

    phase: Phase
    done: int
    total: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written, and how long converting took; `resumed_bytes` of the input were done by an earlier run."""

    paths: tuple[Path, ...]
    types: dict[str, int]
    bytes_read: int
    bytes_written: int
    resumed_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of an official tensor; vectors are one row."""

    name: str
    first: int
    shape: tuple[int, int]
    size: int  # bytes in the source


def convert(
    source: Source,
    destination: str | Path,
    options: ConvertOptions,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    note: Note = lambda text: None,
    measure: Callable[[Path], None] | None = None,
) -> Converted:
    """Convert `source` to a GGUF file (a `destination` that ends in .gguf) or a checkpoint folder.

    An interrupted run leaves `DESTINATION.partial`; the same call goes on from it. `note` gets sentences for the user.
    `measure` makes the file `options.imatrix`, after every check that costs less. Raises
    UserError for options that do not fit or a destination that is in the way, CorruptError for what is found in the source,
    CapacityError for a full disk.
    """
    started = time.monotonic()
    destination = real_destination(Path(destination))
    _check_apart(source.path, destination)
    source = _with_kv_heads(source, options, note)
    _check_stock(source, destination, options, note)
    target = _target(source, destination, options, note)
    _check_inputs_stay(source, target, options)
    if options.imatrix and not measure:
        target.weigh(options.imatrix, note)
    target.check_free(options.force)
    _check_space(target.plan, destination)
    if options.is_verified:
        _verify(source, on_progress, note)
    if isinstance(source, CollapsedSource):
        source.prove()
    if options.imatrix and measure:
        measure(options.imatrix)
        target.weigh(options.imatrix, note)
    pieces = list(plan_pieces(source, target.slots))
    fingerprint = _fingerprint(source, target.plan, options, pieces)
    destination.parent.mkdir(parents=True, exist_ok=True)
    output = PartialOutput(destination, target.plan, fingerprint, len(pieces), restart=options.restart, note=note)
    try:
        total = sum(piece.size for piece in pieces)
        resumed = sum(piece.size for piece in pieces[: output.done])
        if output.done:
            note(f"going on at {resumed / total:.1%}, where an earlier run was stopped")
        _run(source, target.slots, pieces, output, options, _report("converting", total, resumed, on_progress))
        on_bytes = _report("checking", target.plan.size, 0, on_progress)
        paths = target.finish(output.folder, options.force, on_bytes)
    finally:
        output.close()
        source.close()
    types: dict[str, int] = {}
    for slot in target.slots.values():
        types[slot.type] = types.get(slot.type, 0) + 1
    return Converted(paths, types, total - resumed, target.plan.size, resumed, time.monotonic() - started)


def _check_apart(source: Path, destination: Path) -> None:
    one, other = source.resolve(), destination.resolve()
    if one == other or other in one.parents:
        raise UserError(f"{destination} is or contains the source {source}", "write to another place")


def _check_inputs_stay(source: Source, target: GGUFTarget | FolderTarget, options: ConvertOptions) -> None:
    """Splits and importance are inputs under names of their own."""
    origin = base(source)
    inputs = [*(origin.file.paths if isinstance(origin, GGUFSource) else ()), *([options.imatrix] if options.imatrix else ())]
    replaced = {path.resolve() for path in target.replaced}
    for path in inputs:
        if path.resolve() in replaced:
            raise UserError(f"{path} is read, and would be replaced", "write to another place")


def _verify(source: Source, on_progress: Callable[[Progress], None], note: Note) -> None:
    origin = base(source)
    if isinstance(origin, GGUFSource):
        has_sums = CHECKSUM_KEY in origin.file.metadata
    else:
        has_sums = (source.path / MANIFEST).is_file()
    if not has_sums:
        note(f"{source.path} has no checksums: --verify finds only values that are no numbers")
    shapes = state_dict_shapes(source.config)
    total = sum(byte_size(source.type_of(name), shapes[name]) for name in source.names)
    source.verify(_report("verifying", total, 0, on_progress))


def _with_kv_heads(source: Source, options: ConvertOptions, note: Note) -> Source:
    config = source.config
    if options.kv_heads == "keep":
        copies = repeated_kv(source) if config.num_key_value_heads == config.num_attention_heads else 1
        if copies > 1:
            note(
                f"the first layer has each key and value head {copies} times: --collapse-kv would keep "
                f"{config.num_key_value_heads // copies} of {config.num_key_value_heads}, for the same logits"
            )
        return source
    return plan_collapse(source, None if options.kv_heads == "auto" else options.kv_heads)


def _check_stock(source: Source, destination: Path, options: ConvertOptions, note: Note) -> None:
    form: Literal["gguf", "huggingface"] = "gguf" if is_gguf(destination) else "huggingface"
    found = stock_obstacles(source.config, form)
    if options.layout == "training":
        found = [*found, "the training layout is our own"]
    obstacles = "; ".join(found)
    if obstacles and options.is_stock:
        raise UserError(f"no stock runtime can run this: {obstacles}", "leave out --stock: our runtimes can")
    if obstacles and is_gguf(destination):
        note(f"only our own runtimes can run this file: {obstacles}")


def _target(source: Source, destination: Path, options: ConvertOptions, note: Note) -> GGUFTarget | FolderTarget:
    if is_gguf(destination):
        if options.layout != "huggingface":
            raise UserError(f"layout {options.layout} is one of folders, {destination} is a GGUF file")
        return GGUFTarget(
            source,
            destination,
            options.type,
            is_pure=options.is_pure,
            max_file_bytes=options.max_file_bytes,
            has_importance=options.imatrix is not None,
            note=note,
        )
    if options.is_pure or options.imatrix or options.max_file_bytes:
        raise UserError("pure types, importance and a split size are for GGUF files", "let the destination end in .gguf")
    return FolderTarget(source, destination, options.type, options.layout, note=note)


def plan_pieces(source: Source, slots: dict[str, Slot]) -> Iterator[Piece]:
    """The source's tensors in its order, cut into pieces of at most `PIECE_VALUES` values; q, k and v between heads."""
    config = source.config
    shapes = state_dict_shapes(config)
    for name in source.names:
        rows, width = shapes[name] if len(shapes[name]) == 2 else (1, shapes[name][0])
        step = config.head_dim if any(f".{part}_proj." in name for part in "qkv") else 1
        count = max(PIECE_VALUES // width // step, 1) * step
        for first in range(0, rows, count):
            shape = (min(count, rows - first), width)
            yield Piece(name, first, shape, byte_size(source.type_of(name), shape))


def _fingerprint(source: Source, plan: Plan, options: ConvertOptions, pieces: Sequence[Piece]) -> str:
    """Changes whenever a piece that is done already could be another one."""
    told = [
        openarctic.__version__,
        source.fingerprint(),
        [(file.name, file.size, hashlib.sha256(file.header).hexdigest()) for file in plan.files],
        hashlib.sha256(options.imatrix.read_bytes()).hexdigest() if options.imatrix else None,
        [(piece.name, piece.first, piece.size) for piece in pieces],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _check_space(plan: Plan, destination: Path) -> None:
    """What an earlier run wrote has its place already; the rest of a file's size is holes."""
    begun = [partial_folder(destination) / file.name for file in plan.files]
    taken = sum(path.stat().st_blocks * 512 for path in begun if path.is_file())
    parent = next(folder for folder in destination.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"{parent} is a file, {destination} cannot be below it", "give another name")
    missing, free = plan.size - taken, shutil.disk_usage(parent).free
    if missing > free:
        raise CapacityError(
            f"{parent} has {free / 1e9:.1f} GB free, {missing / 1e9:.1f} GB are still to be written",
            "make room, or give another disk",
        )


def _report(phase: Phase, total: int, start: int, on_progress: Callable[[Progress], None]) -> Callable[[int], None]:
    progress = Progress(phase, start, total, start)

    def add(count: int) -> None:
        nonlocal progress
        progress = replace(progress, done=progress.done + count)
        on_progress(progress)

    return add


class _Buffers:
    """Two buffers in turn: one is filled while the other is in use. Fresh memory for each piece would cost page faults."""

    def __init__(self) -> None:
        self._two = [np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)]
        self._next = 0

    def take(self, size: int) -> Raw:
        self._next = 1 - self._next
        if self._two[self._next].size < size:
            self._two[self._next] = np.empty(size, dtype=np.uint8)
        return self._two[self._next][:size]


def _run(
    source: Source,
    slots: dict[str, Slot],
    pieces: Sequence[Piece],
    output: PartialOutput,
    options: ConvertOptions,
    on_bytes: Callable[[int], None],
) -> None:
    """Convert what is not done yet; however it ends, what has been written is committed."""
    read_into, encode_into = _Buffers(), _Buffers()
    written = output.done
    uncommitted = 0

    def read(piece: Piece) -> Raw:
        raw = source.read_rows(piece.name, piece.first, read_into.take(piece.size))
        check_finite(raw, source.type_of(piece.name), piece.name)
        return raw

    def write(piece: Piece, data: Raw) -> None:
        nonlocal written, uncommitted
        slot = slots[piece.name]
        output.write(slot.file, slot.offset + byte_size(slot.type, (piece.first, piece.shape[1])), data)
        written, uncommitted = written + 1, uncommitted + data.size
        if uncommitted >= options.commit_bytes:
            output.commit(written)
            uncommitted = 0

    def encoded(piece: Piece, raw: Raw) -> Raw:
        slot = slots[piece.name]
        out = encode_into.take(byte_size(slot.type, piece.shape))
        type_ = source.type_of(piece.name)
        encode(raw, type_, slot.type, piece.shape, importance=slot.importance, threads=options.threads, out=out)
        if slot.type != type_:
            _check_fits(out, slot.type, piece.name)
        if slot.heads:
            rows = out.reshape(piece.shape[0], -1)
            rows[:] = permute(rows, piece.shape[0] // source.config.head_dim)
        return out

    reading: Future[Raw] | None = None
    writing: Future[None] | None = None
    todo = pieces[output.done :]
    try:
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            for number, piece in enumerate(todo):
                raw = (reading or reader.submit(read, piece)).result()
                reading = reader.submit(read, todo[number + 1]) if number + 1 < len(todo) else None
                out = encoded(piece, raw)
                if writing:
                    writing.result()
                writing = writer.submit(write, piece, out)
                on_bytes(piece.size)
            if writing:
                writing.result()
    finally:
        output.commit(written)


def _check_fits(raw: Raw, type: str, name: str) -> None:
    """Finite numbers may be too large for a type with 5 bits of exponent."""
    if first_not_finite(raw, type) is not None:
        raise UserError(f"tensor {name} has values too large for {type}", "take BF16 or F32")
