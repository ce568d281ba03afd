"""One form of address for every kind of database.

    shop.duckdb, shop.sqlite          a file; also duckdb:///shop.duckdb?schema=sales, sqlite:///shop.sqlite
    sales.csv, data/*.parquet, data/  data files, each a table; also file:///data/*.csv
    postgresql://user@host/shop?schema=sales
    snowflake://user@account/shop/sales?warehouse=small

Three slashes are a path relative to here, four an absolute one (SQLAlchemy's rule); an absolute path that exists wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from openarctic.copilot.databases import files, postgres, snowflake
from openarctic.copilot.databases.database import Database
from openarctic.errors import MissingError, UserError

SQLITE_MAGIC = b"SQLite format 3\x00"
DUCKDB_MAGIC = b"DUCK"
KNOWN = "duckdb:///FILE, sqlite:///FILE, file:///FILES, postgresql://HOST/NAME or snowflake://ACCOUNT/NAME/SCHEMA"


def open_database(url_or_path: str | Path) -> Database:
    """Check a path or URL and tell which engine it belongs to. Servers are not asked yet.

    Raises MissingError (no such file), UserError (empty, another kind of file, an unknown scheme or option), CorruptError.
    """
    text = str(url_or_path)
    if "://" not in text:
        return _open_path(Path(text).expanduser(), None, {})
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UserError(f"the database URL cannot be read: {error}", f"write {KNOWN}") from error
    scheme = parts.scheme.partition("+")[0]  # postgresql+psycopg:// names a driver too
    if scheme in ("duckdb", "sqlite", "file"):
        return _open_path(_path_of(parts), scheme, options_of(parts, ("schema",) if scheme == "duckdb" else ()))
    if scheme in ("postgresql", "postgres"):
        return postgres.open_url(parts, options_of(parts))
    if scheme == "snowflake":
        return snowflake.open_url(parts, options_of(parts, snowflake.OPTIONS))
    raise UserError(f"unknown database URL scheme {parts.scheme!r}", f"use {KNOWN}")


def options_of(parts: SplitResult, known: Collection[str] | None = None) -> dict[str, str]:
    """The options behind the question mark. Raises UserError for one that is not `known`, or is given twice."""
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise UserError(f"{parts.scheme} URLs have no option {name!r}", hint)
        if name in options:
            raise UserError(f"the option {name!r} is given twice")
        options[name] = value
    return options


def _path_of(parts: SplitResult) -> Path:
    path = unquote(parts.netloc + parts.path)
    absolute = Path("/" + path.lstrip("/"))
    relative = Path(path.lstrip("/"))
    return absolute if absolute.exists() or path.startswith("//") or not relative.exists() else relative


def _open_path(path: Path, scheme: str | None, options: dict[str, str]) -> Database:
    if files.is_pattern(path):
        return files.open_pattern(path)
    if not path.exists():
        raise MissingError(f"no database at {path}", "give the path of a DuckDB or SQLite file, or of data files")
    if path.is_dir():
        return files.open_folder(path)
    if not path.is_file():
        raise UserError(f"{path} is not a regular file", "give the path of a DuckDB or SQLite file, or of data files")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if not head:
        raise UserError(f"{path} is empty", "an empty file has no tables to ask about")
    if head.startswith(SQLITE_MAGIC):
        return Database("sqlite", path)
    if head[8:12] == DUCKDB_MAGIC:
        return Database("duckdb", path, schema=options.get("schema", ""))
    if scheme not in ("duckdb", "sqlite") and files.form_of(path):
        return files.open_files([path], path)
    raise UserError(
        f"{path} is neither a DuckDB nor a SQLite database",
        f"its first bytes are those of another kind of file; data files end in {', '.join(files.ENDINGS)}",
    )
