"""Where caches lie; configs: JSON files that hold one object, and overrides (`--set a.b=c`) of frozen, typed dataclasses."""

from __future__ import annotations

import difflib
import json
import os
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from openarctic.errors import CorruptError, UserError

Config = TypeVar("Config")


def cache_folder() -> Path:
    """OPENARCTIC_CACHE, else `openarctic` in the user's cache folder."""
    if own := os.environ.get("OPENARCTIC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openarctic"


def write_text(path: Path, text: str) -> None:
    """Through a temporary file beside it, renamed when it is complete."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Through a temporary file beside it, renamed when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptError for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CorruptError(f"{path} is not a JSON object")
    return values


def override(config: Config, settings: Sequence[str]) -> Config:
    """A copy of a (nested) dataclass with fields set from `path=value` texts.

    Raises UserError for an unknown field, naming the nearest, or a value of another type.
    """
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"--set {setting!r} has no value", "write --set field=value")
        _check_known(config, path)
        config = _set(config, path.split("."), text, path)
    return config


def _check_known(config: Any, path: str) -> None:
    known = list(_paths(config))
    if path not in known:
        near = _nearest(path, known)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(f.name for f in fields(config))}"
        raise UserError(f"unknown config field {path}", hint)


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted name of every field, groups among them."""
    for each in fields(config):
        yield f"{prefix}{each.name}"
        if is_dataclass(value := getattr(config, each.name)):
            yield from _paths(value, f"{prefix}{each.name}.")


def _nearest(path: str, known: Sequence[str]) -> str | None:
    """The field that was meant: best one of the same last name, which may stand in another group."""
    *_, name = path.split(".")
    same = [each for each in known if each.split(".")[-1] == name]
    return next(iter(difflib.get_close_matches(path, same, 1, cutoff=0.0) or difflib.get_close_matches(path, known, 1)), None)


def _set(config: Any, path: Sequence[str], text: str, full: str) -> Any:
    name = path[0]
    current = getattr(config, name)
    if len(path) > 1:
        return replace(config, **{name: _set(current, path[1:], text, full)})
    if is_dataclass(current):
        raise UserError(f"config field {full} is a group", f"set one of {', '.join(f.name for f in fields(current))}")
    return replace(config, **{name: _parse(text, get_type_hints(type(config))[name], full)})


def _parse(text: str, kind: Any, full: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in get_args(kind):
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if kind is Path:
            return Path(text)
        if get_origin(kind) is Literal:
            return _choice(text, get_args(kind), full)
        if get_origin(kind) is tuple:
            return _items(json.loads(text), get_args(kind)[0])
    except (ValueError, KeyError) as error:
        if get_origin(kind) is tuple:
            told = f"a JSON list of {get_args(kind)[0].__name__}"
            raise UserError(f"config field {full}: {text!r} is not {told}", f"write --set '{full}=[...]'") from error
        name = getattr(kind, "__name__", str(kind))
        raise UserError(f"config field {full}: {text!r} is not of type {name}") from error
    raise UserError(f"config field {full} cannot be set from the command line")


def _items(values: Any, kind: type) -> tuple[Any, ...]:
    """A JSON list of that kind as a tuple. Raises ValueError."""
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise ValueError(f"a list of {kind.__name__} is wanted")
    return tuple(values)


def _choice(text: str, choices: Sequence[Any], full: str) -> Any:
    for choice in choices:
        if text == str(choice):
            return choice
    raise UserError(f"config field {full}: {text!r} is not a choice", f"choose one of {', '.join(map(str, choices))}")
