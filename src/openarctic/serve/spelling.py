"""How single tokens are written in answers, and where in a text they begin."""

from __future__ import annotations

from openarctic.engine.detokenizer import HALF, Detokenizer
from openarctic.tokenizer import Tokenizer


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """A token as it reads inside a text; `bytes:\\xf0\\x9f`, as OpenAI has it, where it is no whole characters."""
    text = tokenizer.token_text(id)
    if text in tokenizer.special_tokens:
        return text
    raw = tokenizer.token_bytes(id)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
    return text


class Places:
    """Where the tokens of a text begin, in characters, one after the other. Special tokens take no room, and the parts of a
    character begin where it does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text = Detokenizer(tokenizer)
        self._end = 0

    def place(self, id: int) -> int:
        """That of the next token."""
        before = self._end
        self._end += len(self._text.add(id))
        if HALF in self._tokenizer.decode([id]):
            return before
        # What came before it and turned out to be no character was released only now.
        return max(before, self._end - len(self._tokenizer.token_text(id)))
