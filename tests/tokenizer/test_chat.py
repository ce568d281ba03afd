"""Conversations: ChatML as the specification has it, by two ways; what users write stays text; other templates need jinja2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import MissingError, UserError
from openarctic.formats import read_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.tokenizer import Tokenizer
from openarctic.tokenizer.chat import chatml_default_system, render
from tests.tokenizer.folders import CHATML, TEXTS, arctic

SIZE = 640
BEGIN, END = SIZE - 2, SIZE - 1
TALK = [
    {"role": "system", "content": "You answer in SQL."},
    {"role": "user", "content": " How many\n orders? "},
    {"role": "assistant", "content": ""},
]
RENDERED = (
    "<|im_start|>system\nYou answer in SQL.<|im_end|>\n<|im_start|>user\n How many\n orders? <|im_end|>\n"
    "<|im_start|>assistant\n<|im_end|>\n"
)
# One template in the spellings of public checkpoints.
SPELLINGS = [
    CHATML,
    CHATML.replace("\n", "\\n"),
    CHATML.replace("'", '"').replace('"role"', "'role'"),
    CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>\\n'"),
    CHATML.replace("message['role']", "message.role").replace("message['content']", "message.content"),
    CHATML.replace("{%", "{%-").replace("%}", "-%}").replace("{{", "{{-").replace("}}", "-}}"),
    CHATML.replace("%}{%", "%}\n    {%").replace("}}{%", "}}{%") + "\n",
]
SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}" + CHATML.removeprefix("{% for message in messages %}")
)
OTHERS = [
    CHATML.replace("<|im_end|>", "</s>"),
    CHATML.replace("message['content']", "message['content'] | trim"),
    CHATML.replace("}}{% endfor %}", "}}\n{% endfor %}"),
    CHATML.replace("{% for", "Hello {% for"),
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_huggingface(arctic(tmp_path_factory.mktemp("chat")))


def test_the_text_is_that_of_the_specification(tokenizer: Tokenizer) -> None:
    assert tokenizer.apply_chat_template(TALK, add_generation_prompt=False) == RENDERED
    assert tokenizer.apply_chat_template(TALK) == RENDERED + "<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template([]) == "<|im_start|>assistant\n"


def test_ids_have_one_begin_token_a_turn(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_chat(TALK)
    assert ids == tokenizer.encode(RENDERED + "<|im_start|>assistant\n", add_special=True, parse_special=True)
    assert ids[0] == BEGIN != ids[1] and (ids.count(BEGIN), ids.count(END)) == (4, 3)
    assert "\u2581" not in tokenizer.token(ids[1])  # no space between <|im_start|> and the role


@settings(max_examples=200, deadline=None)
@given(turns=st.lists(st.tuples(TEXTS, TEXTS), max_size=4), prompt=st.booleans())
def test_nobody_forges_a_turn(tokenizer: Tokenizer, turns: list[tuple[str, str]], prompt: bool) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = tokenizer.encode_chat(messages, add_generation_prompt=prompt)
    assert [i for i in ids if i in (0, 1, 2, BEGIN, END)] == [BEGIN, END] * len(turns) + [BEGIN] * prompt
    shown = "".join(tokenizer.token(i) if i in (BEGIN, END) else "\0" for i in ids)
    assert shown.count("<|im_start|>") == len(turns) + prompt
    # What stands between begin and end of a turn is the turn's text.
    starts = [at for at, id in enumerate(ids) if id == BEGIN][: len(turns)]
    for at, (role, content) in zip(starts, turns, strict=True):
        inside = ids[at + 1 : ids.index(END, at)]
        text = tokenizer._backend.decode(inside, skip_special_tokens=True)
        wanted = f"{role}\n{content}".replace("\u2581", " ")
        assert text == wanted.removeprefix(" ")  # SentencePiece's decoder drops the first space of any text


def test_text_without_names_is_what_parsing_the_rendered_text_gives(tokenizer: Tokenizer) -> None:
    talk = [{"role": "user", "content": "\u2581 x\U000f0000"}, {"role": "tool", "content": "{}"}]
    assert tokenizer.encode_chat(talk) == tokenizer.encode(tokenizer.apply_chat_template(talk), parse_special=True)


@pytest.mark.parametrize("template", [*SPELLINGS, SYSTEM])
@pytest.mark.parametrize("talk", [TALK, TALK[1:], []])
def test_recognised_templates_say_what_jinja_says(template: str, talk: list[dict[str, str]]) -> None:
    jinja = pytest.importorskip("jinja2")
    environment = jinja.Environment(trim_blocks=True, lstrip_blocks=True)
    assert chatml_default_system(template) == ("You are helpful." if template == SYSTEM else "")
    for prompt in (False, True):
        wanted = environment.from_string(template).render(messages=talk, add_generation_prompt=prompt)
        assert render(template, talk, prompt, {}) == wanted


@pytest.mark.parametrize("template", OTHERS)
def test_other_templates_are_not_taken_for_chatml(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chatml_default_system(template) is None
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingError, match="jinja2") as caught:
        render(template, TALK, True, {})
    assert caught.value.hint == "pip install jinja2"


def test_another_template_through_jinja(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    folder = arctic(tmp_path, instruct=False)
    (folder / "chat_template.jinja").write_text(OTHERS[-1])
    tokenizer = Tokenizer.from_huggingface(folder)
    talk = [{"role": "user", "content": "hi </s> there"}]
    assert tokenizer.apply_chat_template(talk) == "<s>[user] hi </s> there</s>"
    ids = tokenizer.encode_chat(talk)
    assert (ids[0], ids[-1], ids.count(1), ids.count(2)) == (1, 2, 1, 1)
    assert tokenizer.decode(ids) == "[user] hi </s> there"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages.append(1) }}", "cannot be applied"),
        ("{{ ''.__class__.__mro__ }}", "cannot be applied"),
        ("{% if %}", "cannot be applied"),
    ],
)
def test_templates_that_fail_or_reach_out(template: str, words: str) -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(UserError, match=words):
        render(template, TALK, True, {})


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": 3}, {"content": "x"}, "text"])
def test_bad_messages(tokenizer: Tokenizer, message: Any) -> None:
    with pytest.raises(UserError, match="it must be text"):
        tokenizer.encode_chat([message])


def test_a_model_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        Tokenizer.from_huggingface(arctic(tmp_path, instruct=False)).encode_chat(TALK)


def test_byte_level_conversations() -> None:
    metadata = {**read_gguf(bundled_models()["arctic-nano"]).metadata, "tokenizer.chat_template": CHATML}
    tokenizer = Tokenizer.from_gguf_metadata(metadata)
    assert tokenizer.encode_chat(TALK) == tokenizer.encode(tokenizer.apply_chat_template(TALK), parse_special=True)
    assert tokenizer.encode_chat([{"role": "user", "content": "<|im_end|>"}]).count(tokenizer.eos_id or 0) == 1
