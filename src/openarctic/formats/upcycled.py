"""A dense model seen as the hybrid that it becomes: its tensors under their new names, and new ones for routers and experts.

The layer's MLP becomes the residual MLP, its norm serves both branches, and an expert is made of some of the MLP's neurons, or
drawn at random. Its output matrix is zero, so the new branch adds nothing until it has learned something: the logits are those
of the dense model. `UpcycledSource` is a `Source`, so `convert` writes the hybrid in any form, piece by piece and resumable.

E experts, W width of one, H hidden.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openarctic.config import read_object
from openarctic.errors import MissingError, UserError
from openarctic.formats.clusters import Indices, equal_groups, spherical_kmeans, unit
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import read_gguf
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import TYPES, F32Array, Raw, byte_size, dequantize, quantize
from openarctic.formats.sources import ChangedSource, GGUFSource, Source, base, is_gguf
from openarctic.formats.verify import OnBytes

Experts = Literal["slices", "random", "clustered"]
RECORD = "upcycled"  # the key of a `config.json`, and what keys of a GGUF file begin with after `openarctic.`
ROUTER_STD = 0.02
_MLP = re.compile(r"model\.layers\.(\d+)\.block_sparse_moe\.mlp\.(w[123])\.weight")
_EXPERT = re.compile(r"model\.layers\.(\d+)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")
_GATE = re.compile(r"model\.layers\.(\d+)\.block_sparse_moe\.gate\.weight")
_NORM = re.compile(r"model\.layers\.(\d+)\.post_attention_layernorm\.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpcycleConfig:
    """What a dense model gets: `num_local_experts` of width `intermediate_size` in each of `layers` (0-based).

    `experts`: "slices" of the MLP (disjoint as long as there are enough neurons), "clustered" (neurons that are alike, see
    `clustered`), or "random". `is_warm`: the routers were fitted on a text. `freeze_dense` is a record for the trainer: only
    what is new shall learn.
    """

    layers: tuple[int, ...]
    num_local_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    experts: Experts = "slices"
    is_warm: bool = False
    freeze_dense: bool = False
    seed: int = 0


def hybrid_config(dense: HybridConfig, config: UpcycleConfig) -> HybridConfig:
    """The hybrid's sizes. Raises UserError for a model or experts that cannot be upcycled."""
    if dense.num_local_experts:
        raise UserError("the model has experts already", "only a dense model can be upcycled")
    if dense.qk_norm != "none":
        told = f"a {dense.model_type} model cannot be upcycled: it normalises queries and keys"
        raise UserError(told, "models of the Llama and Qwen2 families can be")
    if config.num_local_experts < 1 or not config.layers:
        raise UserError(f"{config.num_local_experts} experts in {len(config.layers)} layers are none", "at least 1 of each")
    width = dense.dense_width
    if config.experts != "random" and config.intermediate_size > width:
        told = f"experts of width {config.intermediate_size} are wider than the MLP they start from ({width})"
        raise UserError(told, "make them narrower, or start them at random")
    return replace(
        dense,
        num_local_experts=config.num_local_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        norm_topk_prob=None,
        intermediate_size=config.intermediate_size,
        moe_layer_frequency=1,
        moe_layers=tuple(config.layers),
        parallel_attn_mlp_res=True,
        residual_intermediate_size=width,
        dense_intermediate_size=width,
    )


