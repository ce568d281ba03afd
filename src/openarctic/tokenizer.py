"""Text to token ids and back, from the metadata of a GGUF file or a `tokenizer.json`.

Two kinds are supported: `gpt2` (byte-level BPE, as in SmolLM2) and `llama` (SentencePiece-style BPE with byte fallback, as
in Arctic). The work is done by the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openarctic.errors import CorruptError, MissingError, UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
_GPT2_SPLITS = {
    # Names are those of `tokenizer.ggml.pre`.
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "gpt-2": [],
    "default": [],
}


class Tokenizer:
    """Encodes and decodes; knows the ids that begin and end a text."""

    def __init__(self, backend: Backend, metadata: Mapping[str, Any]) -> None:
        self._backend = backend
        self._metadata = dict(metadata)
        self.bos_id: int | None = metadata.get("tokenizer.ggml.bos_token_id")
        self.eos_id: int | None = metadata.get("tokenizer.ggml.eos_token_id")
        self.chat_template: str | None = metadata.get("tokenizer.chat_template")
        self.adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama"))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._backend.get_vocab_size())

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids. `add_special` puts the begin token first if the model wants one.

        Names of special tokens inside `text` are plain text unless `parse_special`: text from outside cannot forge them.
        Raises UserError for text that is not valid Unicode.
        """
        self._backend.encode_special_tokens = not parse_special
        try:
            ids = list(self._backend.encode(text, add_special_tokens=False).ids)
        except TypeError as error:  # half of a surrogate pair, as it comes from bytes that are no UTF-8
            raise UserError("the text is not valid Unicode", "give it as UTF-8") from error
        return [self.bos_id, *ids] if add_special and self.adds_bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token(self, id: int) -> str:
        """The vocabulary's own spelling of one token."""
        return str(self._backend.id_to_token(id))

    def to_json(self) -> str:
        """As a `tokenizer.json`."""
        return str(self._backend.to_str())

    def to_gguf_metadata(self) -> dict[str, Any]:
        """The `tokenizer.*` keys of a GGUF file."""
        return dict(self._metadata)

    def truncate(self, size: int) -> Tokenizer:
        """The first `size` tokens of a BPE vocabulary, whose ids are in merge order: still a BPE, of longer texts."""
        tokens = self._metadata["tokenizer.ggml.tokens"][:size]
        known = set(tokens)
        merges = [m for m in self._metadata["tokenizer.ggml.merges"] if _survives(m, known)]
        changed = {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": self._metadata["tokenizer.ggml.token_type"][:size],
            "tokenizer.ggml.merges": merges,
        }
        return Tokenizer.from_gguf_metadata({**self._metadata, **changed})

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the keys `tokenizer.ggml.*`. Raises UserError for an unknown kind, CorruptError for missing keys."""
        own = {k: v for k, v in metadata.items() if k.startswith("tokenizer.")}
        kind = own.get("tokenizer.ggml.model")
        builders = {"gpt2": _gpt2_backend, "llama": _llama_backend}
        if kind not in builders:
            raise UserError(f"tokenizer model {kind!r} is not supported", f"known: {', '.join(builders)}")
        try:
            return cls(builders[kind](own), own)
        except KeyError as error:
            raise CorruptError(f"the file lacks the key {error.args[0]}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """From a `tokenizer.json`. Raises MissingError or CorruptError."""
        path = Path(path)
        if not path.exists():
            raise MissingError(f"no tokenizer at {path}")
        try:
            return cls(Backend.from_file(str(path)), {})
        except Exception as error:  # the library raises bare Exception for any damage
            raise CorruptError(f"cannot read tokenizer {path}: {error}") from error


def _survives(merge: str, known: set[str]) -> bool:
    left, right = merge.split(" ", 1)
    return left in known and right in known and left + right in known


def _special_tokens(metadata: Mapping[str, Any]) -> list[AddedToken]:
    types = metadata.get("tokenizer.ggml.token_type", ())
    tokens = metadata["tokenizer.ggml.tokens"]
    return [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types, strict=False)
        if kind in (CONTROL, UNKNOWN)
    ]


def _bpe(ids: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(ids, merges, **options)
    except Exception as error:  # the library raises bare Exception for merges of tokens that are not there
        raise CorruptError(f"the tokenizer's vocabulary and merges do not fit: {error}") from error


def _gpt2_backend(metadata: Mapping[str, Any]) -> Backend:
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in metadata["tokenizer.ggml.merges"])]
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _GPT2_SPLITS:
        raise UserError(f"tokenizer pre-split {pre!r} is not supported", f"known: {', '.join(_GPT2_SPLITS)}")
    backend = Backend(_bpe({t: i for i, t in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*_GPT2_SPLITS[pre], byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(_special_tokens(metadata))
    return backend


def _llama_backend(metadata: Mapping[str, Any]) -> Backend:
    """SentencePiece BPE: merges are rebuilt from the scores, as a higher score means an earlier merge."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {t: i for i, t in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores, strict=True):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        merges += [(-score, ids[a], ids[b], a, b) for a, b in pairs]
    merges.sort()
    backend = Backend(_bpe(ids, [(a, b) for *_, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = [normalizers.Prepend("\u2581")] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
    backend.normalizer = normalizers.Sequence([*space, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if space else []
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.add_special_tokens(_special_tokens(metadata))
    return backend
