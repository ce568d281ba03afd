"""Byte-level BPE of the families: a `tokenizer.json` as published, through a GGUF file and back, gives the same ids."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from openarctic.engine.constraint import Constraints
from openarctic.errors import UserError
from openarctic.formats import read_gguf, write_gguf
from openarctic.tokenizer import Tokenizer
from tests.tokenizer.folders import README, write

END, START, TOOL = "<|endoftext|>", "<|im_start|>", "<tool_call>"
QWEN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
LLAMA = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
# Name in GGUF -> pattern (None: GPT-2's), digits apart, NFC, merges ignored.
KINDS: dict[str, tuple[str | None, bool, bool, bool]] = {
    "gpt-2": (None, False, False, False),
    "smollm": (None, True, False, False),
    "olmo": (None, False, True, False),
    "qwen2": (QWEN, False, True, False),
    "llama-bpe": (LLAMA, False, False, True),
    "dbrx": (LLAMA, False, False, False),
}
HARD = [
    "it's",
    "IT'S",
    "12345",
    "\u0967\u0968",
    "e\u0301",
    "\u00e9",
    "\u1e9b\u0323",
    "  x",
    "\n\n",
    "\r\n ",
    "\u00a0",
    "...!",
    END,
    START,
    TOOL,
]
TEXTS = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*HARD, " the", " zebra", "\U0001f98c"])), max_size=8).map(
    "".join
)


@cache
def published(kind: str) -> str:
    """A `tokenizer.json` made by the tokenizers library alone, trained on this repository's README."""
    pattern, digits, composes, ignores = KINDS[kind]
    backend = Backend(models.BPE(ignore_merges=ignores))
    if composes:
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=pattern is None)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator([README], trainer)
    document = json.loads(backend.to_str())
    document["model"]["vocab"]["\u0120zebra"] = len(document["model"]["vocab"])  # which no merge makes
    backend = Backend.from_str(json.dumps(document))
    backend.add_special_tokens([AddedToken(END, normalized=False), AddedToken(START, normalized=False)])
    backend.add_tokens([AddedToken(TOOL, normalized=False)])
    return str(backend.to_str())


@cache
def library(kind: str, finds_special: bool) -> Backend:
    """The tokenizers library on the published file."""
    backend = Backend.from_str(published(kind))
    backend.encode_special_tokens = not finds_special
    return backend


def write_folder(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(published(kind), encoding="utf-8")
    write(folder / "tokenizer_config.json", {"eos_token": END, "bos_token": None, "add_prefix_space": False})
    return folder


@pytest.fixture(scope="module", params=KINDS)
def forms(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tokenizer]]:
    """The same tokenizer from the folder, a GGUF file with padded rows, and the folder that is written from it."""
    folder = tmp_path_factory.mktemp("forms")
    ours = Tokenizer.from_huggingface(write_folder(folder / "given", request.param))
    rows = -(-ours.vocab_size // 64) * 64
    write_gguf(folder / "m.gguf", ours.to_gguf_metadata(rows), {"t": ("F32", (1,), np.zeros(4, np.uint8))})
    file = Tokenizer.from_gguf_metadata(read_gguf(folder / "m.gguf").metadata)
    file.save_huggingface(folder / "saved")
    return request.param, {"folder": ours, "gguf": file, "saved": Tokenizer.from_huggingface(folder / "saved")}


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_every_form_gives_the_ids_of_the_published_file(forms: tuple[str, dict[str, Tokenizer]], text: str) -> None:
    kind, made = forms
    wanted, plain = (library(kind, finds).encode(text, add_special_tokens=False).ids for finds in (True, False))
    for name, tokenizer in made.items():
        assert tokenizer.encode(text, parse_special=True) == wanted, name
        assert tokenizer.encode(text) == plain, name


def test_the_written_json_is_that_tokenizer(forms: tuple[str, dict[str, Tokenizer]]) -> None:
    kind, made = forms
    text = README + "".join(HARD)
    wanted = library(kind, True).encode(text, add_special_tokens=False).ids
    for tokenizer in made.values():
        assert Backend.from_str(tokenizer.to_json()).encode(text, add_special_tokens=False).ids == wanted


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_what_is_encoded_comes_back(forms: tuple[str, dict[str, Tokenizer]], text: str) -> None:
    kind, made = forms
    composed = unicodedata.normalize("NFC", text) if KINDS[kind][2] else text
    assert made["gguf"].decode(made["gguf"].encode(text)) == composed


def test_the_names_are_those_of_gguf(forms: tuple[str, dict[str, Tokenizer]]) -> None:
    kind, made = forms
    for tokenizer in made.values():
        metadata = tokenizer.to_gguf_metadata()
        assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", kind)
        assert metadata["tokenizer.ggml.add_bos_token"] is False
        assert tokenizer.stop_ids == {tokenizer.special_tokens[END]}
        assert set(tokenizer.special_tokens) == {END, START}


def test_only_llama_3_takes_a_token_that_no_merge_makes(forms: tuple[str, dict[str, Tokenizer]]) -> None:
    kind, made = forms
    assert (len(made["gguf"].encode(" zebra")) == 1) == (kind == "llama-bpe")


def test_a_grammar_follows_it(forms: tuple[str, dict[str, Tokenizer]]) -> None:
    tokenizer = forms[1]["gguf"]
    follower = Constraints(tokenizer).start('start: "the zebra 12345"')
    ids = tokenizer.encode("the zebra 12345")
    assert follower.accepted(ids) == len(ids)
    assert follower.accepted(tokenizer.encode("a zebra")) == 0


@pytest.mark.parametrize(("pre", "begins"), [("llama-bpe", True), ("llama3", True), ("qwen2", False), ("dbrx", False)])
def test_a_file_that_does_not_say_begins_as_its_kind_does(pre: str, begins: bool, tmp_path: Path) -> None:
    metadata = dict(Tokenizer.from_huggingface(write_folder(tmp_path, "dbrx")).to_gguf_metadata())
    metadata |= {"tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": metadata["tokenizer.ggml.eos_token_id"]}
    del metadata["tokenizer.ggml.add_bos_token"]
    tokenizer = Tokenizer.from_gguf_metadata(metadata)
    assert (tokenizer.encode("the", add_special=True)[0] == tokenizer.bos_id) == begins


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(normalizer={"type": "NFKC"}), "NFKC"),
        (lambda d: d.update(normalizer=None), "cuts text"),
        (lambda d: d["model"].update(ignore_merges=True), "ignores merges"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\s+"), "cuts text"),
    ],
)
def test_another_way_has_no_name(change: Any, told: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "qwen2")
    document = json.loads(published("qwen2"))
    change(document)
    write(folder / "tokenizer.json", document)
    with pytest.raises(UserError, match=told):
        Tokenizer.from_huggingface(folder)
