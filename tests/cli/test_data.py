from __future__ import annotations

import json
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.cli.data import SPLITS
from openarctic.data import readers

DATASET = str(Path(__file__).parents[1] / "data" / "cases" / "dataset")
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "web.jsonl"
    records = [{"content": f"document {i} says so"} for i in range(50)] + [{"content": f"It says: {LONG.upper()}!"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "dev.jsonl").write_text(json.dumps({"question": LONG, "query": "SELECT 1"}) + "\n")
    return path


def test_splits_are_those_of_the_readers() -> None:
    assert SPLITS == readers.SPLITS


def test_prepare_describe_and_plan(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards" / "web"
    prepare = ["data", "prepare", str(source), "--field", "content", "--tokenizer", "arctic-nano", "--out", str(out)]
    against = f"{tmp_path / 'dev.jsonl'}:question,query"
    assert main([*prepare, "--validation-share", "0.2", "--drop-contaminated", against]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n" and "left out: 1 contaminated" in told.err
    assert main(["data", "describe", str(out), "--verify", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    table = [dict(zip(rows["columns"], row, strict=True)) for row in rows["rows"]]
    assert [row["split"] for row in table] == ["train", "validation"] and sum(row["documents"] for row in table) == 50
    tokens = table[0]["tokens"]
    assert main(["data", "describe", str(out), "--arctic", str(7 * tokens // 2), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row[:3] for row in rows] == [[stage, "web", 100.0] for stage in ("generic", "enterprise", "refinement")]
    assert [row[4] for row in rows] == pytest.approx([1, 1.5, 1], abs=0.01)
    assert main(["data", "describe", str(out), "--arctic", str(5 * tokens)]) == 2
    assert "5.00 epochs" in capsys.readouterr().err
    assert main(prepare) == 2
    assert "exists already" in capsys.readouterr().err
    (out / "train-00000.tokens").write_bytes(b"")
    assert main(["data", "describe", str(out)]) == 6


def test_a_curriculum_file_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["data", "prepare", DATASET, "--tokenizer", "arctic-nano", "--out", str(out), "--domain", "web"]) == 0
    plan = {"stages": [{"name": "a", "tokens": 20, "sequence_length": 4, "mixture": {"web": 0.9}}], "max_epochs": None}
    path = tmp_path / "curriculum.json"
    for proportions, code, told in (({"web": 0.9}, 2, "sum to 0.9"), ({"web": 100}, 0, ""), ({"sql": 1}, 2, "no data for sql")):
        plan["stages"][0]["mixture"] = proportions  # type: ignore[index]
        path.write_text(json.dumps(plan))
        assert main(["data", "describe", str(out), "--curriculum", str(path)]) == code
        assert told in capsys.readouterr().err


def test_contamination_is_reported_by_line_and_as_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against = f"{tmp_path / 'dev.jsonl'}:question"
    check = ["data", "check-contamination", str(source), "--field", "content", "--against", against]
    assert main(check) == 0
    told = capsys.readouterr()
    assert told.out == f"{source}:51\t{tmp_path / 'dev.jsonl'}:1 (2)\n"
    assert "1 of 51 documents are contaminated" in told.err and "1 of 1 texts found, 0 too short to be found inside" in told.err
    assert main([*check, "--format", "json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["documents"] == 51 and body["contaminated"][0]["shares"][0]["runs"] == 2
    assert main([*check, "--words", "20"]) == 0
    assert "0 of 1 texts found, 1 too short to be found inside" in capsys.readouterr().err
