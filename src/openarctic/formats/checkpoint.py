"""A checkpoint folder: config.json, safetensors shards, and the index that says which tensor is where (spec 3.1).

Two layouts. `huggingface` has every expert's matrices under the official names. `training` (`layout: openarctic.stacked` in
the metadata of shards and index) has one tensor a layer and matrix, `...block_sparse_moe.experts.w1.weight` [E, I, H], from
which expert-parallel ranks read slices. `open_checkpoint` opens either, checks everything that headers can tell before any
tensor is read, and reads by official or stacked name. One shard is open at a time. Folders of a family (`families.py`) name
their MLPs otherwise; here alone, and in what messages say, are those names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.formats.config import HybridConfig, read_config
from openarctic.formats.families import stored_name
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import Raw
from openarctic.formats.safetensors import ITEM_BYTES, Header, SafetensorsFile, Shape, StoredTensor, read_header

Layout = Literal["huggingface", "training"]
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
STACKED = "openarctic.stacked"  # value of the metadata key `layout`
SHARD_BYTES = 5_000_000_000  # the official limit
DTYPES = ("F32", "F16", "BF16")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAME_MODEL = "config.json and weights must be of one model"
_EXPERT = re.compile(r"^(model\.layers\.\d+\.block_sparse_moe\.experts)\.(0|[1-9]\d*)\.(w[123]\.weight)$")


def stacked_name(name: str) -> tuple[str, int] | None:
    """The training layout's name of an expert's matrix, and the expert; None for every other tensor."""
    match = _EXPERT.match(name)
    return (f"{match[1]}.{match[3]}", int(match[2])) if match else None


def layout_shapes(config: HybridConfig, layout: Layout) -> dict[str, Shape]:
    """Name -> shape of every tensor of a layout, in its order: the official one, stacked experts where expert 0 stands."""
    official = state_dict_shapes(config)
    if layout == "huggingface":
        return official
    shapes: dict[str, Shape] = {}
    for name, shape in official.items():
        stacked = stacked_name(name)
        shapes[stacked[0] if stacked else name] = (config.num_local_experts, *shape) if stacked else shape
    return shapes


def stored_shapes(config: HybridConfig, layout: Layout) -> dict[str, Shape]:
    """`layout_shapes` under the names that a folder of the config's model_type has.

    Raises UserError for a family's model in the training layout.
    """
    if layout == "training":
        config.require_arctic("the training layout")
    return {stored_name(name, config.model_type): shape for name, shape in layout_shapes(config, layout).items()}


def shard_plan(shapes: Mapping[str, Shape], dtype: str, limit: int = SHARD_BYTES) -> dict[str, list[str]]:
    """File name -> names of its tensors: a shard ends before the tensor that would make it larger than `limit` bytes.

    For the official tensors in their order this gives the 194 (kv 56: 195) files of the official checkpoints.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}


def index_text(plan: Mapping[str, list[str]], total_bytes: int, layout: Layout) -> str:
    """The index file of a shard plan, as `transformers` writes it."""
    metadata: dict[str, Any] = {"total_size": total_bytes}
    if layout == "training":
        metadata["layout"] = STACKED
    weight_map = {name: file for file, names in plan.items() for name in names}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


