"""Models by name: the bundled arctic-nano, or any GGUF file by its path."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from openarctic.engine.engine import Engine
from openarctic.errors import MissingError
from openarctic.formats.bundled import bundled_models

DEFAULT = "arctic-nano"


def load(model: str | Path | None = None, threads: int | None = None, **options: Any) -> Engine:
    """An engine for a bundled model's name or a GGUF path; None is arctic-nano. `options` are those of `Engine`.

    Raises MissingError, and what `Engine.load` raises.
    """
    name = str(model) if model is not None else DEFAULT
    known = bundled_models()
    if name in known:
        return Engine.load(known[name], threads=threads, name=name, **options)
    if name.endswith(".gguf") or Path(name).exists():
        return Engine.load(name, threads=threads, **options)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}; or give a .gguf file"
    raise MissingError(f"no model named {name!r}", hint)
