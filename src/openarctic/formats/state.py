"""Tensors as float32 under Hugging Face names, from any source: one at a time, or a whole model in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openarctic.formats.config import HybridConfig
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import F32Array, byte_size, dequantize
from openarctic.formats.sources import Source, open_source


def read_tensor(source: Source, name: str, shape: tuple[int, ...]) -> F32Array:
    """One tensor of a source; `shape` is that of `state_dict_shapes`."""
    type_ = source.type_of(name)
    raw = source.read_rows(name, 0, np.empty(byte_size(type_, shape), np.uint8))
    return dequantize(raw, type_, shape)


def read_state(path: str | Path) -> tuple[HybridConfig, dict[str, F32Array]]:
    """Config and all tensors of a GGUF file or checkpoint folder, four bytes a parameter. Raises what `open_source` raises."""
    source = open_source(path)
    try:
        shapes = state_dict_shapes(source.config)
        state = {name: read_tensor(source, name, shapes[name]) for name in source.names}
    finally:
        source.close()
    if source.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return source.config, state
