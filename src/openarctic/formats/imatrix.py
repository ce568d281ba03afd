"""Importance of a matrix's columns, in files as llama.cpp's `llama-imatrix` writes them.

It is a GGUF file with `general.type` "imatrix" and, for each weight NAME, `NAME.in_sum2` (the sums of squares of what each
column was multiplied with; one row an expert) and `NAME.counts` (how many inputs that were; one an expert).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import CorruptError, UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import TensorData, read_gguf, write_gguf
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import F32Array

CHUNK_TOKENS = 512
CALIBRATION_KEY = "openarctic.calibration"


@dataclass(slots=True)
class Importance:
    """Of one GGUF tensor: sums of squared inputs [N, columns] and tokens counted [N]; N is 1, or the number of experts."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def mean(self) -> F32Array:
        """Mean squares [N, columns]; ones for an expert that no token reached."""
        counts = self.counts[:, None]
        return np.where(counts > 0, self.sums / np.maximum(counts, 1), 1.0).astype(np.float32)


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


def calibration_of(path: str | Path) -> str | None:
    """What an imatrix file says it was measured on, as `write_imatrix` was told."""
    found = read_gguf(path).metadata.get(CALIBRATION_KEY)
    return found if isinstance(found, str) else None


def write_imatrix(
    path: str | Path,
    importance: Mapping[str, Importance],
    dataset: str,
    chunk_tokens: int = CHUNK_TOKENS,
    calibration: str | None = None,
) -> None:
    """Write importances by GGUF tensor name; `dataset` names the calibration text, `chunk_tokens` the length of its pieces.

    `calibration` identifies model and text, for `calibration_of`.
    """
    tensors: dict[str, TensorData] = {}
    for name, own in importance.items():
        for key, values in (("in_sum2", own.sums), ("counts", own.counts[:, None])):
            stored = np.ascontiguousarray(values, np.float32)
            tensors[f"{name}.{key}"] = ("F32", stored.shape, stored.view(np.uint8).reshape(-1))
    tokens = int(max(own.counts.max() for own in importance.values()))
    told = {} if calibration is None else {CALIBRATION_KEY: calibration}
    metadata = {
        **told,
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": -(-tokens // chunk_tokens),
        "imatrix.chunk_size": chunk_tokens,
    }
    write_gguf(path, metadata, tensors)