@dataclass(slots=True)
class Checkpoint:
    """An open, checked checkpoint. `names` are the official ones, in the order in which their bytes lie in the shards."""

    folder: Path
    config: HybridConfig
    layout: Layout
    names: tuple[str, ...]
    headers: tuple[Header, ...]
    _where: dict[str, tuple[int, StoredTensor]]
    _open: tuple[int, SafetensorsFile] | None = field(default=None)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open shard; reading again opens it anew."""
        if self._open:
            self._open[1].close()
            self._open = None

    def dtype(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._locate(name)[1].dtype

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, under its official or its stacked name."""
        _, tensor, experts = self._locate(name)
        if isinstance(experts, list):
            return (len(experts), *tensor.shape)
        return tensor.shape if experts is None else tensor.shape[1:]

    def read(self, name: str, out: Raw | None = None) -> Raw:
        """A tensor's bytes (1-D) by official or stacked name, into `out` where it is given.

        Raises MissingError for an unknown name, UserError for an `out` of the wrong size.
        """
        size = math.prod(self.shape(name)) * ITEM_BYTES[self.dtype(name)]
        out = np.empty(size, dtype=np.uint8) if out is None else out
        if out.size != size:
            raise UserError(f"tensor {name} has {size} bytes, the buffer {out.size}")
        return self._read_part(name, 0, out)

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out` with whole rows of an official tensor from row `first` on; vectors are one row."""
        shape = self.shape(name)
        row = (shape[-1] if len(shape) > 1 else math.prod(shape)) * ITEM_BYTES[self.dtype(name)]
        return self._read_part(name, first * row, out)

    def _read_part(self, name: str, offset: int, out: Raw) -> Raw:
        shard, tensor, experts = self._locate(name)
        if isinstance(experts, list):  # a stacked name of the official layout: gather
            for expert, piece in zip(experts, out.reshape(len(experts), -1), strict=True):
                self._read_part(expert, 0, piece)
            return out
        start = 0 if experts is None else experts * (tensor.size // tensor.shape[0])
        return self._shard(shard).read_part(tensor.name, start + offset, out)

    def _locate(self, name: str) -> tuple[int, StoredTensor, int | list[str] | None]:
        """Shard and stored tensor; with the expert of a stacked one, or the experts that make up a stacked name."""
        if name in self._where:
            return (*self._where[name], None)
        stacked = stacked_name(name)
        if stacked and stacked[0] in self._where:
            shard, tensor = self._where[stacked[0]]
            if stacked[1] < tensor.shape[0]:
                return shard, tensor, stacked[1]
        prefix, _, matrix = name.rpartition(".experts.")
        experts = [f"{prefix}.experts.{e}.{matrix}" for e in range(self.config.num_local_experts)]
        if experts and experts[0] in self._where:
            return (*self._where[experts[0]], experts)
        raise MissingError(f"{self.folder} has no tensor {name}")

    def _shard(self, number: int) -> SafetensorsFile:
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = (number, SafetensorsFile(self.headers[number].path))
        return self._open[1]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a folder of either layout after comparing config, index and all headers.

    Raises MissingError (no config, shard or tensor), CorruptError (damage, a tensor twice, names or shapes that do not fit the
    config) or UserError (another architecture, float8, pickled weights).
    """
    folder = Path(path)
    values = read_config(folder)
    config, model_type = HybridConfig.from_dict(values), str(values.get("model_type", "arctic"))
    weight_map, headers = read_headers(folder)
    layout = layout_of(headers)
    if layout == "training" and model_type != "arctic":
        raise UserError(f"{folder} has the training layout and model_type {model_type!r}", "that layout is Arctic's")
    where: dict[str, tuple[int, StoredTensor]] = {}
    for number, header in enumerate(headers):
        for tensor in header.tensors.values():
            if tensor.name in where:
                other = headers[where[tensor.name][0]].path.name
                raise CorruptError(f"tensor {tensor.name} stands twice, in {other} and {header.path.name}")
            where[tensor.name] = (number, tensor)
            if weight_map and weight_map.get(tensor.name) != header.path.name:
                told = weight_map.get(tensor.name, "nowhere")
                raise CorruptError(f"tensor {tensor.name} stands in {header.path.name}, the index says {told}")
    for name, file in weight_map.items():
        if name not in where:
            raise MissingError(f"tensor {name} is not in {folder / file}, where the index says it is")
    tensors = {name: tensor for name, (_, tensor) in where.items()}
    _refuse_quantised(values, folder, {tensor.dtype for tensor in tensors.values()})
    check_tensors(config, {n: (t.dtype, t.shape) for n, t in tensors.items()}, layout, folder, model_type)
    official = {stored_name(name, model_type): name for name in layout_shapes(config, layout)}
    in_order = sorted(tensors, key=lambda name: (where[name][0], tensors[name].start))
    names = tuple(each for name in in_order for each in _official_names(official[name], config))
    return Checkpoint(folder, config, layout, names, headers, {official[name]: place for name, place in where.items()})


def _official_names(stored: str, config: HybridConfig) -> list[str]:
    """The official names of what a stored tensor holds."""
    prefix, experts, rest = stored.rpartition(".experts.")
    if experts and rest.startswith("w"):
        return [f"{prefix}.experts.{e}.{rest}" for e in range(config.num_local_experts)]
    return [stored]


def read_headers(folder: Path) -> tuple[dict[str, str], tuple[Header, ...]]:
    """The index (tensor -> file; empty where the only file needs none) and the headers of all shards.

    Raises MissingError for absent files, CorruptError for damaged ones, UserError for pickled weights and for a folder in which
    some programs would read one file and some the others.
    """
    weight_map = _weight_map(folder)
    if weight_map and (folder / SINGLE).is_file() and SINGLE not in weight_map.values():
        raise UserError(
            f"{folder} has both {SINGLE} and {INDEX}, which names other files", "remove the one that is not the model's"
        )
    return weight_map, tuple(read_header(file) for file in _shards(folder, weight_map))


def _weight_map(folder: Path) -> dict[str, str]:
    """Of the index: tensor -> file; empty where the only file needs none."""
    index = folder / INDEX
    if not index.exists():
        return {}
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        weight_map = values["weight_map"]
        is_sound = all(isinstance(v, str) and v == Path(v).name and v.endswith(".safetensors") for v in weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{index} is damaged: {type(error).__name__} {error}") from error
    if not is_sound or not weight_map:
        raise CorruptError(f"{index} is damaged: its weight_map must give a .safetensors file of this folder for each tensor")
    return dict(weight_map)


def _shards(folder: Path, weight_map: Mapping[str, str]) -> list[Path]:
    if weight_map:
        files = sorted(set(weight_map.values()))
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise MissingError(
                f"{folder} lacks {len(missing)} of {len(files)} shards: {some(missing)}", "get them, and start again"
            )
        return [folder / file for file in files]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    refuse_pickles(folder)
    loose = sorted(folder.glob("*.safetensors"))
    if loose:
        raise MissingError(f"{folder} has {len(loose)} shards and no {INDEX}", "the index says which tensors are whole")
    raise MissingError(f"{folder} holds no weights", f"a checkpoint has {SINGLE}, or shards and {INDEX}")


def refuse_pickles(path: Path) -> None:
    """Raise UserError for a pickled checkpoint, or a folder of such: reading one may run any code that is in it."""
    files = [path] if path.is_file() else [file for form in PICKLED for file in sorted(path.glob(form))]
    for file in files:
        if any(file.match(form) for form in PICKLED):
            raise UserError(
                f"{file} is a pickled checkpoint, which can run code when it is read: refused",
                "write safetensors where it comes from (save_pretrained of transformers does); "
                "a DeepSpeed folder, with mp_rank_00_model_states.pt, is read as plain tensors",
            )


def layout_of(headers: tuple[Header, ...]) -> Layout:
    """Which layout shards say they have. Raises CorruptError where they differ."""
    told = {header.metadata.get("layout") for header in headers}
    if told == {None}:
        return "huggingface"
    if told == {STACKED}:
        return "training"
    raise CorruptError(f"shards of {headers[0].path.parent} say different layouts: {', '.join(sorted(map(str, told)))}")


def check_tensors(
    config: HybridConfig, found: Mapping[str, tuple[str, Shape]], layout: Layout, source: Path, model_type: str = "arctic"
) -> None:
    """Compare names as `model_type` has them, shapes and dtypes with those of the config's model.

    Raises MissingError, CorruptError or UserError.
    """
    wanted = {stored_name(name, model_type): shape for name, shape in layout_shapes(config, layout).items()}
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    _check_dtypes(found, source)
    if missing:
        raise MissingError(
            f"{source} lacks {len(missing)} of {len(wanted)} tensors: {some(missing)}",
            _hint(extra, f"there is also {some(extra)}" if extra else _SAME_MODEL),
        )
    if extra:
        raise CorruptError(
            f"{source} has {len(extra)} tensors that its config does not know: {some(extra)}", _hint(extra, _SAME_MODEL)
        )
    for name, shape in wanted.items():
        if found[name][1] != shape:
            raise CorruptError(f"{source}: {name} has shape {found[name][1]}, the config says {shape}", _shape_hint(name, config))


def _check_dtypes(found: Mapping[str, tuple[str, Shape]], source: Path) -> None:
    first: dict[str, str] = {}
    for name, (dtype, _) in found.items():
        first.setdefault(dtype, name)
    for dtype, name in first.items():
        if dtype.startswith("F8_"):
            raise UserError(f"float8 checkpoints are not supported yet: {name} of {source} is {dtype}", "take the bfloat16 one")
        if dtype not in DTYPES:
            raise UserError(f"{source}: {name} is {dtype}; weights must be F32, F16 or BF16")
    if len(first) > 1:
        told = ", ".join(f"{name} is {dtype}" for dtype, name in first.items())
        raise UserError(f"{source} mixes dtypes: {told}", "all tensors of a checkpoint have one dtype")


def _refuse_quantised(config: Mapping[str, Any], folder: Path, dtypes: set[str]) -> None:
    quantisation = config.get("quantization_config")
    if quantisation is not None and not dtypes <= set(DTYPES):
        method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else quantisation
        stored = ", ".join(sorted(dtypes - set(DTYPES)))
        raise UserError(
            f"the weights of {folder} are quantised by {method} ({stored}), which is not supported",
            "transformers loads them; take the bfloat16 checkpoint for everything else",
        )


def _hint(extra: list[str], otherwise: str) -> str:
    if any("deepspeed" in name for name in extra):
        return "these are names of a DeepSpeed checkpoint: give its folder, with mp_rank_00_model_states.pt"
    if any(name.endswith((".experts.gate_up_proj", ".experts.down_proj")) for name in extra):
        return "the experts are stored as one tensor: save_pretrained of transformers stores each"
    return otherwise


def _shape_hint(name: str, config: HybridConfig) -> str:
    if any(f".{part}_proj." in name for part in "qkv"):
        return f"num_attention_heads is {config.num_attention_heads}, num_key_value_heads {config.num_key_value_heads}"
    return _SAME_MODEL


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
