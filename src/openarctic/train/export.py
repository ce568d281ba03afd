"""A trained model as files: a GGUF file for the engine, a folder of safetensors for training and transformers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from openarctic.errors import UserError
from openarctic.formats import to_gguf, write_gguf
from openarctic.model import ArcticForCausalLM
from openarctic.tokenizer import Tokenizer


def export_model(model: ArcticForCausalLM, tokenizer: Tokenizer, out: Path, name: str, type_: str = "F16") -> tuple[Path, ...]:
    """Write `out/model.gguf` (matrices of `type_`) and the folder `out/model`, each whole or not at all.

    Raises UserError for biases of loss-free balancing, which neither form can hold.
    """
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    if biases := [name for name in state if name.endswith("choice_bias")]:
        raise UserError(
            f"{len(biases)} routers choose by a bias, which neither GGUF nor Arctic's checkpoints have a place for",
            "the checkpoints of the run are whole; resume it with routing.bias_update_rate=0, and more steps to learn without",
        )
    described = {"general.name": name, "general.basename": name}
    metadata, tensors = to_gguf(model.config.shape, state, lambda *_: type_, {**described, **tokenizer.to_gguf_metadata()})
    paths = write_gguf(out / "model.gguf", metadata, tensors)
    folder, partial = out / "model", out / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with torch.no_grad():
        model.save_pretrained(partial)
    tokenizer.save_huggingface(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return (*paths, folder)
