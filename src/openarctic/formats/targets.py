"""What a conversion writes: a GGUF file (or splits), or a checkpoint folder of either layout.

A target is planned completely from the source's headers: the files, and for every official tensor a slot that says where its
first row goes and in what form. `convert` fills the slots; `finish` adds what depends on the written bytes and moves
everything to its place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.errors import UserError
from openarctic.formats.checkpoint import (
    DTYPES,
    INDEX,
    SHARD_BYTES,
    STACKED,
    Layout,
    index_text,
    shard_plan,
    stacked_name,
    stored_shapes,
)
from openarctic.formats.companions import COMPANIONS, JOURNAL, TOKENIZER_FILES, foreign_in_checkpoint, is_checkpoint
from openarctic.formats.config import HybridConfig
from openarctic.formats.families import stored_name
from openarctic.formats.gguf import CHECKSUM_KEY, SPLIT_NAME, plan_gguf, publish, stored_pieces, tensors_sha256, write_checksum
from openarctic.formats.imatrix import read_imatrix
from openarctic.formats.mixture import FILE_TYPES, choose_types, file_type_named
from openarctic.formats.names import gguf_metadata, state_dict_shapes, tensor_table
from openarctic.formats.planned import Plan, sync
from openarctic.formats.quants import TYPES, F32Array, byte_size
from openarctic.formats.resume import Note
from openarctic.formats.safetensors import plan_safetensors
from openarctic.formats.sources import GGUFSource, Source, base, record
from openarctic.formats.verify import MANIFEST, OnBytes, manifest_text
from openarctic.tokenizer import MODEL, NO_VOCAB, Tokenizer, check_vocab, has_vocabulary

_WEIGHING_HINT = "take one of the types Q4_0 to Q6_K, or leave it out"
_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an official tensor goes: the byte of its first row, its type, and over how many heads its rows are permuted."""

    file: int
    offset: int
    type: str
    heads: int = 0
    importance: F32Array | None = None


class GGUFTarget:
    """A GGUF file `path`, or its splits. `file_type` None keeps what the source has."""

    def __init__(
        self,
        source: Source,
        path: Path,
        file_type: str | None,
        *,
        is_pure: bool = False,
        max_file_bytes: int | None = None,
        has_importance: bool = False,
        note: Note = print,
    ) -> None:
        self.path = path
        self._config = config = source.config
        specs = list(tensor_table(config))
        if file_type is None and not isinstance(base(source), GGUFSource):
            file_type = _float_type(source)
        file_type = file_type and file_type_named(file_type)
        self.types = _gguf_types(source, file_type, is_pure, has_importance)
        # What importance can change: matrices that are rounded to a type that weighs columns.
        self._weighed = [s for s in specs if _weighs(self.types[s.gguf]) and source.type_of(s.hf[0]) != self.types[s.gguf]]
        if has_importance and not self._weighed:
            raise UserError("importance changes nothing here: no tensor is rounded to a type that weighs columns", _WEIGHING_HINT)
        metadata = {**_kept_metadata(source), **gguf_metadata(config), **_type_metadata(source, file_type, self.types)}
        metadata |= _tokenizer_metadata(source, note)
        shapes = {spec.gguf: (self.types[spec.gguf], spec.gguf_shape) for spec in specs}
        self.plan: Plan = plan_gguf(path.name, metadata, shapes, max_file_bytes)
        self.slots: dict[str, Slot] = {}
        for spec in specs:
            type_, place = self.types[spec.gguf], self.plan.places[spec.gguf]
            for expert, name in enumerate(spec.hf):
                offset = place.offset + expert * byte_size(type_, spec.shape)
                self.slots[name] = Slot(place.file, offset, type_, spec.heads)

    def weigh(self, imatrix: Path, note: Note) -> None:
        """Round by the importance of columns in a file, which is read here; raises as `read_imatrix`."""
        importance = read_imatrix(imatrix, self._config)
        for spec in self._weighed:
            if spec.gguf in importance:
                for name, weights in zip(spec.hf, importance[spec.gguf], strict=True):
                    self.slots[name] = replace(self.slots[name], importance=weights)
        # Rows of an embedding are looked up, not multiplied: no text gives them importance.
        wanted = [spec.gguf for spec in self._weighed if spec.part != "embedding"]
        missing = [name for name in wanted if name not in importance]
        if missing:
            names = ", ".join(missing[:3])
            note(f"{imatrix} lacks {len(missing)} of {len(wanted)} tensors ({names}): their columns count alike")

    @property
    def replaced(self) -> tuple[Path, ...]:
        """Files that stand where these will, or are splits of another count under the same name."""
        return tuple(path for path in (*self._paths(), *self._old_splits()) if path.exists())

    def check_free(self, force: bool) -> None:
        """Raise UserError when a file is in the way."""
        for path in self.replaced:
            if path.is_dir():
                raise UserError(f"{path} is a folder", "give another name")
            if not force:
                raise UserError(f"{path} exists already", "give another name, or --force to replace it")

    def finish(self, partial: Path, force: bool, on_bytes: OnBytes) -> tuple[Path, ...]:
        """Read the tensors once for their checksum, put it into the header, and move the files to their place.

        Raises UserError when a file has come in the way meanwhile; what is made then stays in `partial`.
        """
        pieces = {
            name: (type_, _counted(stored, on_bytes))
            for name, (type_, stored) in stored_pieces(self.plan, partial, self.types).items()
        }
        write_checksum(self.plan, partial, tensors_sha256(pieces))
        self.check_free(force)
        paths = publish(self.plan, partial, self.path.parent)
        for old in self._old_splits() if force else ():
            old.unlink()
        shutil.rmtree(partial)
        return paths

    def _paths(self) -> list[Path]:
        return [self.path.with_name(file.name) for file in self.plan.files]

    def _old_splits(self) -> list[Path]:
        """What an earlier conversion into more or fewer splits left; a reader might take them for these."""
        new = SPLIT_NAME.match(self.plan.files[0].name)
        if new is None or not self.path.parent.is_dir():
            return []
        found = ((path, SPLIT_NAME.match(path.name)) for path in sorted(self.path.parent.iterdir()))
        return [path for path, old in found if old and old["stem"] == new["stem"] and old["count"] != new["count"]]


