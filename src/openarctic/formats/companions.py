"""The files of a checkpoint folder by name: what goes along unchanged, and what a conversion makes and so may replace.

A folder that holds anything else is somebody's, and is never replaced or emptied.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from openarctic.formats.checkpoint import INDEX
from openarctic.formats.verify import MANIFEST

JOURNAL = "journal"  # of a conversion on its way
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# Small files that go along unchanged.
COMPANIONS = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_MADE = frozenset((*COMPANIONS, "config.json", INDEX, MANIFEST, JOURNAL))
# What comes with a downloaded checkpoint besides.
_PUBLISHED = frozenset(("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", ".gitattributes"))


def foreign_in_checkpoint(folder: Path) -> list[str]:
    """Names of what belongs to no checkpoint in a folder, subfolders among it."""
    return _others(folder, _MADE | _PUBLISHED, (".safetensors",))


def foreign_in_partial(folder: Path) -> list[str]:
    """Names of what no conversion on its way has put into its folder."""
    return _others(folder, _MADE, (".safetensors", ".gguf", ".partial"))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like one: a config or weights."""
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def _others(folder: Path, names: Set[str], suffixes: tuple[str, ...]) -> list[str]:
    found = sorted(folder.iterdir())
    return [p.name for p in found if not (p.is_file() and (p.name in names or p.name.lower().endswith(suffixes)))]
