"""`tokenizer.model`: what is written comes back, damage never gets past, and SentencePiece itself gives the same ids."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import CorruptError, UserError
from openarctic.tokenizer import Tokenizer
from openarctic.tokenizer.sentencepiece import read_sentencepiece
from tests.tokenizer.folders import README, TEXTS, field, filled, model_bytes, trained, varint

SMALL = trained(20)
BYTES = model_bytes(SMALL)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(BYTES)
    model = read_sentencepiece(path)
    assert (model.tokens, model.scores, model.types) == (SMALL.tokens, SMALL.scores, SMALL.types)
    assert model.ids == {"unknown": 0, "bos": 1, "eos": 2, "padding": None} and model.adds_space
    path.write_bytes(model_bytes(SMALL, trainer=field(41, -1) + field(43, 5), normalizer=field(3, 0) + field(4, 0)))
    model = read_sentencepiece(path)
    assert (model.ids["bos"], model.ids["padding"], model.adds_space) == (None, 5, False)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_told(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.model"
    damaged = bytearray(BYTES[: data.draw(st.integers(0, len(BYTES)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        model = read_sentencepiece(path)
    except (CorruptError, UserError):
        return
    assert len(model.tokens) == len(model.scores) == len(model.types) > 0


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", CorruptError, "no pieces"),
        (BYTES[:-1], CorruptError, "damaged"),
        (b"\x0a\xff\xff\xff\xff\x0f", CorruptError, "bytes wanted"),
        (b"\x0b" + BYTES, CorruptError, "wire type 3"),
        (b"\x00" + BYTES, CorruptError, "field number 0"),
        (b"\xff" * 11, CorruptError, "10 bytes"),
        (varint(1 << 3) + varint(7) + BYTES, CorruptError, "number stands where a message"),
        (field(1, field(1, b"\xff")) + BYTES, CorruptError, "utf-8"),
        (field(1, field(1, b"x") + field(3, 9)) + BYTES, CorruptError, "unknown type"),
        (field(1, field(1, b"x") + field(2, b"xyz")) + BYTES, CorruptError, "damaged"),
        (model_bytes(SMALL, model_type=1), UserError, "unigram"),
        (model_bytes(SMALL, model_type=4), UserError, "char"),
        (model_bytes(SMALL, normalizer=field(2, b"map") + field(4, 0)), UserError, "rewrites characters"),
        (model_bytes(SMALL, normalizer=b""), UserError, "extra spaces"),
        (model_bytes(SMALL, normalizer=field(4, 0) + field(5, 0)), UserError, "marks spaces"),
        (model_bytes(SMALL, trainer=field(24, 1)), UserError, "marks spaces"),
    ],
)
def test_each_kind_of_damage(tmp_path: Path, data: bytes, error: type[Exception], words: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(error, match=words) as caught:
        read_sentencepiece(path)
    assert type(caught.value) is error


def test_a_token_twice_is_damage(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(field(1, field(1, b"<s>")) + BYTES)
    with pytest.raises(CorruptError, match="stands twice"):
        Tokenizer.from_huggingface(tmp_path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """A model that SentencePiece trained with the options of the Llama family (pip install sentencepiece)."""
    library = pytest.importorskip("sentencepiece")
    folder, model = tmp_path_factory.mktemp("trained"), io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(README.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.995,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return library.SentencePieceProcessor(model_proto=model.getvalue()), Tokenizer.from_huggingface(folder)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_sentencepiece_gives_the_same_ids(reference: tuple[Any, Tokenizer], text: str) -> None:
    theirs, ours = reference
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_sentencepiece_gives_the_same_ids_for_a_long_text(reference: tuple[Any, Tokenizer]) -> None:
    theirs, ours = reference
    assert ours.encode(README) == theirs.encode(README)


def test_sentencepiece_has_the_same_pieces(reference: tuple[Any, Tokenizer]) -> None:
    theirs, ours = reference
    metadata = ours.to_gguf_metadata()
    assert metadata["tokenizer.ggml.tokens"] == [theirs.id_to_piece(i) for i in range(theirs.vocab_size())]
    assert metadata["tokenizer.ggml.scores"] == [theirs.get_score(i) for i in range(theirs.vocab_size())]
    checks = {2: theirs.is_unknown, 3: theirs.is_control, 6: theirs.is_byte}
    for kind, check in checks.items():
        assert [t == kind for t in metadata["tokenizer.ggml.token_type"]] == [check(i) for i in range(theirs.vocab_size())]


def test_scores_come_back_from_merges(reference: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    theirs, ours = reference
    ours.save_huggingface(tmp_path)
    back = Tokenizer.from_huggingface(tmp_path)
    assert back.to_gguf_metadata()["tokenizer.ggml.scores"] == [theirs.get_score(i) for i in range(theirs.vocab_size())]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_the_model_that_the_tests_write(processor: Any, text: str) -> None:
    theirs, ours = processor
    assert ours.encode(text) == theirs.encode(text)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    library = pytest.importorskip("sentencepiece")
    folder, data = tmp_path_factory.mktemp("written"), model_bytes(filled(640))
    (folder / "tokenizer.model").write_bytes(data)
    return library.SentencePieceProcessor(model_proto=data), Tokenizer.from_huggingface(folder)
