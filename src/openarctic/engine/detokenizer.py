"""Tokens to text as they come: half characters wait for the rest, and what may become a stop string is held back.

A token is decoded together with the one before it, since some vocabularies drop the space of a text's first word.
"""

from __future__ import annotations

from collections.abc import Sequence

from openarctic.tokenizer import Tokenizer

HALF = "\ufffd"  # how bytes that are no whole character decode


class Detokenizer:
    """The text of one candidate; `text` is what was released, `stopped_by` the stop string that ended it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped_by: str | None = None
        self._tokenizer, self._stop = tokenizer, stop
        self._window: list[int] = []  # the last tokens: `_read` whose text is known, then those that wait
        self._read = 0
        self._known = ""
        self._held = ""

    def add(self, token: int) -> str:
        """The text that this token releases."""
        self._window.append(token)
        return self._release(self._decoded(), is_end=False)

    def finish(self) -> str:
        """What was held back, at the end of the tokens."""
        if self.stopped_by is not None:
            return ""
        return self._release(self._tokenizer.decode(self._window)[len(self._known) :], is_end=True)

    def _decoded(self) -> str:
        text = self._tokenizer.decode(self._window)
        new = text[len(self._known) :]
        if not new or text.endswith(HALF):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._known = self._tokenizer.decode(self._window)
        return new

    def _release(self, new: str, is_end: bool) -> str:
        self._held += new
        # The stop string that ends first, as if the text had come character by character; of several the longest.
        ends = [(at + len(s), at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if ends:
            _, size, self.stopped_by = min(ends)
        else:
            size = len(self._held) - (0 if is_end else self._possible_stop())
        released = self._held[:size]
        self._held = self._held[size:]
        self.text += released
        return released

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string may begin."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-size:]) for s in self._stop):
                return size
        return 0
