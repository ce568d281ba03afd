"""Checkpoint folders for tests: tiny random models as Hugging Face folders of any dtype and number of shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.formats.checkpoint import INDEX, index_text, open_checkpoint, shard_plan
from openarctic.formats.convert import Converted, ConvertOptions, convert
from openarctic.formats.quants import quantize
from openarctic.formats.safetensors import SafetensorsFile, write_safetensors
from openarctic.formats.sources import open_source
from tests.tiny import random_state, tiny_config

Raw = np.ndarray
State = dict[str, tuple[str, tuple[int, ...], Raw]]


def raw_state(config: dict[str, Any], dtype: str = "BF16", seed: int = 0) -> State:
    """Random tensors under official names: (dtype, shape, bytes)."""
    return {name: (dtype, values.shape, quantize(values, dtype)) for name, values in random_state(config, seed).items()}


def write_folder(
    folder: Path,
    config: dict[str, Any] | None = None,
    tensors: Mapping[str, tuple[str, tuple[int, ...], Raw]] | None = None,
    *,
    dtype: str = "BF16",
    shard_bytes: int = 30_000,
) -> Path:
    """A Hugging Face folder of several shards, without a tokenizer."""
    config = config or tiny_config()
    tensors = raw_state(config, dtype) if tensors is None else tensors
    folder.mkdir(parents=True)
    values = {"model_type": "arctic", "architectures": ["ArcticForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    plan = shard_plan({name: shape for name, (_, shape, _) in tensors.items()}, dtype, shard_bytes)
    for file, names in plan.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names})
    if len(plan) > 1:
        total = sum(raw.size for _, _, raw in tensors.values())
        (folder / INDEX).write_text(index_text(plan, total, "huggingface"), encoding="utf-8")
    return folder


def shard_of(folder: Path, name: str) -> Path:
    """The file in which the index places a tensor."""
    return folder / json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"][name]


def rewrite_shard(path: Path, change: Any) -> None:
    """Write a shard anew after `change(tensors)` has edited its tensors in place."""
    with SafetensorsFile(path) as file:
        tensors = {t.name: (t.dtype, t.shape, file.read(t.name)) for t in file.header.tensors.values()}
    change(tensors)
    write_safetensors(path, tensors)


def run(source: Path, destination: Path, **options: Any) -> Converted:
    """Convert with options."""
    return convert(open_source(source), destination, ConvertOptions(**options))


def state_of(folder: Path) -> State:
    """Every tensor of a folder."""
    with open_checkpoint(folder) as checkpoint:
        return {name: (checkpoint.dtype(name), checkpoint.shape(name), checkpoint.read(name)) for name in checkpoint.names}


def assert_same(found: State, wanted: State) -> None:
    """Names, dtypes, shapes and bytes are equal."""
    assert set(found) == set(wanted)
    for name, (dtype, shape, raw) in wanted.items():
        assert found[name][:2] == (dtype, shape), name
        assert np.array_equal(found[name][2], raw), name


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder; of a GGUF file its splits."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.stem}*.gguf")
    return {file.name: file.read_bytes() for file in files}
