"""Writing all files or none, and never over what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from openarctic.errors import UserError


def save(files: Mapping[str, str], folder: Path, force: bool = False) -> list[Path]:
    """Write texts by their paths below `folder`: first all of them beside their places, then each to its own.

    Raises UserError where a file is there already and `force` is not given; then nothing is written.
    """
    places = {folder / path: text for path, text in files.items()}
    there = [place for place in places if os.path.lexists(place)]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"{there[0]}{more} is there already", "give --force to write over it, or another --out")
    folders = [parent for place in places for parent in reversed(place.parents) if not parent.exists()]
    partial = {place: place.with_name(f".{place.name}.{os.getpid()}.partial") for place in places}
    moved: list[Path] = []
    try:
        for place, text in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            partial[place].write_text(text, encoding="utf-8")
        for place, waiting in partial.items():
            os.replace(waiting, place)
            moved.append(place)
    except BaseException:
        for place in moved:
            if place not in there:
                place.unlink(missing_ok=True)
        for waiting in partial.values():
            waiting.unlink(missing_ok=True)
        for made in reversed(list(dict.fromkeys(folders))):
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()
        raise
    return list(places)
