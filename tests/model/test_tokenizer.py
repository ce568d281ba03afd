"""transformers on our folders: the right class without remote code, our ids, conversations, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from transformers.models.auto import tokenization_auto  # noqa: E402

from openarctic.errors import CorruptError  # noqa: E402
from openarctic.formats import HybridConfig, read_gguf  # noqa: E402
from openarctic.formats.bundled import bundled_models  # noqa: E402
from openarctic.model import ArcticTokenizer  # noqa: E402
from openarctic.tokenizer import Tokenizer  # noqa: E402
from tests.tiny import tiny_config  # noqa: E402
from tests.tokenizer.folders import README, TEXTS, arctic, write  # noqa: E402

SIZE = 640
TALK = [{"role": "user", "content": " How many\norders?"}, {"role": "assistant", "content": "three"}]
Pair = tuple[Any, Tokenizer]


def with_config(folder: Path) -> Path:
    remote = {"AutoConfig": "configuration_arctic.ArcticConfig", "AutoModelForCausalLM": "modeling_arctic.ArcticForCausalLM"}
    write(folder / "config.json", {**HybridConfig.from_dict(tiny_config()).to_dict(), "auto_map": remote})
    return folder


def published(folder: Path, form: str, instruct: bool) -> Path:
    return with_config(arctic(folder, form=form, instruct=instruct))


def nano(folder: Path) -> Path:
    Tokenizer.from_gguf_metadata(read_gguf(bundled_models()["arctic-nano"]).metadata).save_huggingface(folder)
    return with_config(folder)


def written(folder: Path) -> Path:
    Tokenizer.from_huggingface(arctic(folder / "source")).save_huggingface(folder)
    return with_config(folder)


def renamed(folder: Path, name: str | None) -> Path:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["auto_map"], config["tokenizer_class"]
    write(folder / "tokenizer_config.json", {**config, **({"tokenizer_class": name} if name else {})})
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "instruct, tokenizer.model": lambda f: published(f, "model", True),
    "instruct, tokenizer.json": lambda f: published(f, "json", True),
    "base, tokenizer.model": lambda f: published(f, "model", False),
    "base, tokenizer.json": lambda f: published(f, "json", False),
    "arctic-nano": nano,
    "written by us": written,
    "said to be Llama's": lambda f: renamed(published(f, "json", True), "LlamaTokenizer"),
    "of no class": lambda f: renamed(published(f, "model", True), None),
}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "Llama" in request.param and not hasattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS"):
        pytest.skip("this transformers takes its general class where a folder names another one than is registered")
    return FOLDERS[request.param](tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.from_huggingface(folder)


def same(theirs: Any, ours: Tokenizer, text: str) -> None:
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, parse_special=True)
    ids = theirs.encode(text)
    begin = [ours.bos_id] if ours.adds_bos else []
    assert ids == [*begin, *ours.encode(text, parse_special=True)]
    assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


def test_the_class_and_its_special_tokens(pair: Pair) -> None:
    theirs, ours = pair
    assert type(theirs) is ArcticTokenizer
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (ours.bos_id, ours.eos_id, ours.vocab_size)
    assert theirs.chat_template == ours.chat_template and theirs.padding_side == "left"
    assert set(ours.special_tokens.values()) == {i for i, t in theirs.added_tokens_decoder.items() if t.special}


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_ids(pair: Pair, text: str) -> None:
    same(*pair, text)


def test_ids_of_a_long_text(pair: Pair) -> None:
    same(*pair, README)


def test_a_conversation_has_no_second_begin_token(pair: Pair) -> None:
    theirs, ours = pair
    if ours.chat_template is None:
        with pytest.raises(ValueError, match="chat_template"):
            theirs.apply_chat_template(TALK, tokenize=True)
        return
    ids = theirs.apply_chat_template(TALK, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert ids == ours.encode_chat(TALK) and ids[:2] != [ours.bos_id, ours.bos_id]
    assert theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == ours.apply_chat_template(TALK)


def test_saving_and_opening_again(pair: Pair, tmp_path: Path) -> None:
    theirs, ours = pair
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "ArcticTokenizer"
    with_config(tmp_path)
    again, ours_again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_huggingface(tmp_path)
    assert type(again) is ArcticTokenizer and again.chat_template == theirs.chat_template
    for text in (README, "<|im_start|>user\n the<|im_end|>", " \u7ed9 a"):
        same(again, ours_again, text)
        assert ours_again.encode(text, add_special=True) == ours.encode(text, add_special=True)
    assert ours_again.stop_ids == {ours.eos_id}


def test_transformers_alone_reads_what_we_write(tmp_path: Path) -> None:
    """Without `openarctic.model` the class is unknown there, and its general one takes the file as it is."""
    ours = Tokenizer.from_huggingface(arctic(tmp_path / "source"))
    ours.save_huggingface(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in (README, "  the", "<|im_start|>user\n the<|im_end|>", "a<s> b"):
        same(theirs, ours, text)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_the_llama_tokenizer_of_transformers_gives_our_ids(llama: Pair, text: str) -> None:
    """Save at a text that begins with a space: it gives no second one there, unlike SentencePiece."""
    theirs, ours = llama
    text = text.lstrip(" \u2581")
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, parse_special=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = arctic(tmp_path_factory.mktemp("llama"), form="json")
    return transformers.LlamaTokenizer.from_pretrained(folder), Tokenizer.from_huggingface(folder)


def test_what_the_caller_asks_for_stays(tmp_path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(
        published(tmp_path, "json", True), add_bos_token=False, pad_token="<unk>", padding_side="right", model_max_length=77
    )
    assert theirs.encode("the")[0] != SIZE - 2
    assert (theirs.pad_token_id, theirs.padding_side, theirs.model_max_length) == (0, "right", 77)
    padded = theirs(["the", "the model and more"], padding=True)["input_ids"]
    assert padded[0][-1] == 0 and len(padded[0]) == len(padded[1])


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    folder = published(tmp_path, "model", True)
    (folder / "tokenizer.model").write_bytes(b"\xff" * 20)
    with pytest.raises(CorruptError, match=r"tokenizer\.model"):
        transformers.AutoTokenizer.from_pretrained(folder)
