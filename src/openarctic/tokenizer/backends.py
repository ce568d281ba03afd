"""The `tokenizers` library's object for a vocabulary, for plain text, and a complete one for text with special tokens in it.

The first knows nothing of the space that SentencePiece puts before a text: `Tokenizer` gives it, as only the start of a text
gets one. The complete one has to know, also as a `tokenizer.json` in other programs. So its first normaliser matches the text's
start, unless a special token stands there, and added tokens are looked for after normalising, in the text as a whole.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openarctic.errors import CorruptError, UserError
from openarctic.tokenizer.vocabulary import (
    ADDS_BOS,
    ADDS_EOS,
    ADDS_SPACE,
    CONTROL,
    MERGES,
    MODEL,
    PRE,
    SPACE,
    TOKENS,
    UNKNOWN,
    USER_DEFINED,
    Metadata,
    id_key,
    merges_from_scores,
    token_types,
)

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: a printable byte stands for itself, the others come after the 256 in their order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class Split:
    """What byte-level BPE of a name in `tokenizer.ggml.pre` does to a text before merging.

    `pattern` cuts it, None with GPT-2's own pattern, before which `cuts_digits` sets every digit apart. `composes`: the text is
    put into NFC first; no key of a GGUF file says so, and llama.cpp does not. `ignores_merges`: a piece that is a token is
    that token, whatever its merges; `begins`: a text has a begin token where no key says otherwise.
    """

    pattern: str | None = None
    cuts_digits: bool = False
    composes: bool = False
    ignores_merges: bool = False
    begins: bool = False

    @property
    def pre_tokenizer(self) -> pre_tokenizers.Sequence:
        """In the library's form."""
        steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if self.cuts_digits else []
        if self.pattern is not None:
            steps.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated", invert=False))
        return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)])


_LLAMA_3 = Split(_WORDS % "{1,3}", ignores_merges=True, begins=True)
# As in the published tokenizer.json of each: of names that mean the same, the first is the one that is written.
GPT2_SPLITS = {
    "smollm": Split(cuts_digits=True),
    "gpt-2": Split(),
    "default": Split(),
    "olmo": Split(composes=True),
    "qwen2": Split(_WORDS % "", composes=True),
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "dbrx": Split(_WORDS % "{1,3}"),
}


def build(metadata: Metadata) -> Backend:
    """Encodes plain text, in which names of special tokens are text. Raises UserError, CorruptError, KeyError."""
    backend = _llama(metadata) if metadata[MODEL] == "llama" else _gpt2(metadata)
    backend.add_tokens(_added_tokens(metadata))
    backend.encode_special_tokens = True
    if (processor := _post_processor(metadata)) is not None:
        backend.post_processor = processor
    return backend


def check_kind(metadata: Metadata) -> None:
    """Raises UserError for a kind of tokenizer that we do not have."""
    kind = metadata.get(MODEL)
    if kind not in ("gpt2", "llama"):
        raise UserError(f"tokenizer model {kind!r} is not supported", "known: gpt2 (byte-level BPE), llama (SentencePiece BPE)")


def adds_bos(metadata: Metadata) -> bool:
    """Whether a text begins with the begin token: as the file says, else as its kind usually does."""
    split = GPT2_SPLITS.get(str(metadata.get(PRE))) if metadata.get(MODEL) == "gpt2" else None
    return bool(metadata.get(ADDS_BOS, metadata.get(MODEL) == "llama" or (split is not None and split.begins)))


def adds_space(metadata: Metadata) -> bool:
    """Whether a text gets a space before it."""
    return metadata.get(MODEL) == "llama" and bool(metadata.get(ADDS_SPACE, True))


def complete(backend: Backend, metadata: Metadata) -> Backend:
    """One that finds special tokens in a text and puts the space before it by itself, in every program that reads its JSON."""
    copy = Backend.from_str(backend.to_str())
    if adds_space(metadata):
        copy.normalizer = normalizers.Sequence([normalizers.Replace(Regex(_start(metadata)), SPACE), copy.normalizer])
    return copy


def _start(metadata: Metadata) -> str:
    """Matches the start of a text that gets a space: none before a special token, none within an added token's own name."""
    names = [(metadata[TOKENS][id], kind) for id, kind in _added_ids(metadata)]
    special = "|".join(re.escape(name) for name, kind in names if kind != USER_DEFINED)
    other = "|".join(re.escape(name) for name, kind in names if kind == USER_DEFINED)
    return r"\A" + (f"(?!{special})" if special else "") + (rf"(?!(?:{other})\z)" if other else "")


def _post_processor(metadata: Metadata) -> Any:
    """Puts begin and end tokens around a text, for programs that read the JSON. The library makes one of JSON alone, as its own
    spelling of templates cannot hold every name."""
    begin = metadata.get(id_key("bos")) if adds_bos(metadata) else None
    end = metadata.get(id_key("eos")) if metadata.get(ADDS_EOS) else None
    if begin is None and end is None:
        return None

    def around(name: str, kind: int) -> list[dict[str, Any]]:
        mark_begin, mark_end = (
            [] if id is None else [{"SpecialToken": {"id": metadata[TOKENS][id], "type_id": kind}}] for id in (begin, end)
        )
        return [*mark_begin, {"Sequence": {"id": name, "type_id": kind}}, *mark_end]

    names = {metadata[TOKENS][id]: id for id in (begin, end) if id is not None}
    template = {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in names.items()},
    }
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    return Backend.from_str(json.dumps({"model": empty, "post_processor": template})).post_processor


def _added_ids(metadata: Metadata) -> list[tuple[int, int]]:
    kinds = (CONTROL, UNKNOWN, USER_DEFINED)
    return [(id, kind) for id, kind in enumerate(token_types(metadata)) if kind in kinds]


def _added_tokens(metadata: Metadata) -> list[AddedToken]:
    after = metadata[MODEL] == "llama"
    return [AddedToken(metadata[TOKENS][id], special=kind != USER_DEFINED, normalized=after) for id, kind in _added_ids(metadata)]


def _bpe(ids: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(ids, merges, **options)
    except Exception as error:  # the library raises bare Exception for merges of tokens that are not there
        raise CorruptError(f"the tokenizer's vocabulary and merges do not fit: {error}") from error


def _gpt2(metadata: Metadata) -> Backend:
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in metadata[MERGES])]
    split = gpt2_split(metadata.get(PRE, "default"))
    ids = {t: i for i, t in enumerate(metadata[TOKENS])}
    backend = Backend(_bpe(ids, merges, ignore_merges=split.ignores_merges))
    if split.composes:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = split.pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    return backend


def gpt2_split(pre: str) -> Split:
    """What byte-level BPE of that name does before merging. Raises UserError for an unknown name."""
    if pre not in GPT2_SPLITS:
        raise UserError(f"tokenizer pre-split {pre!r} is not supported", f"known: {', '.join(GPT2_SPLITS)}")
    return GPT2_SPLITS[pre]


def _llama(metadata: Metadata) -> Backend:
    tokens = metadata[TOKENS]
    unknown = metadata.get(id_key("unknown"), next((i for i, k in enumerate(token_types(metadata)) if k == UNKNOWN), None))
    options = {"unk_token": None if unknown is None else tokens[unknown], "fuse_unk": True, "byte_fallback": True}
    backend = Backend(_bpe({t: i for i, t in enumerate(tokens)}, merges_from_scores(metadata), **options))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    strip = [decoders.Strip(" ", 1, 0)] if adds_space(metadata) else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend
