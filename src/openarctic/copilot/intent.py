"""Is this a question at all, and does it ask to read? Decided before any model runs."""

from __future__ import annotations

import re
import unicodedata

from openarctic.errors import RefusedError, UserError

MAX_QUESTION_CHARS = 2000

_POLITE = (
    r"(?:(?:please|kindly|now|just|hey|ok|okay|could you|can you|would you|will you|i want you to|go ahead and|you must|"
    r"let us|let's)[\s,]+)*"
)
_WRITE = re.compile(
    rf"^\W*{_POLITE}(?P<verb>delete|drop|truncate|remove|erase|wipe|purge|destroy|insert|update|modify|alter|rename|"
    r"overwrite|replace|grant|revoke|attach|detach|vacuum|merge|upsert)\b",
    re.IGNORECASE,
)
_MAKE = re.compile(
    rf"^\W*{_POLITE}(?P<verb>create|add|set|change|edit|make)\b[^?]*\b(?:table|view|index|database|user|role|column|"
    r"row|record|trigger|schema|password|to|into|from)\b",
    re.IGNORECASE,
)
_MAKE_READING = re.compile(
    rf"^\W*{_POLITE}(?:create|make)\s+(?:me\s+)?(?:a|an|the)?\s*(?:\w+\s+)?(?:list|report|chart|summary|overview|plot|graph|ranking)\b",
    re.IGNORECASE,
)


def check_text(text: str) -> str:
    """The text of a question, trimmed. Raises UserError for none, too much or binary."""
    question = text.strip()
    if not question:
        raise UserError("the question is empty", 'try: openarctic ask "How many customers are there?"')
    if len(question) > MAX_QUESTION_CHARS:
        raise UserError(
            f"the question has {len(question)} characters, the limit is {MAX_QUESTION_CHARS}",
            "ask for one thing at a time",
        )
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\n\r\t" for c in question):
        raise UserError("the question is not text", "it holds control or unassigned characters")
    return question


def check_question(text: str) -> str:
    """The question, trimmed. Raises UserError for none, too much or binary; RefusedError when it asks for a change."""
    question = check_text(text)
    match = _WRITE.match(question) or (None if _MAKE_READING.match(question) else _MAKE.match(question))
    if match:
        raise RefusedError(
            "not_a_read",
            f"the question asks to {match['verb'].lower()} data, and OpenArctic only reads",
            "ask what the data says; nothing was changed",
        )
    return question
