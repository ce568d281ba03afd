"""Model files: GGUF, its number types, and the names that Hugging Face gives the same tensors. No torch."""

from openarctic.formats.config import HybridConfig
from openarctic.formats.gguf import GGUFFile, GGUFTensor, read_gguf, write_gguf
from openarctic.formats.names import config_from_gguf, from_gguf, to_gguf

__all__ = [
    "GGUFFile",
    "GGUFTensor",
    "HybridConfig",
    "config_from_gguf",
    "from_gguf",
    "read_gguf",
    "to_gguf",
    "write_gguf",
]
