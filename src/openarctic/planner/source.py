"""Where a configuration comes from: a name, a `config.json`, a checkpoint folder or a GGUF file; and what lies in its files."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openarctic.errors import MissingError, UserError
from openarctic.formats.bundled import bundled_models
from openarctic.formats.checkpoint import INDEX, open_checkpoint
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import read_gguf
from openarctic.formats.names import check_tensors, config_from_gguf
from openarctic.planner.presets import PRESETS


@dataclass(slots=True)
class Share:
    """What the tensors of one number type add up to."""

    tensors: int = 0
    parameters: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """Files as they are: their size, and tensors by number type."""

    file_bytes: int
    types: dict[str, Share]

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors, without headers."""
        return sum(share.bytes for share in self.types.values())


@dataclass(frozen=True, slots=True)
class Source:
    """A model to describe; `stored` is there when it has weights."""

    name: str
    kind: Literal["preset", "config", "checkpoint", "gguf"]
    config: HybridConfig
    stored: Stored | None = None


def find(name: str) -> Source:
    """The model of that name or path; names of presets and bundled models go first (write ./NAME for a path).

    Of a folder's weights headers are read and compared with its config; without weights the config alone counts. Raises
    MissingError with the nearest name, UserError for a file of another kind and for what the config says wrong, CorruptError
    for a damaged file.
    """
    if name in PRESETS:
        return Source(name, "preset", PRESETS[name])
    if name.endswith(".gguf"):
        return _from_gguf(name, Path(name))
    is_path = os.path.basename(name) != name
    bundled = {} if is_path else bundled_models()
    if name in bundled:
        return _from_gguf(name, bundled[name])
    # Not Path.exists, which raises for a name that the system finds too long.
    if os.path.isdir(name):
        return _from_folder(name)
    if os.path.exists(name):
        if not name.endswith(".json"):
            raise UserError(f"{name} is not a model", "give a .gguf file, a config.json or the folder that holds one")
        return Source(name, "config", HybridConfig.from_file(name))
    if is_path:
        raise MissingError(f"no model at {name}", "give a .gguf file, a config.json or the folder that holds one")
    known = [*PRESETS, *bundled]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}; or give a path"
    raise MissingError(f"no model named {name!r}", hint)


def _from_folder(name: str) -> Source:
    folder = Path(name)
    if not (folder / INDEX).exists() and not any(folder.glob("*.safetensors")):
        return Source(name, "checkpoint", HybridConfig.from_file(folder))
    with open_checkpoint(folder) as checkpoint:
        tensors = ((t.dtype, t.shape, t.size) for header in checkpoint.headers for t in header.tensors.values())
        stored = Stored(sum(header.path.stat().st_size for header in checkpoint.headers), _by_type(tensors))
        return Source(name, "checkpoint", checkpoint.config, stored)


def _from_gguf(name: str, path: Path) -> Source:
    file = read_gguf(path)
    config = config_from_gguf(file)
    check_tensors(config, file)
    tensors = ((t.type, t.shape, t.data.nbytes) for t in file.tensors.values())
    return Source(name, "gguf", config, Stored(sum(p.stat().st_size for p in file.paths), _by_type(tensors)))


def _by_type(tensors: Iterable[tuple[str, tuple[int, ...], int]]) -> dict[str, Share]:
    """Sums over (type, shape, bytes), in order of type."""
    types: dict[str, Share] = {}
    for type_, shape, size in tensors:
        share = types.setdefault(type_, Share())
        share.tensors += 1
        share.parameters += math.prod(shape)
        share.bytes += size
    return dict(sorted(types.items()))
