"""Bytes of weights and of keys and values.

A precision's bytes are bare: bits x parameters. What a format adds for scales (3 % for one fp16 per 128 weights of 4 bits) is
in the bytes of the GGUF types, which are exact, and has to fit the part of a GPU's memory that `fit` leaves unused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from openarctic.errors import UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.mixture import choose_types
from openarctic.formats.names import tensor_table
from openarctic.formats.quants import byte_size
from openarctic.planner.parameters import parameters

# Precision -> bits of a weight.
PRECISIONS: Mapping[str, int] = {"fp32": 32, "bf16": 16, "fp8": 8, "int8": 8, "int4": 4}
# Form of keys and values -> bytes of a value; Q8_0 stores 34 bytes for 32 values.
KV_FORMS: Mapping[str, float] = {"bf16": 2, "fp8": 1, "q8_0": 34 / 32}


def bits(precision: str) -> int:
    """Bits of a weight. Raises UserError for an unknown precision."""
    if precision not in PRECISIONS:
        raise UserError(f"no precision named {precision!r}", f"known: {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def weight_bytes(config: HybridConfig, precision: str) -> int:
    """Bytes of all weights at `precision`, bare. Raises UserError for an unknown precision."""
    return parameters(config).total * bits(precision) // 8  # exact: every tensor has an even side, as heads are even


def gguf_bytes(config: HybridConfig, file_type: str) -> int:
    """Bytes of all tensors of a GGUF file of that type (of `formats.mixture.FILE_TYPES`), exactly.

    Raises UserError for an unknown type and when the model cannot be stored so.
    """
    types = choose_types(config, file_type)
    return sum(byte_size(types[spec.gguf], spec.gguf_shape) for spec in tensor_table(config))


def kv_bytes_per_token(config: HybridConfig, bytes_per_value: float = 2) -> int:
    """Bytes that one token of context keeps: a key and a value in each layer and key-value head."""
    return math.ceil(2 * config.num_hidden_layers * config.kv_width * bytes_per_value)
