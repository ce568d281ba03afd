"""The little of dbt's Jinja that generated models may hold, resolved by us: nothing of it is rendered by Jinja.

`{{ ref('m') }}`, `{{ source('s', 't') }}`, `{{ config(...) }}` with plain values, `{{ this }}`, comments, and one kind of
condition, `{% if is_incremental() %} ... {% endif %}`. Everything else could run SQL or read the environment when dbt parses the
project (`run_query`, `statement`, hooks, macros, `env_var`), also inside of SQL comments, and is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openarctic.copilot.writing.draft import Problem

_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_OPEN = re.compile(r"\{\{|\{%|\{#|\}\}|%\}|#\}")
CONFIG = {
    "materialized": ("view", "table", "incremental", "ephemeral"),
    "incremental_strategy": ("append", "merge", "delete+insert", "microbatch", "insert_overwrite"),
    "on_schema_change": ("ignore", "fail", "append_new_columns", "sync_all_columns"),
    "unique_key": None,
    "tags": None,
    "cluster_by": None,
}

# What a name in SQL stands for: ("ref", model) or ("source", source, table) or ("this",).
Reference = tuple[str, ...]


@dataclass(slots=True)
class Resolved:
    """A model's SQL with names for its references: of the first run, and (`is_incremental`) of later ones."""

    sql: str = ""
    later: str = ""
    references: list[Reference] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_incremental(self) -> bool:
        """Whether it has a part for later runs."""
        return self.later != self.sql


def resolve(text: str, file: str, name_of: Callable[[Reference], str]) -> Resolved:
    """`name_of` gives the name that stands in the SQL for a reference."""
    resolved = Resolved()
    first: list[str] = []
    later: list[str] = []
    place, in_condition = 0, 0
    for tag in _TAG.finditer(text):
        line = text.count("\n", 0, tag.start()) + 1
        gap = text[place : tag.start()]
        later.append(gap)
        if in_condition != 1:
            first.append(gap)
        place = tag.end()
        written = tag.group()
        lines = "\n" * written.count("\n")
        if written.startswith("{#"):
            replaced = lines
        elif written.startswith("{%"):
            replaced, in_condition = lines, _condition(written, in_condition, resolved, file, line)
        else:
            replaced = _expression(written, resolved, file, line, name_of) + lines
        later.append(replaced)
        if in_condition != 1:
            first.append(replaced)
    rest = text[place:]
    first.append(rest)
    later.append(rest)
    if in_condition:
        resolved.problems.append(Problem(file, None, "{% if %} is never closed", "{% endif %}"))
    resolved.sql, resolved.later = "".join(first).strip(), "".join(later).strip()
    if _OPEN.search(resolved.later):
        resolved.problems.append(Problem(file, None, "it holds brackets of Jinja that are never closed"))
    return resolved


def _condition(written: str, depth: int, resolved: Resolved, file: str, line: int) -> int:
    words = written[2:-2].strip("- \t\n").split()
    if words == ["if", "is_incremental()"] and depth == 0:
        return 1
    if words == ["endif"] and depth == 1:
        return 0
    told = " ".join(words)[:60]
    hint = "{{ ref() }}, {{ source() }}, {{ config() }} and {% if is_incremental() %} may be used"
    resolved.problems.append(Problem(file, line, f"{{% {told} %}} may not be used", hint))
    return depth


def _expression(written: str, resolved: Resolved, file: str, line: int, name_of: Callable[[Reference], str]) -> str:
    inner = written[2:-2].strip("- \t\n")
    hint = "{{ ref() }}, {{ source() }} and {{ config() }} with plain values may be used"
    try:
        call = ast.parse(inner.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if isinstance(call, ast.Name) and call.id == "this":
        resolved.references.append(("this",))
        return name_of(("this",))
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
        name, values = call.func.id, [_plain(argument) for argument in call.args]
        if name in ("ref", "source") and not call.keywords and len(values) == (1 if name == "ref" else 2):
            if all(isinstance(value, str) for value in values):
                reference = (name, *(str(value) for value in values))
                resolved.references.append(reference)
                return name_of(reference)
        if name == "config" and not values:
            for keyword in call.keywords:
                _config(keyword, resolved, file, line)
            return ""
    told = " ".join(inner.split())[:60]
    resolved.problems.append(Problem(file, line, f"{{{{ {told} }}}} may not be used", hint))
    return "x"


def _config(keyword: ast.keyword, resolved: Resolved, file: str, line: int) -> None:
    name, value = keyword.arg or "**", _plain(keyword.value)
    if name not in CONFIG:
        hint = f"allowed: {', '.join(CONFIG)}"
        resolved.problems.append(Problem(file, line, f"the setting {name} may not be used in config()", hint))
    elif value is None or ((allowed := CONFIG[name]) is not None and value not in allowed):
        hint = f"one of {', '.join(CONFIG[name] or ())}" if CONFIG[name] else "a text, or a list of texts"
        resolved.problems.append(Problem(file, line, f"the setting {name} of config() has no such value", hint))
    else:
        resolved.config[name] = value


def _plain(node: ast.expr) -> Any:
    """A text or a list of texts; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        values = [_plain(item) for item in node.elts]
        return values if all(isinstance(value, str) for value in values) else None
    return None
