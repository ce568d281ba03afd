"""The value index on disk: one SQLite file for each database and each set of columns whose values a reader may see.

    place(id, tbl, col)     columns that have values
    value(id, text, place)  a value as it is stored, once for each column that holds it, in the schema's order
    entry(key, kind, value) where to find it: LOWER its lower-case text, PLAIN its plain key, INITIALS its first letters
    word(id, text)          the words of all values, for questions with typos
    gram(gram, words)       the numbers of the words with these three letters, int32

What a policy hides is not in the schema that an index is made from, so it is in no file of that reader. A file is made again when
the values differ from those that it was made of, and then nothing of the old ones is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from openarctic.copilot.linking.words import grams, initials_of, plain_key, value_words
from openarctic.copilot.schema import Schema

FORMAT = "2"
LOWER, PLAIN, INITIALS = range(3)
MAX_VALUES = 400_000  # of all columns together
MIN_TYPO_WORD = 4
KEPT_FROM = 5_000  # values; an index of fewer is made faster than it is found
KEPT_BYTES = 1 << 30  # of all files together
KEPT_S = 30 * 24 * 3600.0  # since a file was last used

_TABLES = """
CREATE TABLE place (id INTEGER PRIMARY KEY, tbl TEXT, col TEXT);
CREATE TABLE value (id INTEGER PRIMARY KEY, text TEXT, place INTEGER);
CREATE TABLE entry (key TEXT, kind INTEGER, value INTEGER, PRIMARY KEY (key, kind, value)) WITHOUT ROWID;
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT UNIQUE);
CREATE TABLE gram (gram TEXT PRIMARY KEY, words BLOB) WITHOUT ROWID;
CREATE TABLE made_of (format TEXT, digest TEXT);
"""

Values = list[tuple[str, str, tuple[str, ...]]]  # table, column (lower case), its values


def open_store(schema: Schema, folder: Path | None = None, name: str = "") -> sqlite3.Connection:
    """The index of the values in `schema`: that of `folder` where it is of the same values, else a new one.

    `name` tells databases apart. Small indexes, and those of folders that cannot be written, are in memory alone.
    """
    values = bounded(schema)
    if folder is None or sum(len(own) for *_, own in values) < KEPT_FROM:
        return _filled(sqlite3.connect(":memory:", check_same_thread=False), values, "")
    digest = _digest(text for table, column, own in values for text in ("", table, column, *own))
    path = folder / f"{_digest((name, *(part for table, column, _ in values for part in (table, column))))[:32]}.sqlite"
    known = _opened(path, digest)
    if known is not None:
        return known
    with contextlib.suppress(OSError, sqlite3.Error):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
            partial = Path(scratch) / "values.sqlite"
            _filled(sqlite3.connect(partial), values, digest).close()
            os.replace(partial, path)
        _make_room(folder, path)
        if (made := _opened(path, digest)) is not None:
            return made
    return _filled(sqlite3.connect(":memory:", check_same_thread=False), values, "")


def bounded(schema: Schema, limit: int = MAX_VALUES) -> Values:
    """The values of all columns, at most `limit` together: columns of many values give way to those of few."""
    columns = [(t.name.lower(), c.name.lower(), c.values) for t in schema.tables for c in t.columns if c.values]
    left, share = limit, limit
    for number, count in enumerate(sorted(len(own) for *_, own in columns)):
        share = left // (len(columns) - number)
        if count > share:
            break
        left -= count
        share = limit
    return [(table, column, own[:share]) for table, column, own in columns]


def _filled(connection: sqlite3.Connection, values: Values, digest: str) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(_TABLES)
    words: dict[str, int] = {}
    with connection:
        connection.executemany("INSERT INTO place VALUES (?, ?, ?)", ((i, t, c) for i, (t, c, _) in enumerate(values)))
        rows = list(enumerate((text, place) for place, (*_, own) in enumerate(values) for text in own))
        connection.executemany("INSERT INTO value VALUES (?, ?, ?)", ((i, text, place) for i, (text, place) in rows))
        entries = sorted({entry for i, (text, _) in rows for entry in _entries(i, text, words)})
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", entries)
        connection.executemany("INSERT INTO word VALUES (?, ?)", ((i, word) for word, i in words.items()))
        connection.executemany("INSERT INTO gram VALUES (?, ?)", _postings(words))
        connection.execute("INSERT INTO made_of VALUES (?, ?)", (FORMAT, digest))
    return connection


def _entries(number: int, text: str, words: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    yield text.strip().lower(), LOWER, number
    if key := plain_key(text):
        yield key, PLAIN, number
    if letters := initials_of(text):
        yield letters, INITIALS, number
    for word in value_words(text):
        if len(word) >= MIN_TYPO_WORD and word.isalpha():
            words.setdefault(word, len(words))


def _postings(words: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    found: dict[str, list[int]] = defaultdict(list)
    for word, number in words.items():
        for gram in grams(word):
            found[gram].append(number)
    return ((gram, np.array(numbers, dtype=np.int32).tobytes()) for gram, numbers in sorted(found.items()))


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.hexdigest()


def _opened(path: Path, digest: str) -> sqlite3.Connection | None:
    """The index in a file; None where there is none, or one of other values, or what is no index."""
    if not path.is_file():
        return None
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    try:
        if connection.execute("SELECT format, digest FROM made_of").fetchall() == [(FORMAT, digest)]:
            with contextlib.suppress(OSError):
                os.utime(path)  # the latest used are kept
            return connection
    except sqlite3.Error:
        pass
    connection.close()
    return None


def _make_room(folder: Path, kept: Path) -> None:
    """Take away files that were not used for long, and while all together are too large, those not used for the longest time."""
    files = sorted(((p.stat().st_mtime_ns, p.stat().st_size, p) for p in folder.glob("*.sqlite")), reverse=True)
    total, oldest = 0, (time.time() - KEPT_S) * 1e9
    for used, size, path in files:
        total += size
        if (total > KEPT_BYTES or used < oldest) and path != kept:
            path.unlink(missing_ok=True)
