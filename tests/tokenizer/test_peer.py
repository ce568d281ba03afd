"""llama.cpp on the vocabulary that we write gives the same ids (pip install llama-cpp-python; pytest -m peer)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from openarctic.formats import read_gguf, write_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.tokenizer import Tokenizer
from tests.tokenizer import test_byte_level as byte_level
from tests.tokenizer.folders import README, TEXTS, arctic

pytestmark = pytest.mark.peer
SIZES = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "attention.head_count": 1}


def llama(tokenizer: Tokenizer, path: Path) -> Any:
    """llama.cpp with the vocabulary alone."""
    library = pytest.importorskip("llama_cpp")
    metadata = {"general.architecture": "llama", **{f"llama.{k}": v for k, v in SIZES.items()}, **tokenizer.to_gguf_metadata()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = 1e-5
    write_gguf(path, metadata, {"t": ("F32", (1,), np.zeros(4, np.uint8))})
    return library.Llama(str(path), vocab_only=True, verbose=False)


@pytest.fixture(scope="module", params=["model", "json", "bundled"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Tokenizer]]:
    folder = tmp_path_factory.mktemp("peer")
    if request.param == "bundled":
        ours = Tokenizer.from_gguf_metadata(read_gguf(bundled_models()["arctic-nano"]).metadata)
    else:
        ours = Tokenizer.from_huggingface(arctic(folder, form=request.param))
    theirs = llama(ours, folder / "m.gguf")
    yield theirs, ours
    theirs.close()


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_of_plain_text(pair: tuple[Any, Tokenizer], text: str) -> None:
    theirs, ours = pair
    # A byte without a token is dropped by both, but llama.cpp does not merge what then stands side by side.
    text = "".join(c for c in text if c == "\u2581" or ours.decode(ours.encode(c)) == c)
    assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ours.encode(text)


def test_ids_of_a_long_text(pair: tuple[Any, Tokenizer]) -> None:
    theirs, ours = pair
    assert theirs.tokenize(README.encode(), add_bos=True, special=False) == ours.encode(README, add_special=True)


def test_a_conversation_differs_by_the_space_after_special_tokens(pair: tuple[Any, Tokenizer]) -> None:
    """llama.cpp puts a space after every special token of a SentencePiece vocabulary, which Arctic was not trained with
    (legacy = false): give it the ids of `encode_chat` instead of text."""
    theirs, ours = pair
    text = "<|im_start|>user\nthe<|im_end|>\n"
    got, wanted = theirs.tokenize(text.encode(), add_bos=False, special=True), ours.encode(text, parse_special=True)
    shown = ["".join(ours.token(i) for i in ids) for ids in (got, wanted)]
    assert shown[0].replace("|>\u2581", "|>") == shown[1]
    assert (got == wanted) == (not ours.to_gguf_metadata()["tokenizer.ggml.add_space_prefix"])


@pytest.fixture(scope="module", params=byte_level.KINDS)
def families(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Tokenizer]]:
    folder = tmp_path_factory.mktemp("families")
    ours = Tokenizer.from_huggingface(byte_level.write_folder(folder, request.param))
    theirs = llama(ours, folder / "m.gguf")
    yield theirs, ours
    theirs.close()


@settings(max_examples=300, deadline=None)
@given(text=byte_level.TEXTS)
def test_ids_of_the_families(families: tuple[Any, Tokenizer], text: str) -> None:
    """Of composed text: llama.cpp does not compose it, transformers and we do for Qwen and OLMo."""
    theirs, ours = families
    text = unicodedata.normalize("NFC", text)
    assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ours.encode(text, parse_special=True)
