"""The models inside this package, by name."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"


def bundled_models() -> dict[str, Path]:
    """Name -> file (of splits the first) of every model in the package."""
    firsts = [p for p in ASSETS.glob("*.gguf") if "-of-" not in p.name or "-00001-of-" in p.name]
    return {p.name.removesuffix(".gguf").split("-00001-of-")[0]: p for p in firsts}


def model_path(name: str | Path) -> Path:
    """The file of a bundled model's name; any other text is a path already."""
    return bundled_models().get(str(name), Path(name))
