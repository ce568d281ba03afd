from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from openarctic.data.readers import ReadOptions, read_documents
from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError

# Made by datasets 5.2.0 (pyarrow 26.0.1): columns id, text, tags, meta, ok, score; five rows, one text null, one empty.
DATASET = Path(__file__).parent / "cases" / "dataset"
DATASET_TEXTS = ["one", "zwei ü", "", "", "fünf\nlines"]


def texts(path: Path, **options: Any) -> list[str]:
    return [document.text for document in read_documents(path, ReadOptions(**options))]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_parquet(path: Path, select: str) -> Path:
    duckdb.sql(f"COPY ({select}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
    return path


def test_jsonl_gives_texts_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": null, "id": 3}\n{"id": 4, "text": "vier ü"}')
    assert [(d.text, d.index, d.source) for d in read_documents(path)] == [
        ("one", 1, str(path)),
        ("", 3, str(path)),
        ("vier ü", 4, str(path)),
    ]
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts(packed) == texts(path)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (b'{"text": "cut', CorruptError, "line 2: not JSON"),
        (b"[" * 100_000, CorruptError, "line 2: not JSON"),
        (b'["a"]', UserError, "line 2: list, not an object"),
        (b'{"content": "x", "id": 1}', UserError, "line 2: no field 'text'"),
        (b'{"text": 7}', UserError, "line 2: field 'text' is int, not text"),
        (b'{"text": "\xff"}', CorruptError, "line 2: not UTF-8: invalid start byte at byte 10"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, error: type[OpenArcticError], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(error, match=message):
        texts(path)


def test_a_wrong_field_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    paths = [
        write_jsonl(tmp_path / "a.jsonl", [{"content": "x", "id": 1}]),
        write_parquet(tmp_path / "a.parquet", "SELECT 'x' AS content, 1 AS id"),
    ]
    for path in paths:
        with pytest.raises(UserError) as error:
            texts(path)
        assert "content, id" in str(error.value.hint)
    with pytest.raises(UserError) as error:
        texts(DATASET, field="content")
    assert "id, text, tags, meta, ok, score" in str(error.value.hint)


def test_compression_that_was_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    whole = gzip.compress(b"one line\n" * 10_000)
    for broken in (whole[:-9], whole[:20] + b"garbage" + whole[20:], b"no gzip at all"):
        path.write_bytes(broken)
        with pytest.raises(CorruptError, match="compressed file is damaged"):
            texts(path)


def test_text_files_are_split_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\none\ntwo\r\n \nthree\n\n\nfour")
    assert texts(path) == ["one\ntwo\r\n", "three\n", "four"]
    assert [document.index for document in read_documents(path)] == [2, 5, 8]
    assert texts(path, split="line") == ["one", "two", "three", "four"]
    assert texts(path, split="file") == ["\none\ntwo\r\n \nthree\n\n\nfour"]


def test_parquet_gives_its_rows(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        """SELECT CASE WHEN i = 5 THEN NULL ELSE 'row ' || i END AS "my ""text", i FROM range(5000) t(i)""",
    )
    expected = ["" if i == 5 else f"row {i}" for i in range(5000)]
    assert texts(path, field='my "text') == expected
    with pytest.raises(UserError, match="column 'i' is BIGINT, not text"):
        texts(path, field="i")
    raw = path.read_bytes()
    for broken in (raw[:-50], b"nothing of the kind", raw[:100] + bytes(200) + raw[300:]):
        path.write_bytes(broken)
        with pytest.raises(CorruptError, match=r"a.parquet cannot be read"):
            texts(path, field='my "text')


def test_a_dataset_on_disk_gives_its_rows() -> None:
    assert texts(DATASET) == DATASET_TEXTS
    assert texts(DATASET / "data-00000-of-00001.arrow") == DATASET_TEXTS
    assert [document.index for document in read_documents(DATASET)] == [1, 2, 3, 4, 5]
    for field in ("id", "tags", "meta", "ok", "score"):
        with pytest.raises(UserError, match=f"column '{field}' is no plain text"):
            texts(DATASET, field=field)


def test_a_dataset_reads_as_pyarrow_reads_it(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    expected = [None if i % 7 == 3 else f"row {i} ü" * (i % 5) for i in range(3000)]
    columns = {
        "list": pa.array([[{"a": i, "b": str(i)}] * (i % 3) for i in range(3000)]),
        "words": pa.array([str(i % 10) for i in range(3000)]).dictionary_encode(),
        "nothing": pa.nulls(3000),
        "fixed": pa.array([[1.0, 2.0]] * 3000, pa.list_(pa.float32(), 2)),
        "when": pa.array([0] * 3000, pa.timestamp("us")),
        "text": pa.array(expected, pa.string()),
        "large": pa.array(expected, pa.large_string()),
    }
    table = pa.table(columns)
    for opened, name in ((pa.ipc.new_stream, "stream.arrow"), (pa.ipc.new_file, "file.arrow")):
        with opened(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
        for field in ("text", "large"):
            assert texts(tmp_path / name, field=field) == [text or "" for text in expected]


def test_damage_to_a_dataset_is_told_and_never_worse(tmp_path: Path) -> None:
    """Cut, or with a byte changed, at a tenth of all places: the texts or an error of ours, nothing else."""
    path = tmp_path / "a.arrow"
    raw = (DATASET / "data-00000-of-00001.arrow").read_bytes()
    for size in range(1, len(raw) - 8, 10):
        path.write_bytes(raw[:size])
        try:
            assert texts(path) == DATASET_TEXTS
        except OpenArcticError:
            continue
    for at in range(0, len(raw), 10):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            texts(path)
        except OpenArcticError:
            continue


def test_a_damaged_dataset_folder_is_told(tmp_path: Path) -> None:
    state = {"_data_files": [{"filename": "gone.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CorruptError, match=r"gone.arrow is missing"):
        texts(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(CorruptError, match="does not name its files"):
        texts(tmp_path)
    (tmp_path / "state.json").unlink()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match="several splits") as error:
        texts(tmp_path)
    assert str(tmp_path / "train") in str(error.value.hint)


def test_empty_and_unknown_sources_are_told(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt", "a.arrow"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match="has no documents"):
            texts(tmp_path / name)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"\n \n"))
    with pytest.raises(UserError, match="has no documents"):
        texts(tmp_path / "a.txt.gz")
    with pytest.raises(UserError, match="has no documents"):
        texts(write_parquet(tmp_path / "a.parquet", "SELECT 'x' AS text WHERE false"))
    with pytest.raises(MissingError, match="no file or folder"):
        texts(tmp_path / "none.jsonl")
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=r"a.csv is of no kind"):
        texts(tmp_path / "a.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="has no file that can be read"):
        texts(tmp_path / "folder")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "notes.md").write_text("not data")
    assert texts(tmp_path) == ["a", "b", "c"]
