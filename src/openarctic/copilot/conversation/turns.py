"""What was asked before, as data: question, SQL and how it was read. Bounded wherever it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TURNS = 20  # that a conversation keeps
PROMPT_TURNS, PROMPT_CHARS = 5, 4000  # that a model is shown
MAX_READ_AS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and the SQL that answered it. `read_as` says how a follow-up was read; `confidence` (None: nobody knows) and
    `calibrated` are its answer's."""

    question: str
    sql: str
    read_as: str = ""
    confidence: float | None = None
    calibrated: bool = False

    def extended(self, notes: Sequence[str]) -> str:
        """How a follow-up of this turn was read: what this one was, then the changes."""
        before = self.read_as or f'"{self.question}"'
        text = f"{before}{';' if self.read_as else ', changed:'} {'; '.join(notes)}"
        return text if len(text) <= MAX_READ_AS else f"{text[: MAX_READ_AS // 2]} ... {text[-MAX_READ_AS // 2 :]}"


def history_text(turns: Sequence[Turn]) -> str:
    """The latest turns for a model that reads them, oldest first; empty without any."""
    told: list[str] = []
    size = 0
    for turn in reversed(turns[-PROMPT_TURNS:]):
        text = f"Question: {' '.join(turn.question.split())}\nSQL: {' '.join(turn.sql.split())}\n"
        size += len(text)
        if size > PROMPT_CHARS:
            break
        told.append(text)
    if not told:
        return ""
    return "Earlier in this conversation (the question may be about it):\n" + "".join(reversed(told))
