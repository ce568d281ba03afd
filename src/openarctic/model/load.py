"""Any form of a model into torch: a GGUF file, or a checkpoint folder of either layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openarctic.formats import HybridConfig, from_gguf, read_gguf
from openarctic.formats.checkpoint import open_checkpoint
from openarctic.formats.quants import Raw
from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import ArcticForCausalLM

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(path: str | Path, dtype: torch.dtype | None = None) -> ArcticForCausalLM:
    """The model, ready to evaluate; `dtype` None keeps what is stored (float32 for a GGUF file).

    Raises MissingError, CorruptError or UserError as the file or folder gives reason to.
    """
    path = Path(path)
    if path.is_dir():
        with open_checkpoint(path) as checkpoint:
            config = checkpoint.config
            state = {n: as_tensor(checkpoint.read(n), checkpoint.dtype(n), checkpoint.shape(n)) for n in checkpoint.names}
    else:
        config, values = from_gguf(read_gguf(path))
        state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in values.items()}
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
