"""A trained model as files: a GGUF file for the engine, a folder of safetensors for training and transformers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from openarctic.errors import UserError
from openarctic.formats import HybridConfig, to_gguf, write_gguf
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import TYPES, byte_size
from openarctic.model import ArcticForCausalLM
from openarctic.planner.training import FP32
from openarctic.tokenizer import Tokenizer
from openarctic.train.room import num_parameters


def check_export_type(shape: HybridConfig, type_: str) -> None:
    """Raise UserError, before a run, for a type that there is not or that cannot hold a matrix of the model."""
    if type_ not in TYPES:
        raise UserError(f"export_type {type_} is unknown", f"known: {', '.join(TYPES)}")
    block = TYPES[type_].block_values
    for spec in tensor_table(shape):
        if not spec.is_kept_f32 and spec.shape[-1] % block:
            raise UserError(
                f"export_type {type_} takes rows of a multiple of {block} values, {spec.hf[0]} has {spec.shape[-1]}",
                "choose another type, such as F16, or change the model's sizes",
            )


def gguf_bytes(shape: HybridConfig, type_: str) -> int:
    """Of the weights in a GGUF file with matrices of that type."""
    return sum(byte_size("F32" if spec.is_kept_f32 else type_, spec.gguf_shape) for spec in tensor_table(shape))


def exported_bytes(shape: HybridConfig, type_: str) -> int:
    """Of the weights in all that `export_model` writes; the folder has them in fp32, as they were trained."""
    return gguf_bytes(shape, type_) + FP32 * num_parameters(shape)


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
