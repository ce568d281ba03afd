"""Models by name: the bundled arctic-nano, or any GGUF file by its path."""

from __future__ import annotations

import difflib
from pathlib import Path

from openarctic.engine.engine import Engine
from openarctic.errors import MissingError

ASSETS = Path(__file__).parent.parent / "assets"
DEFAULT = "arctic-nano"


def bundled_models() -> dict[str, Path]:
    """Name -> first file of every model in the package."""
    firsts = [p for p in ASSETS.glob("*.gguf") if "-of-" not in p.name or "-00001-of-" in p.name]
    return {p.name.removesuffix(".gguf").split("-00001-of-")[0]: p for p in firsts}


def load(model: str | Path | None = None, threads: int | None = None) -> Engine:
    """An engine for a bundled model's name or a GGUF path; None is arctic-nano. Raises MissingError or CorruptError."""
    name = str(model) if model is not None else DEFAULT
    known = bundled_models()
    if name in known:
        return Engine.load(known[name], threads=threads, name=name)
    if name.endswith(".gguf") or Path(name).exists():
        return Engine.load(name, threads=threads)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}; or give a .gguf file"
    raise MissingError(f"no model named {name!r}", hint)
