"""From a checked GGUF file to the native model: which tensor goes where.

Nothing large happens before everything is known to fit: first the vectors are read and the sizes added up, then memory is asked
for, then the matrices are packed, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openarctic.engine.panels import Packed, PanelCache, Place, is_wanted, packed_of
from openarctic.errors import CapacityError, CorruptError, UserError
from openarctic.formats import GGUFFile, HybridConfig
from openarctic.formats.names import rotates_halves
from openarctic.formats.quants import TYPES
from openarctic.machine import available_bytes, check_memory, checked_threads
from openarctic.native._native import Model

# Bytes of the file's weights that have been packed, of all.
OnProgress = Callable[[int, int], None]

# Bytes of 32 weights in panels (native/kernels.h).
_PACKED_BYTES = {"F32": 128, "F16": 64, "BF16": 64, "Q8_0": 34, "Q6_K": 28, **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), 24)}
_SMALLER = "a file with fewer bits a weight takes less"


def load_model(
    file: GGUFFile,
    config: HybridConfig,
    *,
    pages: int,
    threads: int | None,
    cache_type: str,
    kernels: str = "",
    on_progress: OnProgress | None = None,
    repack_cache: bool | None = None,
) -> Model:
    """A native model with room for `pages` of keys and values. `kernels` "" takes the fastest that the processor has.

    `threads` None takes what the process may use; they pack the weights, too. `on_progress` is called after each layer.
    `repack_cache` keeps the packed weights in a file for the next time (panels.py; None: as the environment says, else from
    768 MiB on). Raises UserError, CorruptError for numbers that are not finite, and CapacityError where there is not enough
    memory: the process can go on then, nothing is held.
    """
    threads, needed = checked_threads(threads), weight_bytes(file, config)
    what = f"loading {file.paths[0].name}"
    cache = PanelCache(file.paths, threads) if is_wanted(repack_cache, needed) else None
    panels = cache.open() if cache else None
    if panels is None:
        check_memory(needed, what, _SMALLER)
    try:
        model, places = _load(file, config, pages, threads, cache_type, kernels, on_progress, panels or {})
        if cache and panels is None:
            cache.save(packed_of(model, places))
    except MemoryError as error:
        available = available_bytes()
        told = "" if available is None else f", {available / 1e9:.2f} GB are available"
        message = f"{what} takes {needed / 1e9:.2f} GB of memory for weights and more for keys and values{told}"
        raise CapacityError(message, _SMALLER) from error
    if on_progress:
        total = _file_bytes(file)
        on_progress(total, total)
    return model


def _file_bytes(file: GGUFFile) -> int:
    return sum(tensor.data.size for tensor in file.tensors.values())


def weight_bytes(file: GGUFFile, config: HybridConfig) -> int:
    """What the matrices of a checked file take in memory. Those few that need 32 bits a weight are not told beforehand."""
    total = 0
    for name, tensor in file.tensors.items():
        if len(tensor.shape) == 1 or name.endswith("ffn_gate_inp.weight"):
            continue
        *_, rows, cols = tensor.shape
        if name == "token_embd.weight":
            total += tensor.data.size
            if not config.tie_word_embeddings:
                continue
        count = tensor.shape[0] if len(tensor.shape) == 3 else 1
        total += count * -(-rows // 8) * 8 * cols * _PACKED_BYTES.get(tensor.type, 20) // 32
    return total


def _load(
    file: GGUFFile,
    config: HybridConfig,
    pages: int,
    threads: int,
    cache_type: str,
    kernels: str,
    on_progress: OnProgress | None,
    panels: dict[Place, Packed],
) -> tuple[Model, list[Place]]:
    model = Model(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        eps=config.rms_norm_eps,
        theta=config.rope_theta,
        threads=threads,
        pages=pages,
        cache_type=cache_type,
        rotates_halves=rotates_halves(config),
        renormalizes=config.renormalizes,
        kernels=kernels,
    )
    loader = _Loader(file, config, model, panels)
    loader.vectors()
    total = _file_bytes(file)
    done = 0
    for layer in range(config.num_hidden_layers):
        loader.layer(layer)
        done += sum(tensor.data.size for name, tensor in file.tensors.items() if name.startswith(f"blk.{layer}."))
        if on_progress:
            on_progress(done, total)
    loader.ends()
    return model, loader.places


@dataclass(frozen=True, slots=True)
class _Loader:
    """Hands the tensors of a checked file to the native model."""

    file: GGUFFile
    config: HybridConfig
    model: Model
    panels: dict[Place, Packed]  # that were packed before
    places: list[Place] = field(default_factory=list)  # of all matrices

    def vectors(self) -> None:
        """All norms, biases and routers. Raises CorruptError, and UserError for an MLP that panels of 8 rows cannot hold."""
        for index in range(self.config.num_hidden_layers):
            self._layer_vectors(index, f"blk.{index}.")
        self._vector(-1, "output_norm", "output_norm")

    def _layer_vectors(self, index: int, prefix: str) -> None:
        config = self.config
        for name in "qkv":
            if config.qkv_bias:
                self._vector(index, f"{name}_bias", f"{prefix}attn_{name}", "bias")
            if config.qk_norm != "none" and name != "v":
                self._vector(index, f"{name}_norm", f"{prefix}attn_{name}_norm")
        self._vector(index, "attn_norm", f"{prefix}attn_norm")
        self._vector(index, "ffn_norm", f"{prefix}ffn_norm")
        if config.is_moe_layer(index):
            self._vector(index, "router", f"{prefix}ffn_gate_inp")
            if config.is_parallel_layer(index):
                self._vector(index, "moe_norm", f"{prefix}ffn_norm_exps")
        for name in ("ffn_gate", "ffn_gate_exps"):
            tensor = self.file.tensors.get(f"{prefix}{name}.weight")
            if tensor and tensor.shape[-2] % 8:
                raise UserError(f"an MLP of width {tensor.shape[-2]} is not supported", "it must be a multiple of 8")

    def layer(self, index: int) -> None:
        """All matrices of one layer."""
        config, prefix = self.config, f"blk.{index}."
        for name in "qkv":
            self._set(index, name, f"{prefix}attn_{name}")
        self._set(index, "o", f"{prefix}attn_output")
        if not config.is_moe_layer(index) or config.is_parallel_layer(index):
            self._set(index, "gate_up", f"{prefix}ffn_gate", f"{prefix}ffn_up")
            self._set(index, "down", f"{prefix}ffn_down")
        if config.is_moe_layer(index):
            self._set(index, "expert_gate_up", f"{prefix}ffn_gate_exps", f"{prefix}ffn_up_exps")
            self._set(index, "expert_down", f"{prefix}ffn_down_exps")

    def ends(self) -> None:
        """Embedding and head."""
        self.model.set_embedding(self._matrix("token_embd"))
        self._set(-1, "head", "token_embd" if self.config.tie_word_embeddings else "output")

    def _set(self, layer: int, name: str, *tensors: str) -> None:
        """One matrix, or two whose panels alternate; all experts' at once."""
        self.places.append((layer, name))
        matrices = [self._matrix(tensor) for tensor in tensors]
        _, rows, cols, _ = matrices[0]
        packed = self.panels.get((layer, name))
        if packed and packed[1:3] == (-(-rows // 8) * 8 * len(tensors), cols):
            self.model.lend_matrix(layer, name, *packed)
        else:
            self.model.set_matrix(layer, name, matrices, len(tensors) > 1)

    def _matrix(self, name: str) -> tuple[int, int, int, Any]:
        """Type, shape and bytes; of all experts' matrices the shape of one."""
        tensor = self.file.tensors[f"{name}.weight"]
        *_, rows, cols = tensor.shape
        return TYPES[tensor.type].code, rows, cols, tensor.data

    def _vector(self, layer: int, name: str, tensor: str, kind: str = "weight") -> None:
        values = self.file.dequantize(f"{tensor}.{kind}").reshape(-1)
        if not np.isfinite(values).all():
            raise CorruptError(f"tensor {tensor}.{kind} holds values that are not finite")
        self.model.set_vector(layer, name, np.ascontiguousarray(values, np.float32))
