"""Hybrids of random weights that stock runtimes read too, written tensor by tensor: shapes to measure where no model is at hand.

The weights of all tensors are windows into one pool of normal values that is encoded once: only sizes, types and a sane scale
matter for speed, and a file of gigabytes takes no longer than the disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.formats.gguf import plan_gguf, publish, stored_pieces, tensors_sha256, write_checksum
from openarctic.formats.names import gguf_metadata, tensor_table
from openarctic.formats.planned import create, write_at
from openarctic.formats.quants import TYPES, Raw, byte_size, quantize

POOL_VALUES = 1 << 22
PIECE_BYTES = 1 << 24


def _shape(hidden: int, layers: int, heads: int, kv_heads: int, width: int, experts: int) -> dict[str, Any]:
    return {
        "vocab_size": 32000,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "num_experts_per_tok": 2,
        "moe_layer_frequency": 1,
        "parallel_attn_mlp_res": True,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16896,
        "tie_word_embeddings": False,
    }


# S: 145 M parameters, whose active ones fit most caches. L: 1.36 B, bound by memory. G: L with as many experts as make 1 GB of
# Q8_0. D: 737 M active parameters of 1.7 B, bound by memory where L's still fit a large cache.
# E8 to E128: L's layers with other numbers of experts, so always the same active size.
SHAPES: Mapping[str, dict[str, Any]] = {
    "S": _shape(512, 8, 8, 2, 512, 16),
    "L": _shape(1024, 16, 16, 4, 768, 32),
    "G": _shape(1024, 16, 16, 4, 768, 21),
    "D": _shape(2048, 16, 16, 4, 1536, 8),
    **{f"E{experts}": _shape(1024, 16, 16, 4, 768, experts) for experts in (8, 16, 32, 64, 128)},
}


def random_model(folder: Path, shape: str, type_: str) -> Path:
    """`folder`/`shape`-`type_`.gguf, written where it is not there yet. Raises UserError for an unknown shape or type."""
    if shape not in SHAPES:
        raise UserError(f"there is no random model {shape!r}", f"known: {', '.join(SHAPES)}")
    if type_ not in TYPES:
        raise UserError(f"there is no number type {type_!r}", f"known: {', '.join(TYPES)}")
    path = folder / f"{shape}-{type_}.gguf"
    if not path.exists():
        write_random(path, HybridConfig.from_dict(SHAPES[shape]), type_)
    return path


def write_random(path: Path, config: HybridConfig, type_: str) -> None:
    """A GGUF file of that configuration with every matrix in `type_`. Its tokenizer is nonsense that llama.cpp accepts."""
    types = {spec.gguf: ("F32" if spec.is_kept_f32 else type_, spec.gguf_shape) for spec in tensor_table(config)}
    metadata = {**gguf_metadata(config), **tokenizer_metadata(config.vocab_size), "general.name": path.stem}
    plan = plan_gguf(path.name, metadata, types)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        create(plan, partial)
        source = _Source(np.random.default_rng(0), config.hidden_size, type_)
        for spec in tensor_table(config):
            place = plan.places[spec.gguf]
            at, end = place.offset, place.offset + place.size
            while at < end:
                piece = source.piece(spec.part, min(PIECE_BYTES, end - at), spec.shape)
                write_at(partial / plan.files[place.file].name, at, piece)
                at += len(piece)
        write_checksum(plan, partial, tensors_sha256(stored_pieces(plan, partial, {n: t for n, (t, _) in types.items()})))
        publish(plan, partial, path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(partial)


class _Source:
    """Bytes of tensors: norms near 1, routers and matrices that keep the scale of what passes through, embeddings of scale 1."""

    def __init__(self, rng: np.random.Generator, hidden: int, type_: str) -> None:
        self.rng = rng
        values = rng.standard_normal(POOL_VALUES, dtype=np.float32)
        self.block_bytes = TYPES[type_].block_bytes
        shape = (POOL_VALUES // 256, 256)
        self.embedding = quantize(values.reshape(shape), type_)
        self.matrix = quantize((values * np.float32(hidden**-0.5)).reshape(shape), type_)
        self.router = (values * np.float32(hidden**-0.5)).view(np.uint8)

    def piece(self, part: str, size: int, shape: tuple[int, ...]) -> Raw:
        """At most `size` bytes, whole blocks, from a random place of the pool."""
        if part == "norms":
            assert size == byte_size("F32", shape)
            return (1 + 0.1 * self.rng.standard_normal(shape, dtype=np.float32)).view(np.uint8)
        pool = {"embedding": self.embedding, "router": self.router}.get(part, self.matrix)
        block = 4 if part == "router" else self.block_bytes
        blocks = min(size, len(pool) // 2) // block
        start = int(self.rng.integers(0, len(pool) // block - blocks + 1)) * block
        return pool[start : start + blocks * block]


def tokenizer_metadata(vocab: int) -> dict[str, Any]:
    """The least that llama.cpp accepts."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    kinds = [2, 3, 3] + [6] * 256
    tokens += [f"t{i}" for i in range(vocab - len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(vocab)],
        "tokenizer.ggml.token_type": kinds + [1] * (vocab - len(kinds)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
