"""`Document`: what every reader gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it was found. `index` is its line or row in `source`, from 1. An absent (null) text is empty."""

    text: str
    source: str
    index: int

    @property
    def place(self) -> str:
        """For people: file and line."""
        return f"{self.source}:{self.index}"
