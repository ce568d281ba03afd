"""The form every tokenizer is held in: the `tokenizer.*` keys of a GGUF file, and what can be derived from them.

SentencePiece BPE has a score for each token, `tokenizers` an ordered list of merges. Either gives the other: the pair of
neighbours whose union has the highest score is merged first, and a piece that is merged later has a lower score.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from openarctic.errors import CorruptError, UserError

# Token types, the same numbers in GGUF and in SentencePiece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # how SentencePiece writes a space
MODEL = "tokenizer.ggml.model"
NO_VOCAB = "no_vocab"  # how a file without a tokenizer says so; llama.cpp asks for the word
TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
SCORES = "tokenizer.ggml.scores"
MERGES = "tokenizer.ggml.merges"
PRE = "tokenizer.ggml.pre"
ADDS_SPACE = "tokenizer.ggml.add_space_prefix"
ADDS_BOS = "tokenizer.ggml.add_bos_token"
ADDS_EOS = "tokenizer.ggml.add_eos_token"
TEMPLATE = "tokenizer.chat_template"
STOPS = "tokenizer.openarctic.stop_token_ids"  # ends of a text beyond eos and eot, for which GGUF has no key
# Hugging Face's names of the tokens that have a role, and GGUF's.
NAMED_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

Metadata = Mapping[str, Any]


def id_key(name: str) -> str:
    """`bos` -> the key of its id; names are bos, eos, eot, unknown and padding."""
    return f"tokenizer.ggml.{name}_token_id"


def padding_token(id: int) -> str:
    """The name of an id that an embedding has and no text gives (llama.cpp's convention)."""
    return f"[PAD{id}]"


def token_types(metadata: Metadata) -> list[int]:
    """The type of each token; all are normal where the file does not say."""
    types = metadata.get(TYPES)
    return [NORMAL] * len(metadata[TOKENS]) if types is None else [int(t) for t in types]


def stop_list(metadata: Metadata) -> list[int]:
    """Ids that end a generated text, the end token first."""
    named = [metadata.get(id_key(name)) for name in ("eos", "eot")]
    return [id for id in dict.fromkeys((*named, *metadata.get(STOPS, ()))) if id is not None]


def check_metadata(metadata: Metadata) -> None:
    """Raises CorruptError when the lists hold something else, do not fit each other, or an id has no token."""
    tokens = metadata[TOKENS]
    for key, kind in ((TOKENS, str), (TYPES, int), (SCORES, float), (MERGES, str)):
        if not all(isinstance(value, kind) for value in metadata.get(key, ())):
            raise CorruptError(f"{key} is not a list of {kind.__name__}")
    for key in (TYPES, SCORES):
        if key in metadata and len(metadata[key]) != len(tokens):
            raise CorruptError(f"{key} has {len(metadata[key])} entries for {len(tokens)} tokens")
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            raise CorruptError(f"token {token!r} stands twice in the vocabulary")
        if not token.isprintable() and _is_broken(token):
            raise CorruptError(f"token {token!r} is not Unicode")
        seen.add(token)
    for name in ("bos", "eos", "eot", "unknown", "padding"):
        id = metadata.get(id_key(name))
        if id is not None and not (isinstance(id, int) and 0 <= id < len(tokens)):
            raise CorruptError(f"{id_key(name)} is {id!r}, the vocabulary has {len(tokens)} tokens")
    stops = metadata.get(STOPS, [])
    if not isinstance(stops, list) or not all(type(id) is int and 0 <= id < len(tokens) for id in stops):
        raise CorruptError(f"{STOPS} is {stops!r}, the vocabulary has {len(tokens)} tokens")


def _is_broken(token: str) -> bool:
    """Whether it holds half of a surrogate pair: bytes in the file were no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in token)


def pad(metadata: Metadata, size: int) -> dict[str, Any]:
    """The same keys with unused tokens up to `size`, as a GGUF file has one token a row of its embedding."""
    missing = range(len(metadata[TOKENS]), size)
    padded = {**metadata, TOKENS: [*metadata[TOKENS], *map(padding_token, missing)]}
    padded[TYPES] = [*token_types(metadata), *[UNUSED] * len(missing)]
    if SCORES in metadata:
        padded[SCORES] = [*metadata[SCORES], *[0.0] * len(missing)]
    return padded


def splits(tokens: Sequence[str], mergeable: Collection[int]) -> Iterable[tuple[int, int, int]]:
    """Ids (left, right, union) of every way to make a token from two others. Bytes and special tokens take no part."""
    ids = {tokens[i]: i for i in mergeable}
    for token, union in ids.items():
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                yield left, right, union


def mergeable(metadata: Metadata) -> list[int]:
    """Ids of the tokens that merges may make or use."""
    return [i for i, kind in enumerate(token_types(metadata)) if kind == NORMAL]


def merges_from_scores(metadata: Metadata) -> list[tuple[str, str]]:
    """Merges of a SentencePiece vocabulary, the highest score first; ways to make one token in the order of their ids."""
    tokens, scores = metadata[TOKENS], metadata[SCORES]
    found = sorted((-scores[union], left, right) for left, right, union in splits(tokens, mergeable(metadata)))
    return [(tokens[left], tokens[right]) for _, left, right in found]


def scores_from_merges(metadata: Metadata, merges: Sequence[tuple[str, str]]) -> list[float]:
    """Scores that give those merges back: 0, -1, -2 in the order of merging, then the single characters by id.

    SentencePiece's own training numbers its pieces so, and the original scores come back. Raises UserError when the merges
    are not those of a SentencePiece vocabulary, where every way to make a token counts.
    """
    tokens = metadata[TOKENS]
    ids = {tokens[i]: i for i in mergeable(metadata)}
    given = [(ids[a], ids[b], ids[a + b]) for a, b in merges if a in ids and b in ids and a + b in ids]
    wanted = set(splits(tokens, ids.values()))
    if set(given) != wanted:
        left, right, _ = min(set(given) ^ wanted)
        what = "lacks" if (left, right, ids[tokens[left] + tokens[right]]) in wanted else "has"
        raise UserError(
            f"the tokenizer {what} the merge {tokens[left]!r} + {tokens[right]!r}, unlike a SentencePiece vocabulary",
            "only BPE vocabularies whose merges follow from an order of their tokens are supported",
        )
    order = dict.fromkeys(union for _, _, union in given)
    order |= dict.fromkeys(ids.values())
    scores = [0.0] * len(tokens)
    for rank, id in enumerate(order):
        scores[id] = -float(rank)
    return scores


def has_vocabulary(metadata: Mapping[str, Any]) -> bool:
    """Whether a GGUF file's keys hold a tokenizer at all."""
    return metadata.get(MODEL, NO_VOCAB) not in (NO_VOCAB, "none")