def slices(width: int, config: UpcycleConfig) -> dict[int, Indices]:
    """The neurons of an MLP of `width` that experts start from, layer -> [E, W]: permutations, cut into experts."""
    per_round = width // config.intermediate_size
    found = {}
    for layer in config.layers:
        rng = np.random.default_rng((config.seed, layer))
        rounds = [rng.permutation(width) for _ in range(-(-config.num_local_experts // per_round))]
        cut = [each[: per_round * config.intermediate_size].reshape(per_round, -1) for each in rounds]
        found[layer] = np.sort(np.concatenate(cut)[: config.num_local_experts], axis=1)
    return found


def clustered(features_ND: F32Array, config: UpcycleConfig, layer: int) -> Indices:
    """Neurons [E, W] that are alike: around the directions of k-means over their features, as disjoint as there are enough.

    Features may be what a text makes of the neurons (their activations, one column a token), so that those which fire
    together form an expert, or without a text the rows of the gate matrix (both as in MoEfication, arXiv 2110.01786).
    """
    rng = np.random.default_rng((config.seed, layer))
    centers = spherical_kmeans(features_ND, config.num_local_experts, rng)
    return equal_groups(unit(features_ND) @ centers.T, config.intermediate_size)


def clustered_by_weights(source: Source, config: UpcycleConfig) -> dict[int, Indices]:
    """Layer -> `clustered` neurons by their gate rows, one matrix in memory at a time."""
    shape = (source.config.dense_width, source.config.hidden_size)
    found = {}
    for layer in config.layers:
        name = f"model.layers.{layer}.block_sparse_moe.mlp.w1.weight"
        type_ = source.type_of(name)
        raw = source.read_rows(name, 0, np.empty(byte_size(type_, shape), np.uint8))
        found[layer] = clustered(dequantize(raw, type_, shape), config, layer)
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """What new tensors are made of. `neurons` (layer -> [E, W]) say which of the MLP's an expert is; experts of layers without
    start at random. `routers` (layer -> [E, H]) are normal with `ROUTER_STD` where they are not given.
    """

    neurons: Mapping[int, Indices]
    routers: Mapping[int, F32Array]


def choose_neurons(source: Source, config: UpcycleConfig) -> dict[int, Indices]:
    """The neurons that `config.experts` asks for, without a text."""
    if config.experts == "random":
        return {}
    return clustered_by_weights(source, config) if config.experts == "clustered" else slices(source.config.dense_width, config)


class UpcycledSource(ChangedSource):
    """The hybrid of a dense source. `fit` is called when its answer is first needed, after a conversion's cheaper checks.

    Raises what `hybrid_config` raises.
    """

    def __init__(self, source: Source, config: UpcycleConfig, fit: Callable[[], Fit] | None = None) -> None:
        self.source, self.path = source, source.path
        self.config = hybrid_config(source.config, config)
        self._asked = config
        self._fit = fit or (lambda: Fit(choose_neurons(source, config), {}))
        self._fitted: Fit | None = None
        self._shapes = state_dict_shapes(self.config)
        self._dense_shapes = state_dict_shapes(source.config)
        self._origins = {name: old for old in source.names for name in self._made_of(old)}
        self.names = tuple(self._origins)
        self.record = {RECORD: {**asdict(config), "layers": list(config.layers)}}
        self._kept: tuple[str, Raw] | None = None

    @property
    def fit(self) -> Fit:
        """Neurons and routers."""
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def origin(self, name: str) -> str | None:
        """The dense tensor that this one is, bit for bit; None for a new one."""
        is_new = _EXPERT.fullmatch(name) or _GATE.fullmatch(name)
        return None if is_new else self._origins[name]

    def type_of(self, name: str) -> str:
        """As the tensor it is made of where that type can hold it, else F32."""
        expert = _EXPERT.fullmatch(name)
        type_ = self.source.type_of(self._origins[name])
        if _GATE.fullmatch(name):
            return "F32"
        if expert and self._asked.experts == "random" and TYPES[type_].block_values > 1:
            return "F32"
        return "F32" if self._shapes[name][-1] % TYPES[type_].block_values else type_

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        gate, expert = _GATE.fullmatch(name), _EXPERT.fullmatch(name)
        if gate:
            return _fill(out, self._router(int(gate[1])), first, "F32")
        if not expert:
            return self.source.read_rows(self._origins[name], first, out)
        layer, number, matrix = int(expert[1]), int(expert[2]), expert[3]
        if matrix == "w2":
            out[:] = 0  # which is zero in every number type
            return out
        neurons = self.fit.neurons.get(layer)
        if neurons is None:
            rng = np.random.default_rng((self._asked.seed, layer, number, int(matrix[1])))
            values = rng.standard_normal(self._shapes[name], np.float32) / np.float32(self.config.hidden_size**0.5)
            return _fill(out, values, first, self.type_of(name))
        rows = self._matrix(self._origins[name])
        count = out.size // rows.shape[1]
        out.reshape(count, -1)[:] = rows[neurons[number, first : first + count]]
        return out

    def verify(self, on_bytes: OnBytes) -> None:
        """As the source."""
        self.source.verify(on_bytes)

    def fingerprint(self) -> Any:
        """The source's, what was asked, and a hash of neurons and routers."""
        digest = hashlib.sha256()
        for layer, neurons in sorted(self.fit.neurons.items()):
            digest.update(f"neurons {layer} {neurons.shape}".encode() + neurons.tobytes())
        for layer, router in sorted(self.fit.routers.items()):
            digest.update(f"router {layer} {router.shape}".encode() + router.tobytes())
        return [asdict(self._asked), digest.hexdigest(), self.source.fingerprint()]

    def close(self) -> None:
        """Close the source."""
        self._kept = None
        self.source.close()

    def _made_of(self, old: str) -> Iterator[str]:
        """The hybrid's tensors that a dense tensor gives, itself first."""
        mlp, norm = _MLP.fullmatch(old), _NORM.fullmatch(old)
        layer = int((mlp or norm)[1]) if mlp or norm else -1  # type: ignore[index]
        if layer not in self._asked.layers:
            yield old
            return
        prefix = f"model.layers.{layer}."
        moe = prefix + "block_sparse_moe."
        if norm:
            yield from (f"{prefix}residual_layernorm.weight", old, f"{moe}gate.weight")
        if mlp:
            yield f"{prefix}residual_mlp.{mlp[2]}.weight"
            yield from (f"{moe}experts.{e}.{mlp[2]}.weight" for e in range(self._asked.num_local_experts))

    def _matrix(self, old: str) -> Raw:
        """A dense matrix as raw rows; the last one read is kept, as all experts of a layer ask for it in turn."""
        if self._kept is None or self._kept[0] != old:
            shape = self._dense_shapes[old]
            raw = np.empty(byte_size(self.source.type_of(old), shape), np.uint8)
            self._kept = (old, self.source.read_rows(old, 0, raw).reshape(shape[0], -1))
        return self._kept[1]

    def _router(self, layer: int) -> F32Array:
        if layer in self.fit.routers:
            return self.fit.routers[layer]
        rng = np.random.default_rng((self._asked.seed, layer, self._asked.num_local_experts))
        shape = (self._asked.num_local_experts, self.config.hidden_size)
        return rng.standard_normal(shape, np.float32) * np.float32(ROUTER_STD)


def _fill(out: Raw, values: F32Array, first: int, type: str) -> Raw:
    """Rows from `first` on, as many as there is room for."""
    count = out.size // byte_size(type, values.shape[-1:])
    out[:] = quantize(values[first : first + count], type)
    return out


def exact_type(source: Source, destination: Path) -> str | None:
    """The number type in which a dense source's values survive in `destination`: None keeps a GGUF file's own types, a folder
    gets the one float type that all tensors have, else F32.
    """
    if is_gguf(destination) and isinstance(base(source), GGUFSource):
        return None
    types = {source.type_of(name) for name in source.names}
    return types.pop() if len(types) == 1 and types <= {"F32", "F16", "BF16"} else "F32"


def upcycle_record(path: str | Path) -> dict[str, Any]:
    """What a hybrid's file or folder says of its making, empty if it was not upcycled. Raises MissingError or CorruptError."""
    path = Path(path)
    if is_gguf(path):
        start = f"openarctic.{RECORD}."
        return {key.removeprefix(start): value for key, value in read_gguf(path).metadata.items() if key.startswith(start)}
    if not (path / "config.json").is_file():
        raise MissingError(f"no config at {path / 'config.json'}", "give a checkpoint folder or a .gguf file")
    values = read_object(path / "config.json").get(RECORD)
    return dict(values) if isinstance(values, dict) else {}
