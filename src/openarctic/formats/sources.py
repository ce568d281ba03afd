"""What can be converted, behind one interface: tensors under official names, as raw bytes, some rows at a time.

`Source` is that interface; here are its forms for checkpoint folders and GGUF files, and one that collapses repeated kv
heads. `openarctic.model.deepspeed` has another. Reading in the order of `names` opens one file at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.checkpoint import Checkpoint, open_checkpoint, refuse_pickles
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import SPLIT_NAME, GGUFFile, read_gguf
from openarctic.formats.names import TensorSpec, config_from_gguf, state_dict_shapes, tensor_table, unpermute
from openarctic.formats.planned import open_to_read, read_at
from openarctic.formats.quants import Raw, byte_size, dequantize
from openarctic.formats.verify import OnBytes, verify_checkpoint

DEEPSPEED_MAIN = "mp_rank_00_model_states.pt"


class Source(Protocol):
    """A model to convert. `path` names it in messages; `names` are its official names in the order of their bytes."""

    path: Path
    config: HybridConfig
    names: tuple[str, ...]

    def type_of(self, name: str) -> str:
        """The number type (of `quants.TYPES`) of a tensor's raw bytes."""

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out` with whole rows in official order; of q and k, whole heads."""

    def verify(self, on_bytes: OnBytes) -> None:
        """Read everything and compare it with its checksums. Raises CorruptError."""

    def fingerprint(self) -> Any:
        """What is the same as long as the source is, as JSON."""

    def close(self) -> None:
        """Close files."""


def identity(path: Path, header_sha256: str = "") -> list[Any]:
    """A file's entry in a fingerprint: name, size, time of change, hash of its header."""
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns, header_sha256]


class FolderSource:
    """A Hugging Face or training folder."""

    def __init__(self, path: str | Path) -> None:
        self.checkpoint: Checkpoint = open_checkpoint(path)
        self.path = self.checkpoint.folder
        self.config = self.checkpoint.config
        self.names = self.checkpoint.names

    def type_of(self, name: str) -> str:
        """The dtype, which has the same name."""
        return self.checkpoint.dtype(name)

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        return self.checkpoint.read_rows(name, first, out)

    def verify(self, on_bytes: OnBytes) -> None:
        """Checksums of `SHA256SUMS`, and no NaN anywhere."""
        verify_checkpoint(self.checkpoint, on_bytes)

    def fingerprint(self) -> Any:
        """Config and shards."""
        config = hashlib.sha256((self.path / "config.json").read_bytes()).hexdigest()
        return [config, *(identity(header.path, header.sha256) for header in self.checkpoint.headers)]

    def close(self) -> None:
        """Close the open shard."""
        self.checkpoint.close()


class GGUFSource:
    """A GGUF file or its splits; rows of q and k come back in official order."""

    def __init__(self, path: str | Path) -> None:
        self.file: GGUFFile = read_gguf(path)
        self.path = Path(path)
        self.config = config_from_gguf(self.file)
        self._where: dict[str, tuple[TensorSpec, int]] = {}
        specs = {spec.gguf: spec for spec in tensor_table(self.config)}
        self._check(specs)
        tensors = self.file.tensors
        order = {path: number for number, path in enumerate(self.file.paths)}
        for name in sorted(specs, key=lambda n: (order[tensors[n].path], tensors[n].offset)):
            self._where.update({hf: (specs[name], expert) for expert, hf in enumerate(specs[name].hf)})
        self.names = tuple(self._where)
        self._open: tuple[Path, int] | None = None

    def _check(self, specs: dict[str, TensorSpec]) -> None:
        missing = [name for name in specs if name not in self.file.tensors]
        extra = [name for name in self.file.tensors if name not in specs]
        if missing:
            raise MissingError(f"{self.path} lacks {len(missing)} tensors: {', '.join(missing[:3])}")
        if extra:
            raise CorruptError(f"{self.path} has {len(extra)} tensors that its keys do not know: {', '.join(extra[:3])}")
        for name, spec in specs.items():
            if self.file.tensors[name].shape != spec.gguf_shape:
                shape = self.file.tensors[name].shape
                raise CorruptError(f"{self.path}: {name} has shape {shape}, the keys say {spec.gguf_shape}")

    def type_of(self, name: str) -> str:
        """The type of the tensor that holds it."""
        return self.file.tensors[self._where[name][0].gguf].type

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        spec, expert = self._where[name]
        tensor = self.file.tensors[spec.gguf]
        row = byte_size(tensor.type, spec.shape[-1:])
        start = tensor.offset + (expert * math.prod(spec.shape[:-1]) + first) * row
        read_at(self._descriptor(tensor.path), start, out, tensor.path)
        if spec.heads:
            head_rows = spec.shape[0] // spec.heads
            rows = out.reshape(-1, row)
            rows[:] = unpermute(rows, len(rows) // head_rows)
        return out

    def verify(self, on_bytes: OnBytes) -> None:
        """The file's own checksum, where it has one."""
        self.file.verify()
        on_bytes(sum(tensor.data.size for tensor in self.file.tensors.values()))

    def fingerprint(self) -> Any:
        """Files, keys and tensors."""
        tensors = [(t.name, t.type, t.shape, t.offset) for t in self.file.tensors.values()]
        header = hashlib.sha256(json.dumps([self.file.metadata, tensors]).encode("utf-8", "surrogateescape")).hexdigest()
        return [header, *(identity(path) for path in self.file.paths)]

    def close(self) -> None:
        """Close the open file."""
        if self._open:
            os.close(self._open[1])
            self._open = None

    def _descriptor(self, path: Path) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = (path, open_to_read(path))
        return self._open[1]


class ChangedSource:
    """A source below which there is another; `record` holds keys of a `config.json` that say how it was changed."""

    path: Path
    config: HybridConfig
    names: tuple[str, ...]
    source: Source
    record: Mapping[str, Any] = MappingProxyType({})


class CollapsedSource(ChangedSource):
    """A source whose repeated key and value heads are taken once; make it with `plan_collapse`; `prove` the copies equal."""

    def __init__(self, source: Source, kv_heads: int) -> None:
        self.source = source
        self._copies = source.config.num_key_value_heads // kv_heads
        self.path, self.names = source.path, source.names
        self.config = replace(source.config, num_key_value_heads=kv_heads)

    def type_of(self, name: str) -> str:
        """As the source."""
        return self.source.type_of(name)

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`; of k and v with the first copy of each group's heads."""
        if not _is_kv(name):
            return self.source.read_rows(name, first, out)
        head = _head_bytes(self.source, name)
        for number, rows in enumerate(out.reshape(-1, head)):
            kept = first // self.config.head_dim + number
            self.source.read_rows(name, kept * self._copies * self.config.head_dim, rows)
        return out

    def prove(self) -> None:
        """Read all keys and values. Raises UserError with tensor and difference where heads of a group differ in any bit."""
        config = self.source.config
        for name in (name for name in self.names if _is_kv(name)):
            heads = _read_heads(self.source, name)
            found = _first_difference(heads, self._copies)
            if found is not None:
                first = found // self._copies * self._copies
                shape = (config.head_dim, config.hidden_size)
                one, other = (dequantize(heads[h], self.type_of(name), shape) for h in (first, found))
                raise UserError(
                    f"{name}: head {found} is no copy of head {first}, they differ by up to {np.abs(one - other).max():.3g}",
                    f"the model really has more than {self.config.num_key_value_heads} kv heads: convert it without collapsing",
                )

    def verify(self, on_bytes: OnBytes) -> None:
        """As the source."""
        self.source.verify(on_bytes)

    def fingerprint(self) -> Any:
        """The source's, and the number of heads."""
        return [self.config.num_key_value_heads, self.source.fingerprint()]

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def is_gguf(path: Path) -> bool:
    """Whether a name is that of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def base(source: Source) -> Source:
    """The source below those that change it."""
    return base(source.source) if isinstance(source, ChangedSource) else source


def record(source: Source) -> Mapping[str, Any]:
    """What is to be kept of a change, as keys of a `config.json`."""
    return source.record if isinstance(source, ChangedSource) else {}


def open_source(path: str | Path) -> FolderSource | GGUFSource:
    """Open a checkpoint folder, or a GGUF file (the first split). Raises MissingError, CorruptError or UserError."""
    path = Path(path)
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise MissingError(f"no model at {path}", "give a checkpoint folder or a .gguf file")
    refuse_pickles(path)
    split = SPLIT_NAME.match(path.name)
    if split and int(split["no"]) != 1:
        first = path.with_name(f"{split['stem']}-00001-of-{split['count']}.gguf")
        raise UserError(f"{path} is split {int(split['no'])} of {int(split['count'])}", f"give the first, {first}")
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is one file of a checkpoint", "give its folder, which also has config.json")
    return GGUFSource(path)


def deepspeed_folder(path: Path) -> Path:
    """The folder with the model states: `path`, or the step that its file `latest` names."""
    latest = path / "latest"
    if not (path / DEEPSPEED_MAIN).exists() and latest.is_file():
        try:
            step = latest.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise CorruptError(f"{latest} does not name a folder: it is not UTF-8") from error
        if step and step == Path(step).name and (path / step / DEEPSPEED_MAIN).is_file():
            return path / step
    return path


def is_deepspeed(path: Path) -> bool:
    """Whether a folder is such a checkpoint."""
    return path.is_dir() and (deepspeed_folder(path) / DEEPSPEED_MAIN).is_file()


def _is_kv(name: str) -> bool:
    return name.endswith((".k_proj.weight", ".v_proj.weight"))


def _head_bytes(source: Source, name: str) -> int:
    return byte_size(source.type_of(name), (source.config.head_dim, source.config.hidden_size))


def repeated_kv(source: Source) -> int:
    """How often each kv head of the first layer is repeated: 1 if it is not. A probe; `CollapsedSource.prove` proves."""
    config = source.config
    if not config.is_arctic or config.qkv_bias:
        return 1
    names = [name for name in state_dict_shapes(config) if _is_kv(name)][:2]
    heads = [_read_heads(source, name) for name in names]
    counts = (c for c in range(config.num_key_value_heads, 1, -1) if config.num_key_value_heads % c == 0)
    return next((c for c in counts if all(_first_difference(h, c) is None for h in heads)), 1)


def plan_collapse(source: Source, kv_heads: int | None = None) -> CollapsedSource:
    """The model with `kv_heads` kv heads (None: as few as the first layer's copies allow); the copies are yet to be proven equal.

    The kv 56 exports of the official model repeat each of 8 heads 7 times (spec 3.1). Raises UserError where the number does
    not divide, where there is nothing to collapse, and for a family's model.
    """
    source.config.require_arctic("collapsing kv heads")
    if source.config.qkv_bias:
        raise UserError("kv heads with biases are not collapsed", "convert it without collapsing")
    given = source.config.num_key_value_heads
    if kv_heads is None:
        kv_heads = given // repeated_kv(source)
    if kv_heads < 1 or given % kv_heads:
        raise UserError(f"{given} kv heads cannot be collapsed to {kv_heads}", f"{given} must be a multiple of it")
    if kv_heads == given:
        raise UserError(f"{source.path} has {given} kv heads, and no neighbours are equal: nothing to collapse")
    return CollapsedSource(source, kv_heads)


def _read_heads(source: Source, name: str) -> Raw:
    """All heads of k or v, [heads, bytes]."""
    size = _head_bytes(source, name) * source.config.num_key_value_heads
    return source.read_rows(name, 0, np.empty(size, dtype=np.uint8)).reshape(source.config.num_key_value_heads, -1)


def _first_difference(heads: Raw, copies: int) -> int | None:
    """The first head that differs from the first of its group of `copies`."""
    for head in range(len(heads)):
        if not np.array_equal(heads[head], heads[head // copies * copies]):
            return head
    return None
