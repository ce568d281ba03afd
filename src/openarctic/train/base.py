"""The model that a run begins with, where it does not begin from scratch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from openarctic.errors import MissingError
from openarctic.formats.gguf import read_gguf
from openarctic.formats.sources import open_source
from openarctic.formats.upcycled import upcycle_record
from openarctic.model import ArcticForCausalLM, load_model
from openarctic.tokenizer import Tokenizer
from openarctic.train.room import check_weights
from openarctic.train.upcycle import freeze_dense


def load_base(path: Path) -> ArcticForCausalLM:
    """A checkpoint folder or GGUF file in fp32, on the GPU where there is one.

    Where an upcycled one says so (`--freeze-dense`), only what is new in it learns. Raises what reading it raises, and
    CapacityError where its weights do not fit.
    """
    source = open_source(path)
    source.close()
    check_weights(source.config)
    model = load_model(path).float().to("cuda" if torch.cuda.is_available() else "cpu")
    if upcycle_record(path).get("freeze_dense"):
        freeze_dense(model)
    return model


def identify_base(path: Path) -> dict[str, str]:
    """Its `path`, and the `sha256` of its config and weights."""
    digest = hashlib.sha256()
    for part in [path / "config.json", *sorted(path.glob("*.safetensors"))] if path.is_dir() else read_gguf(path).paths:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"path": str(path), "sha256": digest.hexdigest()}


def note_frozen(model: ArcticForCausalLM) -> tuple[str, ...]:
    """What whoever starts a run should know of the parameters that do not learn."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return (f"{frozen:,} of {sum(p.numel() for p in model.parameters()):,} parameters are frozen",) if frozen else ()


def read_tokenizer(path: Path) -> Tokenizer:
    """Of a checkpoint folder or a GGUF file. Raises MissingError, UserError or CorruptError."""
    if not path.exists():
        raise MissingError(f"there is no model at {path}", "give a checkpoint folder or a GGUF file")
    return Tokenizer.from_huggingface(path) if path.is_dir() else Tokenizer.from_gguf_metadata(read_gguf(path).metadata)
