"""Documents of files, one at a time: JSONL and plain text (both also .gz), Parquet, Hugging Face datasets on disk.

Files are read as streams; what is in memory is one document, or one record batch. Everything that is wrong with a file is an
error that names the line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, get_args

from openarctic.config import read_object
from openarctic.data.arrow import read_text_column
from openarctic.data.documents import Document
from openarctic.errors import CorruptError, MissingError, UserError

Split = Literal["blank", "line", "file"]
SPLITS: tuple[Split, ...] = get_args(Split)
_ROWS = 256  # of Parquet at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How files become documents."""

    field: str = "text"  # of JSONL, Parquet and datasets
    split: Split = "blank"  # of text files: documents between blank lines, one a line, or the whole file


def read_documents(path: str | Path, options: ReadOptions | None = None) -> Iterator[Document]:
    """The documents of a file or dataset, or of all files of a folder in the order of their names.

    Raises MissingError for a path that is not there, UserError for a kind that is not known, a field that is absent (naming those
    that are there) or is no text, and a file without documents; CorruptError for damaged files, naming the line.
    """
    options = options or ReadOptions()
    for file, read in _files(Path(path)):
        index = 0
        for index, text in read(file, options):
            yield Document(text or "", str(file), index)
        if not index:
            raise UserError(f"{file} has no documents", "it is empty; leave it out")


Reader = Callable[[Path, ReadOptions], Iterator[tuple[int, str | None]]]


def _files(path: Path) -> list[tuple[Path, Reader]]:
    if not path.exists():
        raise MissingError(f"no file or folder {path}")
    if (path / "dataset_dict.json").is_file():
        names = ", ".join(str(path / name) for name in read_object(path / "dataset_dict.json").get("splits", ()))
        raise UserError(f"{path} is a dataset of several splits", f"name one: {names}")
    if (path / "state.json").is_file():
        return [(path, _read_dataset)]
    if path.is_dir():
        found = [(file, reader) for file in sorted(path.iterdir()) if (reader := _reader(file)) and file.is_file()]
        if not found:
            raise UserError(f"{path} has no file that can be read", _KINDS)
        return found
    reader = _reader(path)
    if reader is None:
        raise UserError(f"{path} is of no kind that can be read", _KINDS)
    return [(path, reader)]


def _reader(path: Path) -> Reader | None:
    name = path.name.lower()
    kinds: dict[str, Reader] = {".jsonl": _read_jsonl, ".txt": _read_text, ".parquet": _read_parquet, ".arrow": _read_arrow}
    return next((reader for suffix, reader in kinds.items() if name.removesuffix(".gz").endswith(suffix)), None)


_KINDS = "give .jsonl or .txt (both also .gz), .parquet, .arrow, or a dataset's folder"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends. Raises CorruptError for broken compression or text that is not UTF-8."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(
            f"{path} line {number}: not UTF-8: {error.reason} at byte {error.start}", "convert the file"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptError(
            f"{path} line {number + 1}: the compressed file is damaged or cut off: {error}", "restore it"
        ) from error


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _read_jsonl(path: Path, options: ReadOptions) -> Iterator[tuple[int, str | None]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{path} line {number}: not JSON: {error}", "repair or remove the line") from error
        yield number, _field(record, options.field, f"{path} line {number}")


def _field(record: Any, name: str, place: str) -> str | None:
    if not isinstance(record, dict):
        raise UserError(f"{place}: {type(record).__name__}, not an object", 'every line must be an object, as {"text": "..."}')
    if name not in record:
        raise UserError(f"{place}: no field {name!r}", f"it has {', '.join(map(str, record)) or 'none'}; name one with --field")
    value = record[name]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place}: field {name!r} is {type(value).__name__}, not text", "name a field of text with --field")
    return value


def _read_text(path: Path, options: ReadOptions) -> Iterator[tuple[int, str | None]]:
    """A document's index is its first line."""
    if options.split == "line":
        yield from ((number, line.rstrip("\r\n")) for number, line in _lines(path) if line.strip())
        return
    document: list[str] = []
    begin = 1
    for number, line in _lines(path):
        if options.split == "blank" and not line.strip():
            if document:
                yield begin, "".join(document)
            document = []
            continue
        begin = begin if document else number
        document.append(line)
    if document:
        yield begin, "".join(document)


def _read_parquet(path: Path, options: ReadOptions) -> Iterator[tuple[int, str | None]]:
    import duckdb
    from sqlglot import exp

    if set(str(path)) & set("*?["):
        raise UserError(f"{path}: DuckDB, which reads Parquet, takes * ? [ in names for patterns", "rename the file")
    config: dict[str, Any] = {"threads": 1, "autoinstall_known_extensions": False, "autoload_known_extensions": False}
    with duckdb.connect(":memory:", config=config) as connection:
        try:
            table = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            types = {name: kind for name, kind, *_ in table}
            if options.field not in types:
                raise UserError(f"{path} has no column {options.field!r}", f"it has {', '.join(types)}; name one with --field")
            if types[options.field] != "VARCHAR":
                raise UserError(f"{path}: column {options.field!r} is {types[options.field]}, not text", "name one with --field")
            column = exp.to_identifier(options.field, quoted=True).sql("duckdb")
            texts = connection.execute(f"SELECT {column} FROM read_parquet(?)", [str(path)])
            number = 0
            while rows := texts.fetchmany(_ROWS):
                for (text,) in rows:
                    number += 1
                    yield number, text
        except duckdb.Error as error:
            raise CorruptError(f"{path} cannot be read: {str(error).splitlines()[0]}", "restore the file") from error


def _read_arrow(path: Path, options: ReadOptions) -> Iterator[tuple[int, str | None]]:
    if path.stat().st_size:
        yield from enumerate(read_text_column(path, options.field), 1)


def _read_dataset(folder: Path, options: ReadOptions) -> Iterator[tuple[int, str | None]]:
    """A folder that `datasets.Dataset.save_to_disk` wrote; rows are counted through all its files."""
    state = read_object(folder / "state.json")
    if state.get("_indices_data_files"):
        raise UserError(f"{folder} was saved by an old version of datasets, with indices", "save it again with save_to_disk")
    try:
        files = [folder / file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{folder / 'state.json'} does not name its files", "restore the dataset") from error
    number = 0
    for file in files:
        if not file.is_file():
            raise CorruptError(f"{file} is missing, though state.json names it", "restore the dataset")
        for _, text in _read_arrow(file, options):
            number += 1
            yield number, text
