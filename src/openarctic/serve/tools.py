"""Tools: what the model is told of them, the grammar of its calls, and the calls in what it writes.

A call is written in the form that Hermes and Qwen models know:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

The grammar holds the model to declared names and to each tool's JSON Schema, so what is read is always whole and valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openarctic.generator import Constraint
from openarctic.serve.errors import HTTPError
from openarctic.serve.grammars import Form
from openarctic.serve.protocol import ChatRequest, FunctionDefinition, NamedTool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# Any text in which no call begins.
_TEXT = r"TEXT: /(?s:.*)/ & ~/(?s:.*<tool_call>.*)/"


def tools_of(request: ChatRequest) -> list[FunctionDefinition]:
    """The tools that may be called: none where `tool_choice` says so. Raises HTTPError for a choice that names no tool, and
    for parameters that are no object."""
    tools = [_with_object(tool.function, _place(i)) for i, tool in enumerate(request.tools or [])]
    choice = request.tool_choice
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise HTTPError(400, "two tools have one name", param="tools")
    if not tools:
        if choice not in (None, "none"):
            raise HTTPError(400, "tool_choice is given without tools", param="tool_choice")
        return []
    if isinstance(choice, NamedTool):
        chosen = [tool for tool in tools if tool.name == choice.function.name]
        if not chosen:
            raise HTTPError(400, f"tool_choice names {choice.function.name}, tools are {', '.join(names)}", param="tool_choice")
        return chosen
    return [] if choice == "none" else tools


def _place(number: int) -> str:
    return f"tools[{number}].function.parameters"


def _with_object(tool: FunctionDefinition, place: str) -> FunctionDefinition:
    """Its arguments are an object, also where the schema does not say so. Raises HTTPError where it says something else."""
    if not tool.parameters:
        return tool
    try:
        json.dumps(tool.parameters, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        wrong = "hold text that is not valid Unicode" if isinstance(error, UnicodeEncodeError) else "are nested too deep"
        raise HTTPError(400, f"{place} {wrong}", param=place) from error
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        raise HTTPError(400, f"{place} are of type {json.dumps(kind)}, arguments are an object", param=place)
    return tool.model_copy(update={"parameters": {"type": "object", **tool.parameters}})


def calls_form(request: ChatRequest, tools: Sequence[FunctionDefinition], other: Form | None) -> Form:
    """Calls of `tools` where they must be made; else calls, or text (or what `other`, of a JSON schema, wants). A named tool is
    called once."""
    rules = [f"call_{i}: {_literal(_before(tool.name))} args_{i} {_literal(_after())}" for i, tool in enumerate(tools)]
    rules += [f"args_{i}: %json {_compact(tool.parameters or _NO_PARAMETERS)}" for i, tool in enumerate(tools)]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    is_named = isinstance(request.tool_choice, NamedTool)
    many = "" if is_named or request.parallel_tool_calls is False else f" ({_literal(chr(10))} call)*"
    if is_named or request.tool_choice == "required":
        rules.append(f"start: call{many}")
    elif other is not None and other.constraint.kind == "json":
        schema = json.loads(other.constraint.source)
        rules += [f"start: call{many} | answer", f"answer: %json {_compact(schema if isinstance(schema, dict) else {})}"]
    elif other is not None:
        raise HTTPError(400, f"tools go with JSON outputs, not with a {other.constraint.kind}", param="structured_outputs")
    else:
        rules += [f"start: TEXT | TEXT? call{many}", _TEXT]
    places = {tool.function.name: _place(i) for i, tool in enumerate(request.tools or [])}
    parts = [Form(Constraint(json=tool.parameters), places[tool.name]) for tool in tools if tool.parameters]
    return Form(Constraint(grammar="\n".join(rules)), "tools", (*parts, *([other] if other else [])))


def _compact(schema: Mapping[str, Any]) -> str:
    """The schema, for JSON without optional white space: small models do not find out of it."""
    return json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})


def _before(name: str) -> str:
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": '


def _after() -> str:
    return f"}}\n{CLOSE}"


def _literal(text: str) -> str:
    return json.dumps(text)


def describe(tools: Sequence[FunctionDefinition]) -> str:
    """What a system message says of the tools, for chat templates that say nothing."""
    listed = "\n".join(json.dumps({"type": "function", "function": t.model_dump(exclude_none=True)}) for t in tools)
    return (
        "You may call functions to help with the user's question.\n\nThe functions are, as JSON in <tools></tools>:\n"
        f"<tools>\n{listed}\n</tools>\n\nA call is a JSON object with name and arguments in {OPEN}{CLOSE}:\n"
        f'{OPEN}\n{{"name": "the function", "arguments": {{"its": "arguments"}}}}\n{CLOSE}'
    )


def written(calls: Sequence[ToolCall]) -> str:
    """Earlier calls as the model wrote them."""
    return "\n".join(f"{_before(c.function.name)}{c.function.arguments or '{}'}{_after()}" for c in calls)


@dataclass(frozen=True, slots=True)
class Text:
    """Text beside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """Call number `index` is of this function."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of call number `index`."""

    index: int
    text: str


