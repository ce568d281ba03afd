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
from openarctic.model.routing import RoutingConfig
from openarctic.planner.training import FP32
from openarctic.tokenizer import Tokenizer
from openarctic.train.config import TrainConfig
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


def note_balancing(routing: RoutingConfig, config: TrainConfig) -> tuple[str, ...]:
    """What whoever starts a run should know of loss-free balancing. Raises UserError for a run that would end with biases, which
    cannot be exported."""
    if not routing.bias_update_rate:
        return ()
    share = config.unbiased_share
    if not share or (config.steps and config.steps * share < 1):
        raise UserError(
            f"with routing.bias_update_rate routers choose by a bias, which exported files have no place for, and "
            f"unbiased_share {share:g} leaves no step to learn without",
            "set a larger train.unbiased_share, or routing.bias_update_rate=0",
        )
    return (f"the last {share:.0%} of the run are without the biases of loss-free balancing, as the exported files are",)


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
            "the checkpoints of the run are whole; --resume STEP goes back to an earlier one, and train.unbiased_share says how "
            "much of the run is then learned without",
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
