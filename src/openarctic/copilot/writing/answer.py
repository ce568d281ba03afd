"""Files in what a model says: fenced blocks, with prose around them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from openarctic.errors import UserError

MAX_FILES = 50
MAX_CHARS = 200_000
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n`]*)\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"[\w./-]*\w\.(?:sql|yml|yaml|py)\b")
_NAMED = re.compile(
    r"^\s*(?:--|#|/\*)\s*(?:file(?:name)?\s*[:=]\s*)?([\w./-]+\.(?:sql|yml|yaml|py))\s*(?:\*/)?\s*$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language in lower case, the path that it is given (may be empty), its text."""

    language: str
    path: str
    text: str


def blocks(answer: str) -> list[Block]:
    """All fenced blocks after the thinking. A path stands behind the fence, in the first line as a comment, or in the line above.

    Raises UserError for an answer whose last block is never closed, or that is too large.
    """
    told = answer.rpartition("</think>")[2].replace("\r\n", "\n")
    if len(told) > MAX_CHARS:
        raise UserError(f"it has {len(told)} characters, the limit is {MAX_CHARS}")
    found = []
    for match in _FENCE.finditer(told):
        language, _, rest = match[2].strip().partition(" ")
        path, text = _path_in(rest), match[3]
        first, _, others = text.partition("\n")
        if named := _NAMED.match(first):
            path, text = path or named[1], others
        if not path:
            path = _path_in(told[: match.start()].rstrip().rpartition("\n")[2])
        found.append(Block(language.lower(), path, text))
    fences = re.findall(r"^[ \t]*(?:`{3,}|~{3,})", told, re.MULTILINE)
    if len(fences) > 2 * len(found):
        raise UserError("a code block is not closed", "close every block with ```")
    if len(found) > MAX_FILES:
        raise UserError(f"it has {len(found)} files, the limit is {MAX_FILES}")
    return found


def _path_in(text: str) -> str:
    found = _PATH.findall(text)
    return found[-1] if found else ""


def single(answer: str, languages: tuple[str, ...], begins: str) -> str:
    """The text of the one file that was asked for: the last block of its language, else the last that begins like it, else the
    whole answer where there is no block and it begins like it. Raises UserError."""
    found = blocks(answer)
    starts = re.compile(begins, re.IGNORECASE | re.MULTILINE)
    wanted = [b for b in found if b.language in languages] or [b for b in found if starts.search(b.text)]
    if wanted:
        return wanted[-1].text.strip() + "\n"
    told = answer.rpartition("</think>")[2].strip()
    if not found and starts.match(told):
        return told + "\n"
    raise UserError(f"there is no {languages[0]} code in it", f"give one ```{languages[0]} block")


def safe_path(path: str, folder: str, endings: tuple[str, ...]) -> str:
    """A relative path below `folder`, with plain names. Raises UserError for any other."""
    parts = PurePosixPath(path).parts
    if parts and parts[0] != folder:
        parts = (folder, *parts)
    is_plain = all(re.fullmatch(r"[A-Za-z_][\w-]*(?:\.\w+)?", part) for part in parts)
    if len(parts) < 2 or len(parts) > 6 or not is_plain or not parts[-1].endswith(endings) or path.startswith("/"):
        raise UserError(f"the path {path!r} may not be written", f"such as {folder}/name{endings[0]}")
    return "/".join(parts)
