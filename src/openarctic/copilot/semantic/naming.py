"""What names and comments of a database tell: synonyms, and whether a column is about persons."""

from __future__ import annotations

import re
from collections.abc import Iterable

from openarctic.copilot.linking.words import phrase_of, stem, words_and_full_words

_ALSO = re.compile(
    r"\b(?:aka|a\.k\.a\.|also (?:known as|called|named)|synonyms?|aliases?)\s*:?\s*(?P<names>[^.;)\n]+)", re.IGNORECASE
)

_PERSONAL_WORDS = frozenset(
    "email mail phone telephone mobile fax ssn passport iban bic birth birthday birthdate address street surname firstname "
    "lastname forename nickname username login password password_hash token ip licence license nin tin credit card cvv".split()
)
_PERSONS = frozenset(
    "person people customer client user employee staff member patient student teacher instructor professor author actor director "
    "singer player coach contact owner guest passenger driver doctor physician nurse candidate applicant subscriber citizen "
    "voter manager friend reviewer artist salesperson worker".split()
)
_PERSONAL_VALUES = (
    re.compile(r"[^@\s]+@[^@\s]+\.\w+"),  # mail
    re.compile(r"(?!\d{4}-\d\d-\d\d)(?=(?:\D*\d){7})\+?[\d ()./-]+"),  # telephone
    re.compile(r"\d{3}-\d{2}-\d{4}"),  # social security
    re.compile(r"[A-Z]{2}\d{2}[A-Z0-9 ]{11,30}"),  # bank account
    re.compile(r"\d{1,3}(?:\.\d{1,3}){3}"),  # network address
)
PERSONAL_SHARE = 0.2


def synonyms_of(name: str, comment: str) -> tuple[str, ...]:
    """Other words for a name: itself in full, and what its comment says that it is also called."""
    found = [phrase_of(name)]
    for match in _ALSO.finditer(comment):
        found += [part.strip(" '\"`") for part in re.split(r",|/|\bor\b|\band\b", match["names"])]
    plain = name.replace("_", " ").lower()
    return tuple(dict.fromkeys(s for s in found if s and s.lower() != plain and len(s) <= 60))


def looks_personal(table: str, column: str, values: Iterable[object]) -> bool:
    """Whether a column seems to be about single persons: by its name, or by what a fifth of its values look like."""
    words = words_and_full_words(column)
    stems = {stem(word) for word in words}
    owners = {stem(word) for word in words_and_full_words(table)}
    is_person = bool(stems & _PERSONS) and len(words) <= 2 and words.isdisjoint({"id", "type", "count"})
    is_name = bool(words & {"name", "first", "last", "middle", "full"}) and bool((owners | stems) & _PERSONS)
    if words & _PERSONAL_WORDS or is_person or is_name:
        return True
    texts = [value for value in values if isinstance(value, str)]
    like = sum(any(form.fullmatch(text.strip()) for form in _PERSONAL_VALUES) for text in texts)
    return bool(texts) and like >= PERSONAL_SHARE * len(texts)
