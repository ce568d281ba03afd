"""Cortex Analyst's YAML, read and written.

Each class of `model.py` is a mapping whose keys are its fields; `_KEYS` says how the value of each key is read. Unknown keys are
kept in `extra` and told as warnings. Keys are written in the order of the classes, without what has its default, so the same
model always gives the same text, and that text reads back as the same model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from openarctic.config import write_text
from openarctic.copilot.semantic import model as m
from openarctic.copilot.yaml_file import Entry, parse_yaml, read_yaml

MAX_VERIFIED_AT = 253_402_300_799  # the end of the year 9999

# Known keys that nothing here uses: they are kept without a word.
_PASSED_ON = frozenset(
    "tags comments variables max_staleness cortex_search_service cortex_search_service_name non_additive_dimensions right_range "
    "semantic_model_name".split()
)
_RENAMED = {"measures": "facts"}  # by Snowflake; the old names stay readable

T = TypeVar("T")
Reader = Callable[[Entry, list[str]], Any]


class Loaded(NamedTuple):
    """A semantic model, and what in its file was not understood."""

    model: m.SemanticModel
    warnings: tuple[str, ...]


def read_cortex(path: Path) -> Loaded:
    """The model in a file. Raises as `read_yaml`, and UserError with line and key for whatever has the wrong form."""
    return cortex_model(read_yaml(path))


def parse_cortex(text: str, file: str = "the YAML text") -> Loaded:
    """The model in a text; `file` is its name in errors."""
    return cortex_model(parse_yaml(text, file))


def cortex_model(root: Entry) -> Loaded:
    """The model under the root of a YAML file."""
    warnings: list[str] = []
    return Loaded(_read(m.SemanticModel, root, warnings), tuple(warnings))


def _plain(read: Callable[[Entry], Any]) -> Reader:
    return lambda entry, _: read(entry)


def _one(cls: type[T]) -> Reader:
    return lambda entry, warnings: _read(cls, entry, warnings)


def _many(cls: type[T]) -> Reader:
    return lambda entry, warnings: tuple(_read(cls, item, warnings) for item in entry.items())


def _choice(*allowed: str) -> Reader:
    return lambda entry, _: entry.choice(*allowed)


def _seconds(entry: Entry, _: list[str]) -> int:
    value = entry.integer()
    if not 0 <= value <= MAX_VERIFIED_AT:
        raise entry.error(f"is {value}", "it counts seconds since 1970-01-01")
    return value


_NAME, _TEXT, _NAMES, _TEXTS, _FLAG = map(_plain, (Entry.name, Entry.text, Entry.names, Entry.texts, Entry.flag))
_TERMS: dict[str, Reader] = {"name": _NAME, "synonyms": _NAMES, "description": _TEXT}
_ACCESS = _choice("public_access", "private_access")
_FIELD: dict[str, Reader] = {
    **_TERMS,
    "expr": _NAME,
    "data_type": _TEXT,
    "unique": _FLAG,
    "sample_values": _TEXTS,
    "is_enum": _FLAG,
    "labels": _NAMES,
    "default_aggregation": _choice(*m.AGGREGATIONS),
    "access_modifier": _ACCESS,
}
_METRIC: dict[str, Reader] = {**_TERMS, "expr": _NAME, "access_modifier": _ACCESS, "using_relationships": _NAMES}
_KEYS: dict[type, dict[str, Reader]] = {
    m.BaseTable: {"database": _TEXT, "schema": _TEXT, "table": _TEXT, "definition": _TEXT},
    m.Key: {"columns": _NAMES},
    m.Dimension: _FIELD,
    m.TimeDimension: _FIELD,
    m.Fact: _FIELD,
    m.Metric: _METRIC,
    m.Filter: {**_TERMS, "expr": _NAME},
    m.SemanticTable: {
        **_TERMS,
        "base_table": _one(m.BaseTable),
        "primary_key": _one(m.Key),
        "unique_keys": _many(m.Key),
        "dimensions": _many(m.Dimension),
        "time_dimensions": _many(m.TimeDimension),
        "facts": _many(m.Fact),
        "metrics": _many(m.Metric),
        "filters": _many(m.Filter),
    },
    m.RelationshipColumn: {"left_column": _NAME, "right_column": _NAME, "type": _choice("asof", "range")},
    m.Relationship: {
        "name": _NAME,
        "left_table": _NAME,
        "right_table": _NAME,
        "relationship_columns": _many(m.RelationshipColumn),
        "join_type": _choice(*m.JOIN_TYPES),
        "relationship_type": _choice(*m.RELATIONSHIP_TYPES),
    },
    m.VerifiedQuery: {
        "name": _TEXT,
        "question": _NAME,
        "sql": _NAME,
        "verified_at": _seconds,
        "verified_by": _TEXT,
        "use_as_onboarding_question": _FLAG,
    },
    m.ModuleInstructions: {"sql_generation": _TEXT, "question_categorization": _TEXT},
    m.SemanticModel: {
        "name": _NAME,
        "description": _TEXT,
        "tables": _many(m.SemanticTable),
        "relationships": _many(m.Relationship),
        "metrics": _many(m.Metric),
        "verified_queries": _many(m.VerifiedQuery),
        "custom_instructions": _TEXT,
        "module_custom_instructions": _one(m.ModuleInstructions),
    },
}


def _read(cls: type[T], entry: Entry, warnings: list[str]) -> T:
    fields = entry.fields()
    values: dict[str, Any] = {}
    required = {f.name for f in dataclasses.fields(cls) if _is_required(f)}  # type: ignore[arg-type]
    for key, read in _KEYS[cls].items():
        found = fields.require(key) if key in required else fields.get(key)
        if found is not None:
            values[key] = read(found, warnings)
    for old, new in _RENAMED.items():
        if new in _KEYS[cls] and (found := fields.get(old)) is not None:
            values[new] = (*values.get(new, ()), *_KEYS[cls][new](found, warnings))
            warnings.append(f"line {found.line}: {found.path} is the old name of {new}, and is written as that")
    if cls is m.BaseTable and bool(values.get("table")) == bool(values.get("definition")):
        raise entry.error("needs either a table or a definition", "base_table: {table: orders}")
    extra = fields.rest()
    for key, item in extra.items():
        if key not in _PASSED_ON:
            warnings.append(f"line {item.line}: {item.path} is not a known key; it is kept and not used")
    values["extra"] = {key: item.value() for key, item in extra.items()}
    return cls(**values)


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def cortex_text(model: m.SemanticModel) -> str:
    """The model as YAML text."""
    return yaml.dump(_written(model), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write_cortex(model: m.SemanticModel, path: Path) -> None:
    """Write the model to a file: all of it, or nothing."""
    write_text(path, cortex_text(model))


def _written(value: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if item.name == "extra":
            shown.update(content)
        elif _is_required(item) or content != item.default:
            shown[item.name] = _value(content)
    return shown


def _value(content: Any) -> Any:
    if dataclasses.is_dataclass(content):
        return _written(content)
    if isinstance(content, tuple):
        return [_value(item) for item in content]
    return content


class _Dumper(yaml.SafeDumper):
    """Plain values without aliases; texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # the dash of a list stands further in than its key


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    # YAML 1.1 takes these for ends of lines (or of marks of byte order); escaped, they stay what they are.
    is_odd = any(c in text for c in "\x85\u2028\u2029\ufeff")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if is_odd else "|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)