Piece = Text | CallBegins | Arguments


@dataclass(slots=True)
class CallReader:
    """Reads calls out of a text as it comes; what may become the mark of a call is held back until it is known."""

    names: Sequence[str]
    count: int = 0  # calls that have begun
    _held: str = ""
    _starts: Mapping[str, str] = field(init=False)
    _depth: int | None = None  # of braces inside arguments; None outside
    _quoted: bool = False
    _escaped: bool = False

    def __post_init__(self) -> None:
        self._starts = {_before(name): name for name in self.names}

    def feed(self, text: str) -> list[Piece]:
        """What the new text makes known."""
        self._held += text
        pieces: list[Piece] = []
        while True:
            before = len(self._held)
            pieces += self._arguments() if self._depth is not None else self._outside()
            if len(self._held) == before:
                return pieces

    def finish(self, is_cut: bool = False) -> list[Piece]:
        """What was held back, at the end. The beginning of a call is none of the text where it was cut off."""
        held, self._held = self._held, ""
        if is_cut and OPEN[0] in held:
            return []
        is_after_a_call = self.count > 0 and not held.strip()
        return [Text(held)] if held and self._depth is None and not is_after_a_call else []

    def _outside(self) -> list[Piece]:
        found = [(at, start) for start in self._starts if (at := self._held.find(start)) >= 0]
        if found:
            at, start = min(found)
            text, self._held = self._held[:at].rstrip(), self._held[at + len(start) :]
            begins = CallBegins(self.count, self._starts[start])
            self.count += 1
            self._depth = 0
            return [Text(text), begins] if text else [begins]
        at = self._held.find(OPEN[0])
        while at >= 0 and not self._may_begin(self._held[at:]):
            at = self._held.find(OPEN[0], at + 1)
        text = (self._held if at < 0 else self._held[:at]).rstrip()  # white space before a call is none of the text
        self._held = self._held[len(text) :]
        return [Text(text)] if text else []

    def _may_begin(self, text: str) -> bool:
        return any(start.startswith(text) for start in self._starts)

    def _arguments(self) -> list[Piece]:
        end = self._end_of_arguments()
        text, self._held = self._held[:end], self._held[end:]
        pieces: list[Piece] = [Arguments(self.count - 1, text)] if text else []
        if self._depth == -1:  # the object has closed: its frame must follow whole
            if len(self._held) < len(_after()):
                return pieces
            self._held = self._held.removeprefix(_after())
            self._depth = None
        return pieces

    def _end_of_arguments(self) -> int:
        """How many held characters are the arguments'; `_depth` is -1 after the last brace."""
        if self._depth == -1:
            return 0
        assert self._depth is not None
        for i, char in enumerate(self._held):
            if self._quoted:
                self._quoted = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._depth = -1
                    return i + 1
        return len(self._held)
