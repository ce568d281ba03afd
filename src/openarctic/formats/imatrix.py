"""Importance of a matrix's columns, from a file as llama.cpp's `llama-imatrix` writes it.

It is a GGUF file with `general.type` "imatrix" and, for each weight NAME, `NAME.in_sum2` (the sums of squares of what each
column was multiplied with; one row an expert) and `NAME.counts` (how many inputs that were; one an expert).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openarctic.errors import CorruptError, UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import read_gguf
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import F32Array


def read_imatrix(path: str | Path, config: HybridConfig) -> dict[str, F32Array]:
    """GGUF tensor name -> mean squares [experts or 1, columns]; an expert that saw no input counts every column alike.

    Raises UserError for a file of another kind or model, CorruptError for a damaged one.
    """
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        raise UserError(f"{path} is no importance matrix", "llama-imatrix writes one; its general.type is imatrix")
    specs = {spec.gguf: spec for spec in tensor_table(config)}
    importance = {}
    for name in (name.removesuffix(".in_sum2") for name in file.tensors if name.endswith(".in_sum2")):
        if name not in specs:
            raise UserError(f"{path} is of another model: it has {name}")
        if f"{name}.counts" not in file.tensors:
            raise CorruptError(f"{path} lacks {name}.counts")
        shape = (len(specs[name].hf), specs[name].shape[-1])
        sums, counts = file.dequantize(f"{name}.in_sum2"), file.dequantize(f"{name}.counts")
        if sums.size != shape[0] * shape[1] or counts.size != shape[0]:
            raise UserError(f"{path} is of another model: {name} has {sums.size} sums, this model's needs {shape}")
        sums, counts = sums.reshape(shape), counts.reshape(-1, 1)
        if not (np.isfinite(sums).all() and np.isfinite(counts).all() and (sums >= 0).all()):
            raise CorruptError(f"{path}: {name} has sums that are negative or not finite")
        importance[name] = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32)
    if not importance:
        raise UserError(f"{path} has no sums in it")
    return importance