class FolderTarget:
    """A checkpoint folder `path` of one dtype, with index, config, tokenizer and checksums."""

    def __init__(self, source: Source, path: Path, dtype: str | None, layout: Layout, *, note: Note = print) -> None:
        self.path = path
        self._source = source
        self.dtype = (dtype or _float_type(source)).upper()
        if self.dtype not in DTYPES:
            raise UserError(f"a checkpoint folder cannot hold {self.dtype}", f"--type must be one of {', '.join(DTYPES)}")
        config = source.config
        _check_tokenizer(source, note)
        shapes = stored_shapes(config, layout)
        shards = shard_plan(shapes, self.dtype, SHARD_BYTES)
        metadata = {"format": "pt", **({"layout": STACKED} if layout == "training" else {})}
        described = {file: {n: (self.dtype, shapes[n]) for n in names} for file, names in shards.items()}
        self.plan: Plan = plan_safetensors(described, metadata)
        total = sum(place.size for place in self.plan.places.values())
        self._texts = {"config.json": _config_text(source, self.dtype)}
        if len(shards) > 1:
            self._texts[INDEX] = index_text(shards, total, layout)
        self.slots: dict[str, Slot] = {}
        for name, shape in state_dict_shapes(config).items():
            stacked = stacked_name(name) if layout == "training" else None
            place = self.plan.places[stacked[0] if stacked else stored_name(name, config.model_type)]
            offset = stacked[1] * byte_size(self.dtype, shape) if stacked else 0
            self.slots[name] = Slot(place.file, place.offset + offset, self.dtype)

    def weigh(self, imatrix: Path, note: Note) -> None:
        """Nothing is rounded by importance here."""
        raise UserError(f"a checkpoint folder has no use for {imatrix}", "let the destination end in .gguf")

    @property
    def replaced(self) -> tuple[Path, ...]:
        """The folder, if there is one already."""
        return (self.path,) if self.path.exists() else ()

    def check_free(self, force: bool) -> None:
        """Raise UserError when something is in the way that we may not or must not replace."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path} is a file", "give a folder, or a name that ends in .gguf")
        if not any(self.path.iterdir()):
            return
        if not force:
            raise UserError(f"{self.path} exists already", "give another name, or --force to replace it")
        if not is_checkpoint(self.path):
            raise UserError(f"{self.path} is no checkpoint", "it is not replaced; give another name, or empty it")
        foreign = foreign_in_checkpoint(self.path)
        if foreign:
            raise UserError(f"{self.path} holds more than a checkpoint: {', '.join(foreign[:3])}", "it is not replaced; empty it")

    def finish(self, partial: Path, force: bool, on_bytes: OnBytes) -> tuple[Path, ...]:
        """Add config, index, tokenizer and the sha256 of every file, and move the folder to its place.

        Raises UserError when something has come in the way meanwhile; what is made then stays in `partial`. The journal goes
        last, so that whatever stops this, either the same call goes on from `partial` or the folder is in its place.
        """
        _write_tokenizer(self._source, partial)
        for name, text in self._texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        names = sorted(file.name for file in partial.iterdir() if file.name not in (MANIFEST, JOURNAL))
        (partial / MANIFEST).write_text(manifest_text((partial / name for name in names), on_bytes), encoding="utf-8")
        for name in (*names, MANIFEST):
            sync(partial / name)
        self.check_free(force)
        replaced = self.path.with_name(f"{self.path.name}.{os.getpid()}.replaced")
        if force and self.path.exists():
            os.replace(self.path, replaced)
        os.replace(partial, self.path)  # which fails where there is a folder that is not empty
        (self.path / JOURNAL).unlink()
        sync(self.path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        return tuple(self.path / name for name in (*names, MANIFEST))


def _weighs(type: str) -> bool:
    """Whether importance has a say in rounding to a type."""
    return TYPES[type].block_values > 1 and type != "Q8_0"


def _counted(pieces: Iterator[memoryview], on_bytes: OnBytes) -> Iterator[memoryview]:
    for piece in pieces:
        yield piece
        on_bytes(len(piece))


def _gguf_types(source: Source, file_type: str | None, is_pure: bool, has_importance: bool) -> dict[str, str]:
    """GGUF tensor name -> type: as asked, or as the GGUF source has it."""
    if file_type is None:
        if is_pure or has_importance:
            raise UserError("pure types and importance say how a type is made", "give --type too")
        return {spec.gguf: source.type_of(spec.hf[0]) for spec in tensor_table(source.config)}
    return choose_types(source.config, file_type, pure=is_pure, has_importance=has_importance)


def _float_type(source: Source) -> str:
    """The one float type of the source's matrices, BF16 where there is none."""
    matrices = (name for name, shape in state_dict_shapes(source.config).items() if len(shape) > 1 and ".gate." not in name)
    types = {source.type_of(name) for name in matrices}
    return types.pop() if len(types) == 1 and types <= set(DTYPES) else "BF16"


