"""The `tokenizers` library's object for a vocabulary, for plain text, and a complete one for text with special tokens in it.

The first knows nothing of the space that SentencePiece puts before a text: `Tokenizer` gives it, as only the start of a text
gets one. The complete one has to know, also as a `tokenizer.json` in other programs. So its first normaliser matches the text's
start, unless a special token stands there, and added tokens are looked for after normalising, in the text as a whole.
"""

from __future__ import annotations

import json
import re
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

# Names are those of `tokenizer.ggml.pre`.
GPT2_SPLITS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "gpt-2": [],
    "default": [],
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
    return bool(metadata.get(ADDS_BOS, metadata.get(MODEL) == "llama"))


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
    backend = Backend(_bpe({t: i for i, t in enumerate(metadata[TOKENS])}, merges))
    backend.pre_tokenizer = gpt2_pre_tokenizer(metadata.get(PRE, "default"))
    backend.decoder = decoders.ByteLevel()
    return backend


def gpt2_pre_tokenizer(pre: str) -> pre_tokenizers.Sequence:
    """How byte-level BPE of that name cuts a text before merging. Raises UserError for an unknown name."""
    if pre not in GPT2_SPLITS:
        raise UserError(f"tokenizer pre-split {pre!r} is not supported", f"known: {', '.join(GPT2_SPLITS)}")
    return pre_tokenizers.Sequence([*GPT2_SPLITS[pre], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def _llama(metadata: Metadata) -> Backend:
    tokens = metadata[TOKENS]
    unknown = metadata.get(id_key("unknown"), next((i for i, k in enumerate(token_types(metadata)) if k == UNKNOWN), None))
    options = {"unk_token": None if unknown is None else tokens[unknown], "fuse_unk": True, "byte_fallback": True}
    backend = Backend(_bpe({t: i for i, t in enumerate(tokens)}, merges_from_scores(metadata), **options))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    strip = [decoders.Strip(" ", 1, 0)] if adds_space(metadata) else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend
