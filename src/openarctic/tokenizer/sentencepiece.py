"""Reading `tokenizer.model`: the few fields of a SentencePiece protobuf that say what the tokenizer does.

Field numbers are those of sentencepiece_model.proto. A reader of the wire format in full strictness: every length is checked,
and what asks for work that we do not do (another algorithm, text normalisation) is an error, not ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openarctic.errors import CorruptError, UserError
from openarctic.tokenizer.vocabulary import BYTE, NORMAL

# ModelProto, and the parts of its messages that are read.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_IDS = (("unknown", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("padding", 43, -1))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Pieces in the order of their ids, and the special ids (None where there is none)."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    adds_space: bool
    ids: dict[str, int | None]  # bos, eos, unknown, padding


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a BPE model. Raises CorruptError (damaged), UserError (not BPE, or it normalises text)."""
    try:
        fields = _fields(path.read_bytes())
        trainer, normalizer = (_message(fields.get(n, [b""])[-1]) for n in (_TRAINER, _NORMALIZER))
        pieces = [_message(piece) for piece in fields.get(_PIECE, [])]
        tokens = [_last(piece, 1, b"").decode("utf-8") for piece in pieces]
        scores = [struct.unpack("<f", _last(piece, 2, bytes(4)))[0] for piece in pieces]
        types = [_number(_last(piece, 3, NORMAL)) for piece in pieces]
        ids = {name: _signed(_number(_last(trainer, field, default))) for name, field, default in _IDS}
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise CorruptError(f"{path} is damaged or no SentencePiece model: {error}") from error
    if not pieces:
        raise CorruptError(f"{path} holds no pieces", "the file is damaged or no SentencePiece model")
    if not all(NORMAL <= kind <= BYTE for kind in types):
        raise CorruptError(f"{path} has a piece of an unknown type")
    _check_supported(path, trainer, normalizer)
    known = {name: id if 0 <= id < len(tokens) else None for name, id in ids.items()}
    return SentencePieceModel(tokens, scores, types, bool(_last(normalizer, 3, 1)), known)


def _check_supported(path: Path, trainer: dict[int, list[Any]], normalizer: dict[int, list[Any]]) -> None:
    kind = _last(trainer, 3, 1)
    if kind != 2:
        raise UserError(
            f"{path} is a SentencePiece model of type {_MODEL_TYPES.get(kind, kind)}, only bpe is supported",
            "Arctic and the Llama family have bpe",
        )
    if _last(normalizer, 2, b""):
        raise UserError(f"{path} rewrites characters before encoding", "only models with identity normalisation are supported")
    if _last(normalizer, 4, 1):
        raise UserError(f"{path} removes extra spaces", "only models that keep them are supported, as Arctic does")
    if not _last(normalizer, 5, 1) or _last(trainer, 24, 0):
        raise UserError(f"{path} marks spaces in another way than Arctic, which is not supported")


def _last(fields: dict[int, list[Any]], number: int, default: Any) -> Any:
    return fields.get(number, [default])[-1]


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number should")
    return value


def _signed(value: int) -> int:
    """Negative numbers are written as 64-bit two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _message(data: Any) -> dict[int, list[Any]]:
    if not isinstance(data, bytes):
        raise ValueError("a number stands where a message should")
    return _fields(data)


def _fields(data: bytes) -> dict[int, list[Any]]:
    """All values of a message by field number. Raises ValueError where the bytes are no message."""
    found: dict[int, list[Any]] = {}
    for number, value in _walk(data):
        found.setdefault(number, []).append(value)
    return found


def _walk(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {at}")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if length > len(data) - at:
            raise ValueError(f"{length} bytes wanted at byte {at}, {len(data) - at} left")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the data ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError(f"a number of more than 10 bytes at byte {at}")
