"""Lint of generated Python: ruff where it is installed, else two checks of our own (undefined names, unused imports)."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

from openarctic.copilot.writing.draft import Problem
from openarctic.copilot.writing.python_code import BUILTINS

RULES = "E9,F,B006,B008,S608"
TIMEOUT_S = 30.0


def find_ruff() -> str | None:
    """Its program: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("ruff")
    if beside.is_file():
        return str(beside)
    if importlib.util.find_spec("ruff") is None:
        return None
    return shutil.which("ruff")


def lint(source: str, file: str, ruff: str | None = None) -> list[Problem]:
    """Everything that is found, by line; `ruff` is its program. It reads the script and does not run it."""
    if ruff is not None and (found := _ruff(source, file, ruff)) is not None:
        return found
    return sorted(_own(source, file), key=lambda problem: problem.line or 0)


def linter(ruff: str | None) -> str:
    """What `lint` uses, in words."""
    return "linted by ruff" if ruff else "linted by our own checks (undefined names, unused imports); ruff is not installed"


def _ruff(source: str, file: str, program: str) -> list[Problem] | None:
    command = [program, "check", "--isolated", "--no-cache", "--ignore-noqa", "--select", RULES, "--output-format", "json"]
    command += ["--stdin-filename", file, "-"]
    try:
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=TIMEOUT_S, check=False)
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return [Problem(file, entry["location"]["row"], f"{entry['message']} [{entry['code']}]") for entry in found]


def _own(source: str, file: str) -> Iterator[Problem]:
    tree = ast.parse(source, file)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                if name not in used:
                    yield Problem(file, node.lineno, f"{alias.name} is imported and not used")
    top = symtable.symtable(source, file, "exec")
    known = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()} | BUILTINS
    known |= {s.get_name() for table in _tables(top) for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()}
    lines: dict[str, int] = {}
    for place in ast.walk(tree):
        if isinstance(place, ast.Name):
            lines.setdefault(place.id, place.lineno)
    undefined = {name for table in _tables(top) for name in _globals(table)} - known
    for missing in undefined:
        yield Problem(file, lines.get(missing), f"the name {missing} is not defined")


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        is_top = table.get_type() == "module" and not (symbol.is_assigned() or symbol.is_imported())
        if symbol.is_referenced() and (symbol.is_global() or is_top):
            yield symbol.get_name()
