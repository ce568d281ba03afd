"""A whole model in memory: config and float32 tensors under Hugging Face names, from a GGUF file or a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from openarctic.formats.checkpoint import open_checkpoint
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import read_gguf
from openarctic.formats.names import from_gguf
from openarctic.formats.quants import F32Array, dequantize


def read_state(path: str | Path) -> tuple[HybridConfig, dict[str, F32Array]]:
    """Everything, four bytes a parameter. Raises what `read_gguf` and `open_checkpoint` raise."""
    path = Path(path)
    if not path.is_dir():
        return from_gguf(read_gguf(path))
    with open_checkpoint(path) as checkpoint:
        state = {n: dequantize(checkpoint.read(n), checkpoint.dtype(n), checkpoint.shape(n)) for n in checkpoint.names}
    if checkpoint.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return checkpoint.config, state
