"""Checkpoint folders as Arctic has them, made small: a SentencePiece BPE with byte fallback, trained on this repository's README.

The protobuf is written here field by field, and `tokenizer.json` straight from the definition, without the code under test.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<0x0A>", "\u7ed9", "\u2581"]
WORDS = [" ", "  ", "\n", "\t", "\0", "the", " model", "🦌", "é", "e\u0301"]
# Text of all kinds, with names of special tokens, words of the vocabulary and runs of spaces in it.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8), st.sampled_from([*SPECIALS, " ", "  ", "\n", "\t", "\0", "the", " model", "🦌", "é", "e\u0301"])
    ),
    max_size=8,
).map("".join)


@dataclass(frozen=True)
class Pieces:
    tokens: list[str]
    scores: list[float]
    types: list[int]


@cache
def trained(merges: int = 150) -> Pieces:
    """In SentencePiece's order: special tokens, bytes, merged pieces by score, then single characters."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=merges + 100, show_progress=False)
    backend.train_from_iterator([README], trainer)
    learnt = [token for token, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]
    pieces = [t for t in learnt if len(t) > 1] + ["\u2581\u2581"] + [t for t in learnt if len(t) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    return Pieces(tokens, [0.0] * 259 + [-float(i) for i in range(len(pieces))], [2, 3, 3, *[6] * 256, *[1] * len(pieces)])


def filled(size: int) -> Pieces:
    """With Chinese characters up to `size`, so that the last two ids are ordinary pieces, as in Arctic's file."""
    own = trained()
    more = [chr(0x4E00 + i) for i in range(size) if chr(0x4E00 + i) not in "\u7ed9\ud800"][: size - len(own.tokens) - 1]
    more.append("\u7ed9")
    scores = [own.scores[-1] - 1 - i for i in range(len(more))]
    return Pieces([*own.tokens, *more], [*own.scores, *scores], [*own.types, *[1] * len(more)])


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field on the wire."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model_bytes(pieces: Pieces, *, model_type: int = 2, trainer: bytes = b"", normalizer: bytes | None = None) -> bytes:
    """A `tokenizer.model`. Numbers are those of sentencepiece_model.proto."""
    rows = zip(pieces.tokens, pieces.scores, pieces.types, strict=True)
    body = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in rows)
    spec = field(3, model_type) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2) + field(43, -1) + trainer
    identity = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)
    return body + field(2, spec) + field(3, identity if normalizer is None else normalizer)


def merges_of(pieces: Pieces) -> list[list[str]]:
    """Every way to make a piece of two others, the best score first."""
    score = {t: s for t, s, k in zip(pieces.tokens, pieces.scores, pieces.types, strict=True) if k == 1}
    index = {t: i for i, t in enumerate(pieces.tokens)}
    pairs = [(t[:i], t[i:]) for t in score for i in range(1, len(t)) if t[:i] in score and t[i:] in score]
    return [list(p) for p in sorted(pairs, key=lambda p: (-score[p[0] + p[1]], index[p[0]], index[p[1]]))]


def json_document(pieces: Pieces, added: dict[int, str]) -> dict[str, Any]:
    """A `tokenizer.json` as transformers writes it for the Llama family; `added` gives ids new names."""
    tokens = [added.get(i, t) for i, t in enumerate(pieces.tokens)]
    kept = [k if i not in added else 3 for i, k in enumerate(pieces.types)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in sorted({0, 1, 2, *added})],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": merges_of(replace(pieces, tokens=tokens, types=kept)),
        },
    }


def config(size: int, *, instruct: bool) -> dict[str, Any]:
    """A `tokenizer_config.json` with the keys of the published ones."""
    names = {0: "<unk>", 1: "<s>", 2: "</s>", **({size - 2: "<|im_start|>", size - 1: "<|im_end|>"} if instruct else {})}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": True,
        "added_tokens_decoder": {str(id): {"content": name, **flags} for id, name in names.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_arctic.ArcticTokenizer", None]},
        "bos_token": "<|im_start|>" if instruct else "<s>",
        **({"chat_template": CHATML} if instruct else {}),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>" if instruct else "</s>",
        "legacy": False,
        "model_max_length": 4096,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "ArcticTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


def arctic(folder: Path, *, instruct: bool = True, form: str = "model", size: int = 640) -> Path:
    """A folder as published: `form` is model or json."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = filled(size)
    if form == "model":
        (folder / "tokenizer.model").write_bytes(model_bytes(pieces))
    else:
        added = {size - 2: "<|im_start|>", size - 1: "<|im_end|>"} if instruct else {}
        write(folder / "tokenizer.json", json_document(pieces, added))
    write(folder / "tokenizer_config.json", config(size, instruct=instruct))
    ends = {"bos_token_id": size - 2, "eos_token_id": size - 1} if instruct else {"bos_token_id": 1, "eos_token_id": 2}
    write(folder / "generation_config.json", {"_from_model_config": True, **ends})
    return folder


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
