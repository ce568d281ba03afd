"""Conversations to text: ChatML in plain Python, any other template through jinja2 where it is installed.

A template is a program from a file that nobody checked: jinja2 runs it in its sandbox. Text of users may name special tokens;
`Shield` takes these names out before the template is applied and puts them back afterwards, as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openarctic.errors import MissingError, UserError

Message = Mapping[str, Any]  # role and content, and what else a template reads

# ChatML as Arctic has it (spec 1.2), the form that a checkpoint without a template file of its own is saved with.
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_DEFAULT_SYSTEM = re.compile(
    r"\{%ifloop\.firstandmessages\[0\]\['role'\]!='system'%\}"
    r"\{\{'<\|im_start\|>system\\n(?P<system>[^'\\]*)<\|im_end\|>\\n'\}\}\{%endif%\}"
)


class Shield:
    """Messages whose text holds no name of a special token, and the way back.

    Each name is replaced by one character of a private area that stands nowhere in the messages.
    """

    def __init__(self, messages: Sequence[Message], names: Iterable[str]) -> None:
        self._stand_ins: dict[str, str] = {}
        texts = list(_texts(messages))
        found = sorted({name for name in names if any(name in text for text in texts)}, key=len, reverse=True)
        used = set().union(*texts)
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)
        self._stand_ins = dict(zip(found, free, strict=False))
        self.messages: Sequence[Message] = self._shut(messages) if found else messages

    def _shut(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, stand_in in self._stand_ins.items():
                value = value.replace(name, stand_in)
            return value
        if isinstance(value, Mapping):
            return {self._shut(k): self._shut(v) for k, v in value.items()}
        return [self._shut(v) for v in value] if isinstance(value, list | tuple) else value

    def open(self, text: str) -> str:
        """The text with all names back in their places."""
        for name, stand_in in self._stand_ins.items():
            text = text.replace(stand_in, name)
        return text


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def render(
    template: str | None,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    names: Mapping[str, str],
    tools: Sequence[Message] = (),
) -> str:
    """The conversation as text; ChatML does not speak of `tools`.

    Raises UserError without a template or for a message without role and content, MissingError for a template that is not ChatML
    where jinja2 is not installed.
    """
    if template is None:
        raise UserError("this model has no chat template", "it completes text; give it a prompt instead of messages")
    default_system = chatml_default_system(template)
    if default_system is None:
        return _render_jinja(template, messages, add_generation_prompt, names, tools)
    turns = [(_text_of(message, "role"), _text_of(message, "content")) for message in messages]
    if default_system and turns and turns[0][0] != "system":
        turns.insert(0, ("system", default_system))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text


def _text_of(message: Message, key: str) -> str:
    value = message.get(key) if isinstance(message, Mapping) else None
    if not isinstance(value, str):
        raise UserError(f"a message's {key} is {value!r}, it must be text", "a message is {role: ..., content: ...}")
    return value


def chatml_default_system(template: str) -> str | None:
    """The system message that a ChatML template adds where there is none ("" for plain ChatML); None for another template."""
    plain = _canonical(template)
    if plain is None:
        return None
    match = _DEFAULT_SYSTEM.search(plain)
    if match:
        plain = plain[: match.start()] + plain[match.end() :]
    return (match["system"] if match else "") if plain == _canonical(CHATML) else None


def _canonical(template: str) -> str | None:
    """The template in one spelling: spaces inside tags, the kind of quotes and joined literals make no difference.

    None where text stands between the tags: then spaces matter.
    """
    # A line's end right after a block tag is dropped by the renderers of chat templates (trim_blocks, lstrip_blocks).
    template = re.sub(r"%\}\n[ \t]*(?=\{%)|%\}\n(?=\{\{)", "%}", template.strip())
    template = re.sub(r"\s*\{([{%])-", r"{\1", re.sub(r"-([}%]\})\s*", r"\1", template))
    tags = re.findall(r"\{%.*?%\}|\{\{.*?\}\}", template, re.DOTALL)
    if "".join(tags) != template:
        return None
    return "".join(_canonical_tag(tag) for tag in tags)


def _canonical_tag(tag: str) -> str:
    pieces, at = [], 0
    for literal in _LITERAL.finditer(tag):
        body = literal.group()[1:-1].replace("\n", "\\n").replace("'", '"')
        pieces += [re.sub(r"\s", "", tag[at : literal.start()]), f"'{body}'"]
        at = literal.end()
    pieces.append(re.sub(r"\s", "", tag[at:]))
    joined = re.sub(r"message\.(role|content)\b", r"message['\1']", "".join(pieces))
    return joined.replace("'+'", "")


def reads_tools(template: str | None) -> bool:
    """Whether a template tells the model of tools."""
    return template is not None and re.search(r"\{[%{][^%}]*\btools\b", template) is not None


def _render_jinja(
    template: str, messages: Sequence[Message], add_generation_prompt: bool, names: Mapping[str, str], tools: Sequence[Message]
) -> str:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingError("this model's chat template is not ChatML and needs jinja2", "pip install jinja2") from error

    def refuse(message: str) -> None:
        raise UserError(f"the chat template refuses these messages: {message}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    special = {f"{name}_token": token for name, token in names.items()}
    values = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": list(tools) or None, **special}
    try:
        return environment.from_string(template).render(values)
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"the chat template cannot be applied: {error}") from error
