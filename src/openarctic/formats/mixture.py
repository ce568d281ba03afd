"""Which type each tensor gets in a file of a given type: a mixture, chosen as llama.cpp's `llama-quantize` chooses.

A file's type says what most of its matrices are. Norms and routers stay F32; the output head (or the embedding that doubles
as one) gets Q6_K; the _S and _M mixtures give more bits to the value projections and the down projections of some layers;
rows that are no whole number of blocks fall back to a type of smaller blocks.
"""

from __future__ import annotations

import difflib
import re

from openarctic.errors import UserError
from openarctic.formats.config import HybridConfig
from openarctic.formats.names import TensorSpec, gguf_architecture, tensor_table
from openarctic.formats.quants import TYPES

# Number of a file's type in its key `general.file_type`.
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "BF16": 32,
    "Q8_0": 7,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
}
ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# For rows that are no multiple of 256; F16 where 32 does not divide them either.
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def file_type_named(name: str) -> str:
    """The key of `FILE_TYPES` that `name` means, in any case or by an alias. Raises UserError that names the nearest."""
    upper = name.upper()
    known = ALIASES.get(upper, upper)
    if known not in FILE_TYPES:
        near = difflib.get_close_matches(upper, [*FILE_TYPES, *ALIASES], n=1, cutoff=0)
        raise UserError(f"there is no file type {name!r}; {', '.join(FILE_TYPES)} are known", f"did you mean {near[0]}?")
    return known


def choose_types(config: HybridConfig, file_type: str, *, pure: bool = False, has_importance: bool = False) -> dict[str, str]:
    """GGUF name -> type of every tensor of a model in a file of `file_type`.

    `pure` gives all matrices the one type; `has_importance` says that columns are weighted, which changes a few choices.
    Raises UserError for an unknown file type and for rows that no type of this mixture can hold.
    """
    file_type = file_type_named(file_type)
    base = re.sub(r"_[SM]$", "", file_type)
    mixture = None if pure or TYPES[base].block_values == 1 else _Mixture(config, file_type, base, has_importance)
    types = {}
    for spec in tensor_table(config):
        type_ = base if mixture is None else mixture.choose(spec)
        types[spec.gguf] = "F32" if spec.is_kept_f32 else _fitting(spec, type_, base)
    return types


def _fitting(spec: TensorSpec, type_: str, base: str) -> str:
    """`type_`, or what takes its place for rows of this length."""
    columns = spec.shape[-1]
    for candidate in (type_, _FALLBACKS.get(type_)):
        if candidate and columns % TYPES[candidate].block_values == 0:
            return candidate
    if TYPES[base].block_values == 32:
        raise UserError(
            f"tensor {spec.gguf} with rows of {columns} values cannot be {type_}: not a multiple of 32",
            "F16, BF16 and F32 hold rows of any length",
        )
    return "F16"


class _Mixture:
    """llama.cpp's choices for the matrices of one model."""

    def __init__(self, config: HybridConfig, file_type: str, base: str, has_importance: bool) -> None:
        self.config, self.file_type, self.base, self.has_importance = config, file_type, base, has_importance
        self._num_down = 0

    def choose(self, spec: TensorSpec) -> str:
        """The type of a matrix; to be called in the order of the file."""
        part = spec.gguf.removesuffix(".weight").split(".")[-1]
        if spec.part == "head" or (spec.part == "embedding" and self.config.tie_word_embeddings):
            return "Q8_0" if self.base == "Q8_0" or spec.shape[-1] % TYPES[self.base].block_values else "Q6_K"
        if part == "attn_v":
            return self._value(_layer_of(spec))
        if part.startswith("ffn_down"):
            return self._down(spec)
        if self.config.num_local_experts == 8:
            if part == "attn_k":
                return "Q8_0"
            if part == "attn_output" and self.base == "Q4_K":
                return "Q5_K"
        return self.base

    def _value(self, layer: int) -> str:
        if self.config.num_local_experts == 8:  # small beside eight experts
            return "Q8_0"
        if self.file_type.endswith("_M") and self._gets_more_bits(layer):
            return "Q6_K"
        if self.file_type == "Q4_K_S" and layer < 4:
            return "Q5_K"
        return "Q5_K" if self.base == "Q4_K" and self._is_llama_70b() else self.base

    def _down(self, spec: TensorSpec) -> str:
        # With at most one expert llama.cpp counts the matrices, not the layers.
        layer = _layer_of(spec) if self.config.num_local_experts > 1 else self._num_down
        self._num_down += 1
        if self.file_type.endswith("_M") and self._gets_more_bits(layer):
            return "Q6_K"
        if layer >= self.config.num_hidden_layers // 8:
            return self.base
        if self.file_type == "Q4_K_S":
            return "Q5_K"
        return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}.get(self.base, self.base) if self.has_importance else self.base

    def _gets_more_bits(self, layer: int) -> bool:
        """The first and last eighth of the layers, and every third between."""
        layers = self.config.num_hidden_layers
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2

    def _is_llama_70b(self) -> bool:
        """What llama.cpp takes for a Llama 70B, whose value projections are small: 80 layers and shared heads."""
        shares_heads = self.config.num_key_value_heads != self.config.num_attention_heads
        return gguf_architecture(self.config) == "llama" and self.config.num_hidden_layers == 80 and shares_heads


def _layer_of(spec: TensorSpec) -> int:
    return int(spec.gguf.split(".")[1])
