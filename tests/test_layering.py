"""Rooms import only downwards, the core needs no torch, and help costs neither torch nor the engine."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import openarctic
from openarctic.cli import COMMANDS

PACKAGE = Path(openarctic.__file__).parent
# From the top down.
ORDER = [
    "cli",
    "serve",
    "evals",
    "bench",
    "copilot",
    "train",
    "data",
    "model",
    "planner",
    "engine",
    "native",
    "formats",
    "tokenizer",
    "remote",
    "generator",
    "config",
    "machine",
    "event_loop",
    "errors",
]
HEAVY = ("torch", "openarctic.engine", "openarctic.native", "numpy", "duckdb", "sqlglot", "llguidance", "tokenizers")


def room(module: str) -> str:
    """`openarctic.copilot.joins` -> `copilot`; the package itself is the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "cli"


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name == "openarctic" or name.startswith("openarctic.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path) - {"openarctic"}:
        assert ORDER.index(own) <= ORDER.index(room(name)), f"{own} imports {name}"


@pytest.mark.parametrize(
    "path",
    sorted(p for r in ("bench", "copilot", "data", "planner", "engine", "formats") for p in (PACKAGE / r).glob("*.py")),
    ids=str,
)
def test_the_core_rooms_do_not_import_torch(path: Path) -> None:
    makes_training_data = path.name == "nano.py"  # runs only under `openarctic train`
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert makes_training_data or "torch" not in names


def loaded_by(code: str) -> set[str]:
    """Top modules that a fresh interpreter has after `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import openarctic").intersection(HEAVY)


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)], ids=str)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import contextlib, io\nfrom openarctic.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        f"    main({[*command, '--help']!r})\n"
        "assert 'usage: openarctic' in out.getvalue()"
    )
    assert not loaded_by(code).intersection(HEAVY)


def test_the_core_install_has_no_torch_in_its_closure() -> None:
    seen: set[str] = set()
    queue = ["openarctic"]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's or version's dependency
        for line in wanted:
            requirement, _, marker = line.partition(";")
            if "extra" not in marker:
                queue.append(re.split(r"[^\w.-]", requirement.strip())[0].lower())
    assert {"numpy", "duckdb", "sqlglot", "llguidance", "tokenizers"} <= seen
    assert "torch" not in seen
