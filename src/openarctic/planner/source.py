"""Where a configuration comes from: a name, a `config.json`, a checkpoint folder or a GGUF file."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import GGUFFile, read_gguf
from openarctic.formats.names import config_from_gguf, tensor_table
from openarctic.planner.presets import PRESETS


@dataclass(frozen=True, slots=True)
class Source:
    """A model to describe; `file` is there when it is a GGUF file."""

    name: str
    kind: Literal["preset", "config", "checkpoint", "gguf"]
    config: HybridConfig
    file: GGUFFile | None = None


def find(name: str) -> Source:
    """The model of that name or path; names of presets and bundled models go first (write ./NAME for a path).

    Raises MissingError with the nearest name, UserError for a file of another kind and for what the config says wrong,
    CorruptError for a damaged file.
    """
    if name in PRESETS:
        return Source(name, "preset", PRESETS[name])
    if name.endswith(".gguf"):
        return _from_gguf(name, Path(name))
    is_path = os.path.basename(name) != name
    bundled = {} if is_path else _bundled()
    if name in bundled:
        return _from_gguf(name, bundled[name])
    # Not Path.exists, which raises for a name that the system finds too long.
    if os.path.isdir(name):
        return Source(name, "checkpoint", HybridConfig.from_file(name))
    if os.path.exists(name) and not name.endswith(".json"):
        raise UserError(f"{name} is not a model", "give a .gguf file, a config.json or the folder that holds one")
    if os.path.exists(name):
        return Source(name, "config", HybridConfig.from_file(name))
    if is_path:
        raise MissingError(f"no model at {name}", "give a .gguf file, a config.json or the folder that holds one")
    known = [*PRESETS, *bundled]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}; or give a path"
    raise MissingError(f"no model named {name!r}", hint)


def _bundled() -> dict[str, Path]:
    """Models in the package; their library comes with the whole engine, which nothing else here needs."""
    from openarctic.engine.library import bundled_models

    return bundled_models()


def _from_gguf(name: str, path: Path) -> Source:
    file = read_gguf(path)
    config = config_from_gguf(file)
    for spec in tensor_table(config):
        tensor = file.tensors.get(spec.gguf)
        if tensor is None:
            raise CorruptError(f"{path} has no tensor {spec.gguf}")
        if tensor.shape != spec.gguf_shape:
            raise CorruptError(f"{path}: tensor {spec.gguf} has shape {tensor.shape}, the config says {spec.gguf_shape}")
    return Source(name, "gguf", config, file)
