"""YAML from people nobody vouches for: plain values alone, limits of size, depth and aliases, and a line for whatever is wrong.

`read_yaml` gives the root as an `Entry`: a value, the keys that lead to it and its line. Readers ask entries for what they expect
(`fields`, `items`, `text`, ...) and get a UserError that names file, line and key where it is something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError, SafeConstructor

from openarctic.errors import CapacityError, MissingError, UserError

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_ALIASES = 100
MAX_VALUES = 200_000  # with aliases written out

# libyaml's parser where PyYAML was built with it: ten times as fast, the same events.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a YAML file: `path` is the keys that lead to it, such as `tables[0].name`."""

    file: str
    path: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Where the value begins, counted from 1."""
        return int(self.node.start_mark.line) + 1

    @property
    def is_null(self) -> bool:
        """Nothing was written, or `null`."""
        return bool(self.node.tag == "tag:yaml.org,2002:null")

    def error(self, message: str, hint: str | None = None) -> UserError:
        """What is wrong here, with file, line and key."""
        return UserError(f"{self.file}, line {self.line}: {self.path or 'the file'} {message}", hint)

    def fields(self) -> Fields:
        """Its keys and their values. Raises UserError when it is no mapping."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping of keys to values, not {self._shown()}")
        return Fields(self)

    def items(self) -> list[Entry]:
        """The entries of a list; nothing written is an empty list. Raises UserError when it is something else."""
        if self.is_null:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {self._shown()}")
        return [Entry(self.file, f"{self.path}[{i}]", node) for i, node in enumerate(self.node.value)]

    def text(self) -> str:
        """The text as it was written: `NO`, `2024` and `1.50` stay what they are. Raises UserError for lists and mappings."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"must be text, not {self._shown()}")
        text = "" if self.is_null else str(self.node.value)
        if not text.isprintable() and any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
            raise self.error("holds characters that are not text")
        return text

    def name(self) -> str:
        """Text that is not empty. Raises UserError."""
        text = self.text().strip()
        if not text:
            raise self.error("is empty")
        return text

    def texts(self) -> tuple[str, ...]:
        """The texts of a list. Raises UserError."""
        return tuple(entry.text() for entry in self.items())

    def names(self) -> tuple[str, ...]:
        """The texts of a list, none of them empty. Raises UserError."""
        return tuple(entry.name() for entry in self.items())

    def flag(self) -> bool:
        """True or false. Raises UserError."""
        value = self.value()
        if not isinstance(value, bool):
            raise self.error(f"must be true or false, not {self._shown()}")
        return value

    def integer(self) -> int:
        """A whole number. Raises UserError."""
        value = self.value()
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"must be a whole number, not {self._shown()}")
        return value

    def choice(self, *allowed: str) -> str:
        """One of the allowed words. Raises UserError."""
        text = self.name()
        if text not in allowed:
            raise self.error(f"is {text!r}", f"allowed: {', '.join(allowed)}")
        return text

    def value(self) -> Any:
        """The plain Python value: dict, list, str, int, float, bool, date or None. Raises UserError for any other type."""
        try:
            return SafeConstructor().construct_document(self.node)
        except (ConstructorError, ValueError, OverflowError, TypeError) as error:
            problem = error.problem if isinstance(error, ConstructorError) else str(error)
            raise self.error(f"cannot be read: {problem}") from error

    def _shown(self) -> str:
        if isinstance(self.node, yaml.ScalarNode):
            return "nothing" if self.is_null else repr(self.node.value[:60])
        return "a list" if isinstance(self.node, yaml.SequenceNode) else "a mapping"


class Fields:
    """The keys of a mapping; what nobody asked for is left in `rest`."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._asked: set[str] = set()
        self._entries = dict(_entries(entry))

    def get(self, key: str) -> Entry | None:
        """The value of a key; None where it is absent or nothing is written."""
        self._asked.add(key)
        found = self._entries.get(key)
        return None if found is None or found.is_null else found

    def require(self, key: str) -> Entry:
        """The value of a key. Raises UserError where there is none."""
        found = self.get(key)
        if found is None:
            raise self.entry.error(f"has no {key}", f"{key} is needed here")
        return found

    def rest(self) -> dict[str, Entry]:
        """Keys that were never asked for."""
        return {key: entry for key, entry in self._entries.items() if key not in self._asked}

    def all(self) -> dict[str, Entry]:
        """Every key, where the keys themselves are names that somebody chose."""
        self._asked.update(self._entries)
        return dict(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries


def _entries(entry: Entry) -> Iterator[tuple[str, Entry]]:
    lines: dict[str, int] = {}
    for key, _ in entry.node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise Entry(entry.file, entry.path, key).error("has a key that is not text")
        if key.value in lines:
            here = Entry(entry.file, _join(entry.path, key.value), key)
            raise here.error(f"is given twice (first in line {lines[key.value]})", "keep one of them")
        lines[key.value] = key.start_mark.line + 1
    node = yaml.MappingNode(entry.node.tag, list(entry.node.value), entry.node.start_mark, entry.node.end_mark)
    try:
        SafeConstructor().flatten_mapping(node)  # `<<: *other`
    except ConstructorError as error:
        raise entry.error(f"cannot be read: {error.problem}") from error
    for key, value in node.value:
        yield key.value, Entry(entry.file, _join(entry.path, key.value), value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def read_yaml(path: Path) -> Entry:
    """The root of a YAML file.

    Raises MissingError without a file, UserError (with the line) for text that is not UTF-8 or not YAML, CapacityError for more
    than `MAX_BYTES`, `MAX_DEPTH`, `MAX_ALIASES` or `MAX_VALUES`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingError(f"no file at {path}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not a YAML file") from error
    if len(raw) > MAX_BYTES:
        raise CapacityError(f"{path} is larger than {MAX_BYTES} bytes", "split it, or leave sample values out")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text", "save the file as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str = "the YAML text") -> Entry:
    """The root of a YAML text; `file` is its name in errors. Raises as `read_yaml` does."""
    try:
        _check_events(text, file)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # What ends too early is noticed in the line after the last.
        line = f", line {min(mark.line + 1, len(text.splitlines()))}" if mark else ""
        if "nesting depth" in str(error.problem):  # libyaml has a limit of its own
            raise CapacityError(f"{file}{line}: nested more than {MAX_DEPTH} levels deep") from error
        raise UserError(f"{file}{line}: this is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        place = getattr(error, "position", None)
        line = f", line {text.count(chr(10), 0, place) + 1}" if isinstance(place, int) else ""
        raise UserError(f"{file}{line}: this is not YAML: {str(error).splitlines()[0]}") from error
    if node is None:
        raise UserError(f"{file} is empty", "there is nothing to read in it")
    if _size(node, {}, file) > MAX_VALUES:
        raise CapacityError(f"{file} holds more than {MAX_VALUES} values, with its aliases written out")
    return Entry(file, "", node)


def _check_events(text: str, file: str) -> None:
    """Limits that must hold before anything recursive touches the text."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise CapacityError(f"{file}, line {line}: nested more than {MAX_DEPTH} levels deep")
        if aliases > MAX_ALIASES:
            raise CapacityError(f"{file}, line {line}: more than {MAX_ALIASES} aliases", "write the values out")


def _size(node: yaml.Node, known: dict[int, int | None], file: str) -> int:
    """How many values a tree has when aliases are written out. Raises UserError where an alias holds itself."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise Entry(file, "", node).error("holds an alias of itself")
        return size
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    size = known[id(node)] = 1 + sum(_size(child, known, file) for child in children)
    return size
