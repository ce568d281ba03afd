"""Any form of a model into torch: a GGUF file, or a checkpoint folder of either layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openarctic.formats import HybridConfig, from_gguf
from openarctic.formats.quants import Raw
from openarctic.formats.sources import FolderSource, open_source
from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import ArcticForCausalLM

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(path: str | Path, dtype: torch.dtype | None = None) -> ArcticForCausalLM:
    """The model, ready to evaluate; `dtype` None keeps what is stored (float32 for a GGUF file).

    Raises MissingError, CorruptError or UserError as the file or folder gives reason to.
    """
    source = open_source(path)
    try:
        config = source.config
        if isinstance(source, FolderSource):
            stored = source.checkpoint
            state = {n: as_tensor(stored.read(n), stored.dtype(n), stored.shape(n)) for n in stored.names}
        else:
            values = from_gguf(source.file)[1]
            state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in values.items()}
    finally:
        source.close()
    return assemble(config, state, dtype)


def assemble(config: HybridConfig, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> ArcticForCausalLM:
    """A model that takes over the tensors of `state` without a copy."""
    with torch.device("meta"):
        model = ArcticForCausalLM(ArcticConfig.from_shape(config))
    if config.tie_word_embeddings:
        state = {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
    model.load_state_dict({n: t.to(dtype) for n, t in state.items()} if dtype else state, assign=True)
    model.tie_weights()
    return model.eval()


def as_tensor(raw: Raw, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Bytes as they are stored (F32, F16 or BF16) as a tensor that shares them."""
    return torch.from_numpy(raw).view(_DTYPES[dtype]).view(shape)
