"""Checkpoint folders: both forms of Arctic's vocabulary, its files beside it, what is written back, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import read_gguf, write_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.tokenizer import CONTROL, UNUSED, Tokenizer, check_vocab
from tests.tokenizer.folders import CHATML, TEXTS, arctic, config, filled, json_document, model_bytes, trained, write

SIZE = 640


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """The same tokenizer from every file it can come from."""
    folder = tmp_path_factory.mktemp("instruct")
    found = {form: Tokenizer.from_huggingface(arctic(folder / form, form=form)) for form in ("model", "json")}
    write_gguf(folder / "m.gguf", found["model"].to_gguf_metadata(), {"t": ("F32", (1,), np.zeros(4, np.uint8))})
    found["gguf"] = Tokenizer.from_gguf_metadata(read_gguf(folder / "m.gguf").metadata)
    found["gguf"].save_huggingface(folder / "saved")
    return {**found, "saved": Tokenizer.from_huggingface(folder / "saved")}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, instruct: dict[str, Tokenizer]) -> Backend:
    """What we write, read by the tokenizers library alone."""
    folder = tmp_path_factory.mktemp("raw")
    instruct["model"].save_huggingface(folder)
    return Backend.from_file(str(folder / "tokenizer.json"))


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_every_file_gives_the_same_ids(instruct: dict[str, Tokenizer], text: str) -> None:
    first, *others = [(t.encode(text), t.encode(text, add_special=True, parse_special=True)) for t in instruct.values()]
    assert all(other == first for other in others)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_the_written_json_gives_our_ids_in_the_library_alone(instruct: dict[str, Tokenizer], raw: Backend, text: str) -> None:
    tokenizer = instruct["model"]
    assert raw.encode(text, add_special_tokens=False).ids == tokenizer.encode(text, parse_special=True)
    plain = [name for name in tokenizer.special_tokens if text.startswith(name)]
    if not plain:  # told of no special tokens, the library still gives no space before one's name at the start
        raw.encode_special_tokens = True
        assert raw.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
        raw.encode_special_tokens = False


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_what_is_encoded_comes_back(instruct: dict[str, Tokenizer], text: str) -> None:
    ids = instruct["json"].encode(text)
    assert not {0, 1, 2, SIZE - 2, SIZE - 1}.intersection(ids)
    assert instruct["json"].decode(ids) == text.replace("\u2581", " ")


@pytest.mark.parametrize("form", ["model", "json"])
def test_arctic_instruct_at_its_size(tmp_path: Path, form: str) -> None:
    """Ids 31998 and 31999 are Chinese characters in the vocabulary and get new names (spec 1.2, trap 17)."""
    tokenizer = Tokenizer.from_huggingface(arctic(tmp_path, form=form, size=32000))
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (32000, 31998, 31999)
    assert tokenizer.stop_ids == {31999} and tokenizer.chat_template == CHATML
    assert [tokenizer.token(i) for i in (0, 1, 2, 31998, 31999)] == ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    assert set(tokenizer.special_tokens.values()) == {0, 1, 2, 31998, 31999}
    assert filled(32000).tokens[31999] == "\u7ed9" and tokenizer.encode("\u7ed9")[-3:] == [3 + b for b in "\u7ed9".encode()]
    metadata = tokenizer.to_gguf_metadata()
    wanted = {"model": "llama", "pre": "default", "bos_token_id": 31998, "eos_token_id": 31999, "unknown_token_id": 0}
    wanted |= {"add_bos_token": True, "add_eos_token": False, "add_space_prefix": True}
    assert {k: metadata[f"tokenizer.ggml.{k}"] for k in wanted} == wanted


def test_arctic_base(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_huggingface(arctic(tmp_path, instruct=False))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.chat_template) == (1, 2, None)
    assert [tokenizer.token(i) for i in tokenizer.encode("\u7ed9")] == ["\u2581", "\u7ed9"]
    assert tokenizer.encode("the", add_special=True)[0] == 1


def test_a_space_stands_before_the_text_and_nowhere_else(instruct: dict[str, Tokenizer]) -> None:
    """legacy = false: nothing after a special token, a space even before a space."""
    tokenizer = instruct["model"]

    def pieces(text: str) -> list[str]:
        return [tokenizer.token(i) for i in tokenizer.encode(text, parse_special=True)]

    assert "".join(pieces("the")) == "\u2581the"
    assert "".join(pieces(" the")) == "\u2581\u2581the"
    assert "".join(pieces("<|im_start|>the<|im_end|>the")) == "<|im_start|>the<|im_end|>the"
    assert "".join(pieces("a<s>the")) == "\u2581a<s>the"


def test_a_begin_token_is_not_doubled(instruct: dict[str, Tokenizer]) -> None:
    tokenizer = instruct["json"]
    assert tokenizer.encode("<|im_start|>user", add_special=True, parse_special=True).count(SIZE - 2) == 1
    assert tokenizer.encode("<|im_start|>user", add_special=True)[0] == SIZE - 2
    assert tokenizer.encode("", add_special=True) == [SIZE - 2]


def test_scores_come_back_from_merges(instruct: dict[str, Tokenizer]) -> None:
    key = "tokenizer.ggml.scores"
    assert instruct["json"].to_gguf_metadata()[key][: SIZE - 2] == instruct["model"].to_gguf_metadata()[key][: SIZE - 2]
    assert instruct["model"].to_gguf_metadata()[key][: len(trained().tokens)] == trained().scores


def test_the_bundled_model_survives_the_way_to_a_folder_and_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf_metadata(read_gguf(bundled_models()["arctic-nano"]).metadata)
    tokenizer.save_huggingface(tmp_path)
    back = Tokenizer.from_huggingface(tmp_path).to_gguf_metadata()
    assert {**back, **tokenizer.to_gguf_metadata()} == back
    assert set(back) - set(tokenizer.to_gguf_metadata()) <= {"tokenizer.ggml.add_eos_token"}


def test_a_folder_survives_the_way_to_a_file_and_back(tmp_path: Path, instruct: dict[str, Tokenizer]) -> None:
    assert instruct["saved"].to_gguf_metadata() == instruct["json"].to_gguf_metadata()


def test_settings_of_the_files_beside_it(tmp_path: Path) -> None:
    folder = arctic(tmp_path, form="json")
    values = config(SIZE, instruct=True)
    for key in ("bos_token", "eos_token", "chat_template", "add_bos_token", "add_eos_token"):
        del values[key]
    write(folder / "tokenizer_config.json", values)
    write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [2, SIZE - 1]})
    (folder / "chat_template.jinja").write_text("jinja")
    tokenizer = Tokenizer.from_huggingface(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (1, 2, {2, SIZE - 1})
    assert tokenizer.chat_template == "jinja" and tokenizer.adds_bos and not tokenizer.adds_eos
    write(folder / "special_tokens_map.json", {"bos_token": {"content": "<|im_start|>"}, "eos_token": "</s>"})
    assert Tokenizer.from_huggingface(folder).bos_id == SIZE - 2
    write(folder / "tokenizer_config.json", {**values, "chat_template": [{"name": "tools", "template": "x"}]})
    (folder / "chat_template.jinja").unlink()
    assert Tokenizer.from_huggingface(folder).chat_template is None


def test_every_end_token_counts_in_a_file_and_back_in_a_folder(tmp_path: Path) -> None:
    folder = arctic(tmp_path / "a", form="json")
    write(folder / "generation_config.json", {"eos_token_id": [SIZE - 1, 2, 7, 2, 9], "top_k": 5})
    tokenizer = Tokenizer.from_huggingface(folder)
    assert tokenizer.stop_ids == {SIZE - 1, 2, 7, 9}
    metadata = {"general.architecture": "arctic", **tokenizer.to_gguf_metadata()}
    [path] = write_gguf(tmp_path / "m.gguf", metadata, {"x": ("F32", (1,), np.zeros(4, np.uint8))})
    again = Tokenizer.from_gguf_metadata(read_gguf(path).metadata)
    assert again.stop_ids == tokenizer.stop_ids
    again.save_huggingface(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == {"eos_token_id": [SIZE - 1, 2, 7, 9]}
    assert Tokenizer.from_huggingface(tmp_path / "b").stop_ids == tokenizer.stop_ids
    again.save_huggingface(folder)
    assert json.loads((folder / "generation_config.json").read_text())["top_k"] == 5


@pytest.mark.parametrize("ends", [["2"], "2", [True], [2, 10**6], {}, [2, None]])
def test_end_tokens_that_are_no_ids_are_told(ends: Any, tmp_path: Path) -> None:
    folder = arctic(tmp_path, form="json")
    write(folder / "generation_config.json", {"eos_token_id": ends})
    with pytest.raises(CorruptError, match=r"eo[st]_token_id|stop_token_ids"):
        Tokenizer.from_huggingface(folder)


def test_a_template_in_the_json_says_what_is_added(tmp_path: Path) -> None:
    folder = arctic(tmp_path, form="json")
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    document = json_document(filled(SIZE), {})
    write(folder / "tokenizer.json", {**document, "post_processor": {"type": "TemplateProcessing", "single": single}})
    write(folder / "tokenizer_config.json", {})
    write(folder / "generation_config.json", {})
    tokenizer = Tokenizer.from_huggingface(folder)
    assert tokenizer.encode("the", add_special=True) == [*tokenizer.encode("the"), 2]


def test_tokens_beyond_the_vocabulary(tmp_path: Path) -> None:
    folder = arctic(tmp_path, instruct=False)
    write(folder / "added_tokens.json", {"<extra>": SIZE + 2})
    tokenizer = Tokenizer.from_huggingface(folder)
    metadata = tokenizer.to_gguf_metadata()
    assert metadata["tokenizer.ggml.tokens"][SIZE:] == [f"[PAD{SIZE}]", f"[PAD{SIZE + 1}]", "<extra>"]
    assert metadata["tokenizer.ggml.token_type"][SIZE:] == [UNUSED, UNUSED, 4]
    assert SIZE + 2 in tokenizer.encode("a <extra> b")  # an added token that is not special is found in every text
    tokenizer.save_huggingface(tmp_path / "saved")
    assert Tokenizer.from_huggingface(tmp_path / "saved").encode("a <extra> b") == tokenizer.encode("a <extra> b")


def test_rows_of_the_embedding_and_tokens(instruct: dict[str, Tokenizer]) -> None:
    tokenizer = instruct["model"]
    padded = tokenizer.to_gguf_metadata(vocab_size=SIZE + 3)
    assert len(padded["tokenizer.ggml.tokens"]) == len(padded["tokenizer.ggml.scores"]) == SIZE + 3
    assert padded["tokenizer.ggml.token_type"][-1] == UNUSED
    assert Tokenizer.from_gguf_metadata(padded).encode("the [PAD641]") == tokenizer.encode("the [PAD641]")
    check_vocab(tokenizer, SIZE)
    with pytest.raises(UserError, match=f"{SIZE} tokens.*vocab_size is {SIZE - 1}"):
        check_vocab(tokenizer, SIZE - 1)
    with pytest.raises(UserError, match="vocab_size"):
        tokenizer.to_gguf_metadata(vocab_size=SIZE - 1)


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        change(document)
        write(folder / "tokenizer.json", document)

    return apply


def configured(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: write(folder / "tokenizer_config.json", {**config(SIZE, instruct=True), **values})


BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no files": (lambda f: (f / "tokenizer.json").unlink(), MissingError, "neither tokenizer.json nor tokenizer.model"),
    "no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), CorruptError, "not JSON"),
    "a list": (lambda f: (f / "tokenizer.json").write_text("[]"), CorruptError, "not a JSON object"),
    "no model": (changed(lambda d: d.pop("model")), CorruptError, "model"),
    "unigram": (changed(lambda d: d["model"].update(type="Unigram")), UserError, "Unigram"),
    "word piece": (changed(lambda d: d["model"].update(type="WordPiece")), UserError, "WordPiece"),
    "no byte fallback": (changed(lambda d: d["model"].update(byte_fallback=False)), UserError, "byte fallback"),
    "ignored merges": (changed(lambda d: d["model"].update(ignore_merges=True)), UserError, "ignores merges"),
    "a normaliser": (changed(lambda d: d.update(normalizer={"type": "NFKC"})), UserError, "NFKC"),
    "a splitter": (changed(lambda d: d.update(pre_tokenizer={"type": "Whitespace"})), UserError, "Whitespace"),
    "another byte level": (
        changed(lambda d: d.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "use_regex": True})),
        UserError,
        "cuts text",
    ),
    "a hole": (changed(lambda d: d["model"]["vocab"].update(far=10**9)), CorruptError, "ids of the vocabulary"),
    "a missing merge": (changed(lambda d: d["model"]["merges"].pop(3)), UserError, "lacks the merge"),
    "a merge of nothing": (changed(lambda d: d["model"]["merges"].append(["the", "nothing"])), CorruptError, "merge"),
    "an id twice": (configured(added_tokens_decoder={"5": {"content": "<s>"}}), CorruptError, "'<s>' has id 5"),
    "far beyond": (configured(added_tokens_decoder={"99999999": {"content": "<x>"}}), CorruptError, "far beyond"),
    "greedy spaces": (configured(added_tokens_decoder={"5": {"content": "<x>", "lstrip": True}}), UserError, "takes spaces"),
    "no such bos": (configured(bos_token="<none>"), CorruptError, "bos_token '<none>'"),
    "legacy": (configured(legacy=True), UserError, "legacy"),
    "a template of numbers": (configured(chat_template=3), CorruptError, "chat_template"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_damaged_or_unsupported_is_told(tmp_path: Path, case: str) -> None:
    change, error, words = BAD[case]
    folder = arctic(tmp_path, form="json")
    change(folder)
    with pytest.raises(error, match=words) as caught:
        Tokenizer.from_huggingface(folder)
    assert type(caught.value) is error


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_damage_gets_past(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any value of any file replaced by anything: a tokenizer, or an error for users."""
    folder = arctic(tmp_path_factory.getbasetemp() / "any", form="json", size=450)
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json"]))
    document = json.loads((folder / name).read_text())
    place, key = document, data.draw(st.sampled_from(sorted(document)))
    while place[key] and isinstance(place[key], dict | list) and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
    place[key] = data.draw(
        st.sampled_from([None, -1, 3, 10**9, "", "the", "\ud800", [], [1], ["the"], {}, {"a": 1}, {"type": "x"}, True, 0.5])
    )
    write(folder / name, document)
    try:
        tokenizer = Tokenizer.from_huggingface(folder)
    except OpenArcticError:
        return
    assert tokenizer.decode(tokenizer.encode("the model")) == "the model"
    Backend.from_str(tokenizer.to_json())


TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
METASPACE = {"type": "Metaspace", "replacement": "\u2581"}


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "adds_space"),
    [
        ([{"type": "Prepend", "prepend": "\u2581"}, TO_MARK], None, True),
        ([TO_MARK], None, False),
        (None, {**METASPACE, "prepend_scheme": "never", "split": False}, False),
        (None, {**METASPACE, "add_prefix_space": True}, True),
    ],
)
def test_every_way_to_write_the_space(tmp_path: Path, normalizer: Any, pre_tokenizer: Any, adds_space: bool) -> None:
    folder = arctic(tmp_path, form="json")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = normalizer and {"type": "Sequence", "normalizers": normalizer}
    document["pre_tokenizer"] = pre_tokenizer
    write(folder / "tokenizer.json", document)
    tokenizer = Tokenizer.from_huggingface(folder)
    assert tokenizer.to_gguf_metadata()["tokenizer.ggml.add_space_prefix"] is adds_space
    assert (tokenizer.token(tokenizer.encode("the")[0])[0] == "\u2581") is adds_space
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"
    tokenizer.save_huggingface(tmp_path / "saved")
    assert Tokenizer.from_huggingface(tmp_path / "saved").encode(" the a") == tokenizer.encode(" the a")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no folder"):
        Tokenizer.from_huggingface(tmp_path / "none")


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, instruct: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("old")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        instruct["model"].save_huggingface(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_text() == "old"


def test_control_types_are_kept(tmp_path: Path) -> None:
    """A begin token that the vocabulary has as an ordinary piece becomes a special one."""
    folder = arctic(tmp_path)
    (folder / "tokenizer.model").write_bytes(model_bytes(filled(SIZE)))
    write(folder / "tokenizer_config.json", {"bos_token": filled(SIZE).tokens[SIZE - 2], "eos_token": "</s>"})
    assert Tokenizer.from_huggingface(folder).to_gguf_metadata()["tokenizer.ggml.token_type"][SIZE - 2] == CONTROL
