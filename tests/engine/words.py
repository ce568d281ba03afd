"""A tokenizer of bytes and a few words, and a tiny random model that uses it: texts for grammars and stop strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from openarctic.engine import Engine
from openarctic.tokenizer import Tokenizer
from tests.tiny import tiny_config, write_model

WORDS = ("true", "name", "SELECT", "Ġof", '":', '{"', "ab", "123", "Ã©")  # the last is e with an accent, in GPT-2's letters
VOCAB = 320


def word_tokenizer() -> Tokenizer:
    """Every byte, every beginning of the words, and an end token; the rest is never used."""
    tokens = sorted(ByteLevel.alphabet())
    merges = []
    for word in WORDS:
        for size in range(2, len(word) + 1):
            tokens.append(word[:size])
            merges.append(f"{word[: size - 1]} {word[size - 1]}")
    types = [1] * len(tokens) + [3] * (VOCAB - len(tokens))
    keys = {"model": "gpt2", "token_type": types, "merges": merges, "eos_token_id": len(tokens)}
    keys["tokens"] = [*tokens, "<end>", *(f"<unused{i}>" for i in range(len(tokens) + 1, VOCAB))]
    return Tokenizer.from_gguf_metadata({f"tokenizer.ggml.{key}": value for key, value in keys.items()})


def word_engine(folder: Path, type_: str = "F32", **options: Any) -> Engine:
    """A random model over that vocabulary."""
    config = tiny_config(vocab_size=VOCAB, max_position_embeddings=256)
    path = folder / f"words-{type_}.gguf"
    if not path.exists():
        write_model(path, config, type_)
    return Engine.load(path, **{"threads": 1, "tokenizer": word_tokenizer(), **options})
