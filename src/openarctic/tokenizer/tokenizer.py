"""`Tokenizer`: text and conversations to ids, ids to text, and the ways in and out of files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from openarctic.errors import CorruptError, UserError
from openarctic.tokenizer.backends import BYTES, adds_bos, adds_space, build, check_kind, complete
from openarctic.tokenizer.chat import Message, Shield, render
from openarctic.tokenizer.huggingface import read_folder, write_folder
from openarctic.tokenizer.vocabulary import (
    ADDS_EOS,
    CONTROL,
    MERGES,
    MODEL,
    NAMED_IDS,
    TEMPLATE,
    TOKENS,
    TYPES,
    UNKNOWN,
    check_metadata,
    id_key,
    pad,
    stop_list,
    token_types,
)

LONG_TEXT = 20_000  # characters: some 20 ms


class Tokenizer:
    """Encodes and decodes; knows the ids that begin and end a text.

    What comes back: `decode(encode(text)) == text` for all valid Unicode in byte-level BPE (`gpt2`) that has a token for every
    byte, and in SentencePiece BPE (`llama`) with byte pieces for all text without U+2581, which is its way to write a space.
    A byte without a token is dropped, as in Hugging Face's tokenizers: SmolLM2's vocabulary lacks six control characters.
    Qwen's and OLMo's put a text into NFC first, and that is what comes back.
    """

    def __init__(self, backend: Backend, metadata: Mapping[str, Any]) -> None:
        self._backend = backend  # never finds special tokens in a text
        self._backend.encode_special_tokens = True
        self._metadata = dict(metadata)
        self.bos_id: int | None = metadata.get(id_key("bos"))
        self.eos_id: int | None = metadata.get(id_key("eos"))
        self.chat_template: str | None = metadata.get(TEMPLATE)
        self.adds_bos = adds_bos(metadata)
        self.adds_eos = bool(metadata.get(ADDS_EOS, False))
        self._space = " " if adds_space(metadata) else ""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._backend.get_vocab_size())

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generated text: the end token, the end of a turn where that is another, and what else the model has."""
        return frozenset(stop_list(self._metadata))

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Names and ids of the tokens that plain text never gives."""
        if TOKENS not in self._metadata:
            return {}
        types = token_types(self._metadata)
        return {token: i for i, token in enumerate(self._metadata[TOKENS]) if types[i] in (CONTROL, UNKNOWN)}

    @cached_property
    def _parser(self) -> Backend:
        """Finds special tokens in a text. An object of its own, as a switch would be shared between threads."""
        parser = complete(self._backend, self._metadata)
        parser.encode_special_tokens = False
        return parser

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids. `add_special` puts the begin token first, and the end token last, if the model wants them.

        Names of special tokens inside `text` are plain text unless `parse_special`: text from outside cannot forge them. A
        begin token that is there already is not doubled. Raises UserError for text that is not valid Unicode.
        """
        if parse_special:
            ids = _encode(self._parser, text)
        else:
            ids = _encode(self._backend, self._space + text if text else "")
        if not add_special:
            return ids
        begin = [self.bos_id] if self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id] else []
        end = [self.eos_id] if self.adds_eos and self.eos_id is not None and ids[-1:] != [self.eos_id] else []
        return [*begin, *ids, *end]

    def apply_chat_template(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, tools: Sequence[Message] = ()
    ) -> str:
        """The conversation as one text, in which names of special tokens that someone wrote look like true ones.

        `tools` are functions that the template tells the model of; a template that does not read them leaves them out. Use
        `encode_chat` for text from outside. Raises UserError without a template or for a bad message, MissingError for a
        template that needs jinja2.
        """
        return render(self.chat_template, messages, add_generation_prompt, self.special_names(), tools)

    def encode_chat(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, tools: Sequence[Message] = ()
    ) -> list[int]:
        """Ids of the conversation; special tokens come from the template alone, whatever roles, contents and tools say.

        No begin token is added: a template writes its own. Raises like `apply_chat_template`.
        """
        shield = Shield([*messages, *tools], self.special_tokens)
        told, functions = shield.messages[: len(messages)], shield.messages[len(messages) :]
        text = render(self.chat_template, told, add_generation_prompt, self.special_names(), functions)
        names = sorted(self.special_tokens, key=len, reverse=True)
        # One group for all: re then skips to where any of them can begin (2.4 MB: 14 ms, not 11 s).
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        ids: list[int] = []
        for part in filter(None, parts):
            if part in self.special_tokens:
                ids.append(self.special_tokens[part])
            else:
                ids += _encode(self._backend, shield.open(part if ids else self._space + part))
        return ids

    def special_names(self) -> dict[str, str]:
        """The names of the tokens that have a role: bos, eos, unk, pad, as far as there are such."""
        ids = {name: self._metadata.get(id_key(key)) for name, key in NAMED_IDS.items()}
        return {name: self.token(id) for name, id in ids.items() if id is not None}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token(self, id: int) -> str:
        """The vocabulary's own spelling of one token."""
        return str(self._backend.id_to_token(id))

    def token_text(self, id: int) -> str:
        """A token as it reads inside a text; the vocabulary's spelling where that is nothing or half a character."""
        first = self.decode([id])
        text = self.decode([id, id])[len(first) :]  # the first word of a text may lose its space
        return self.token(id) if not text or "\ufffd" in text else text

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for, be they whole characters or not; of a special token those of its name."""
        name = self.token(id)
        if name in self.special_tokens:
            return name.encode()
        if self._metadata[MODEL] == "gpt2":
            return bytes(BYTES[char] for char in name) if all(char in BYTES for char in name) else name.encode()
        piece = re.fullmatch(r"<0x([0-9A-F]{2})>", name)
        return bytes([int(piece[1], 16)]) if piece else name.replace("\u2581", " ").encode()

    def to_json(self) -> str:
        """As a `tokenizer.json`."""
        backend = self._parser if self._space else self._backend
        return str(backend.to_str())

    def to_gguf_metadata(self, vocab_size: int | None = None) -> dict[str, Any]:
        """The `tokenizer.*` keys of a GGUF file, with unused tokens up to `vocab_size`, the rows of the embedding.

        Raises UserError when the vocabulary is larger than that.
        """
        if vocab_size is None:
            return dict(self._metadata)
        check_vocab(self, vocab_size)
        return pad(self._metadata, vocab_size)

    def save_huggingface(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, each whole or not at all.

        The same ids come back from them, in any program that reads `tokenizer.json`.
        """
        write_folder(Path(folder), self.to_json(), self._metadata)

    def truncate(self, size: int) -> Tokenizer:
        """The first `size` tokens of a BPE vocabulary, whose ids are in merge order: still a BPE, of longer texts."""
        tokens = self._metadata[TOKENS][:size]
        known = set(tokens)
        merges = [m for m in self._metadata[MERGES] if _survives(m, known)]
        changed = {TOKENS: tokens, TYPES: self._metadata[TYPES][:size], MERGES: merges}
        return Tokenizer.from_gguf_metadata({**self._metadata, **changed})

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From the keys `tokenizer.*`. Raises UserError for an unknown kind, CorruptError for keys that are missing or do
        not fit each other."""
        own = {k: v for k, v in metadata.items() if k.startswith("tokenizer.")}
        check_kind(own)
        try:
            check_metadata(own)
            return cls(build(own), own)
        except KeyError as error:
            raise CorruptError(f"the file lacks the key {error.args[0]}") from error

    @classmethod
    def from_huggingface(cls, folder: str | Path) -> Tokenizer:
        """From a folder with `tokenizer.json` or `tokenizer.model` and the files beside it (see `huggingface.py`).

        Raises MissingError, CorruptError, or UserError for a kind or an option that is not supported.
        """
        return cls.from_gguf_metadata(read_folder(Path(folder)))


def check_vocab(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises UserError when a model of `vocab_size` rows lacks rows for some tokens; more rows than tokens are padding."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size is {vocab_size}",
            "they belong to different models, or tokens were added without new rows in the embedding",
        )


def _encode(backend: Backend, text: str) -> list[int]:
    try:
        if len(text) > LONG_TEXT:  # as a batch it lets other threads run meanwhile
            return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        return list(backend.encode(text, add_special_tokens=False).ids)
    except TypeError as error:  # half of a surrogate pair, as it comes from bytes that are no UTF-8
        raise UserError("the text is not valid Unicode", "give it as UTF-8") from error


def _survives(merge: str, known: set[str]) -> bool:
    left, right = merge.split(" ", 1)
    return left in known and right in known and left + right in known