def _kept_metadata(source: Source) -> dict[str, Any]:
    """Keys of a GGUF source that describe neither sizes nor types; of a folder its name. And how it was changed."""
    origin = base(source)
    told = {f"openarctic.{name}.{key}": value for name, keys in record(source).items() for key, value in keys.items()}
    recorded = {key: value for key, value in told.items() if value is not None}
    if not isinstance(origin, GGUFSource):
        return {"general.name": source.path.resolve().name, **recorded}
    metadata = origin.file.metadata
    dropped = (f"{metadata['general.architecture']}.", "tokenizer.", "general.file_type", "quantize.", CHECKSUM_KEY)
    return {**{key: value for key, value in metadata.items() if not key.startswith(dropped)}, **recorded}


def _type_metadata(source: Source, file_type: str | None, types: Mapping[str, str]) -> dict[str, Any]:
    origin = base(source)
    number = FILE_TYPES[file_type] if file_type else None
    if number is None and isinstance(origin, GGUFSource):
        number = origin.file.metadata.get("general.file_type")
    told = {} if number is None else {"general.file_type": number}
    is_quantised = not set(types.values()) <= set(DTYPES)
    return {**told, **({"general.quantization_version": 2} if is_quantised else {})}


def find_tokenizer(source: Source) -> Tokenizer | None:
    """The source's tokenizer, if it has one. Raises UserError for one that does not fit the model."""
    origin = base(source)
    if isinstance(origin, GGUFSource):
        metadata = origin.file.metadata
        tokenizer = Tokenizer.from_gguf_metadata(metadata) if has_vocabulary(metadata) else None
    else:
        has_one = any((source.path / name).exists() for name in TOKENIZER_FILES)
        tokenizer = Tokenizer.from_huggingface(source.path) if has_one else None
    if tokenizer:
        check_vocab(tokenizer, source.config.vocab_size)
    return tokenizer


def _check_tokenizer(source: Source, note: Note) -> Tokenizer | None:
    tokenizer = find_tokenizer(source)
    if tokenizer is None:
        note(f"{source.path} has no tokenizer, so the result has none: it takes and gives token ids only")
    return tokenizer


def _tokenizer_metadata(source: Source, note: Note) -> dict[str, Any]:
    """Keys of a GGUF source as they are, of whatever kind; of a folder's tokenizer, one that we know."""
    origin = base(source)
    if not isinstance(origin, GGUFSource) or "tokenizer.ggml.tokens" not in origin.file.metadata:
        tokenizer = _check_tokenizer(source, note)
        return tokenizer.to_gguf_metadata(source.config.vocab_size) if tokenizer else {MODEL: NO_VOCAB}
    keys = {key: value for key, value in origin.file.metadata.items() if key.startswith("tokenizer.")}
    count, rows = len(keys["tokenizer.ggml.tokens"]), source.config.vocab_size
    if count > rows:
        raise UserError(f"the tokenizer has {count} tokens, the model's vocab_size is {rows}", "they belong to different models")
    return keys


def _write_tokenizer(source: Source, folder: Path) -> None:
    """A folder's own files unchanged; a GGUF file's vocabulary in Hugging Face form."""
    if not isinstance(base(source), GGUFSource):
        for name in COMPANIONS:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, folder / name)
        return
    tokenizer = find_tokenizer(source)
    if tokenizer:
        tokenizer.save_huggingface(folder)


def _config_text(source: Source, dtype: str) -> str:
    """config.json: what the source's says besides, without references to code that does not come along."""
    path = source.path / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if values.get("model_type", "arctic") != source.config.model_type:  # a Llama's becomes Arctic's
        values = {}
    for key in ("auto_map", "dtype", *HybridConfig.__slots__):
        values.pop(key, None)
    values |= {**source.config.to_dict(), "torch_dtype": _TORCH_NAMES[dtype], **record(source)}
    if isinstance(base(source), GGUFSource):  # which has its floats in 32 bits: 1e-05, not 9.99999974e-06
        values |= {key: float(str(np.float32(values[key]))) for key in ("rms_norm_eps", "rope_theta")}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
