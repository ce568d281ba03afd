"""API keys: who asks, and what they may do. Only SHA-256 digests are kept; keys are random, so no slow hash is needed.

A key file has a line for every key, `#` begins a comment:

    NAME SHA256 SCOPES [ROLES]
    ann 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 ask,query analyst
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openarctic.copilot.principal import Principal
from openarctic.errors import MissingError, UserError

SCOPES = ("ask", "query", "generate", "admin")
PREFIX = "oa-"


@dataclass(frozen=True, slots=True)
class Key:
    """`name` stands in logs and is the principal of policies; `digest` is the SHA-256 of the key in hexadecimal.

    With `roles` a policy takes those; without, the ones that it gives to a user of that name.
    """

    name: str
    digest: str
    scopes: frozenset[str] = frozenset(SCOPES)
    roles: tuple[str, ...] = ()

    @property
    def user(self) -> Principal | str:
        """Who asks, for a policy."""
        return Principal(self.name, self.roles) if self.roles else self.name

    def may(self, scope: str) -> bool:
        """Whether the key has the scope."""
        return scope in self.scopes


ANYONE = Key("anyone", "")  # where no key is set


def digest_of(key: str) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A random key of 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def find_key(keys: Sequence[Key], given: str) -> Key | None:
    """The key with that text; every one is compared, each in constant time."""
    digest, found = digest_of(given), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def given_key(authorization: str) -> str:
    """The key of an Authorization header: `Bearer KEY` or, of Cortex Analyst's clients, `Snowflake Token="KEY"`; else ""."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    token = re.fullmatch(r'Token="([^"]*)"', rest.strip(), re.IGNORECASE)
    return token[1] if token and scheme.lower() == "snowflake" else ""


def key_line(name: str, key: str, scopes: Iterable[str] = SCOPES, roles: Iterable[str] = ()) -> str:
    """The key file's line for a key."""
    return " ".join([name, digest_of(key), ",".join(scopes), *([",".join(roles)] if roles else [])])


def read_keys(path: Path) -> tuple[Key, ...]:
    """Of a key file. Raises MissingError, or UserError that names the line."""
    if not path.is_file():
        raise MissingError(f"no key file at {path}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    keys = tuple(
        _key(text.split(), f"line {number} of {path}")
        for number, line in enumerate(lines, 1)
        if (text := line.partition("#")[0].strip())
    )
    names = [key.name for key in keys]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{path} has two keys of the name {min(twice)}")
    if not keys:
        raise UserError(f"{path} has no key", "a line is: NAME SHA256 SCOPES [ROLES]")
    return keys


def _key(words: Sequence[str], place: str) -> Key:
    if not 3 <= len(words) <= 4:
        raise UserError(f"{place} has {len(words)} words", "a line is: NAME SHA256 SCOPES [ROLES]")
    name, digest, scopes, *roles = words
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"{place}: the second word is no SHA-256 in hexadecimal", "openarctic serve --new-key makes one")
    for scope in scopes.split(","):
        if scope not in SCOPES:
            raise UserError(f"{place}: {scope} is no scope", f"known: {', '.join(SCOPES)}")
    return Key(name, digest, frozenset(scopes.split(",")), tuple(roles[0].split(",")) if roles else ())
