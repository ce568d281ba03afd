"""`openarctic bench`: its errors, its output forms, and comparison of two results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.errors import CapacityError
from tests.bench.conftest import LIMITS
from tests.tiny import tiny_config, write_model

FAST = ["--repetitions", "1", "--seconds", "0.001", "--threads", "1", "--max-foreign", "100"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bench") / "tiny.gguf", tiny_config(max_position_embeddings=1024), "Q8_0")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("openarctic.bench.measure.measure_limits", lambda threads, buffer_bytes: LIMITS)


def test_a_result_is_written_printed_and_compared(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    assert main(["bench", "prefill", "--model", str(model), *FAST, "--out", str(out), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert "this will take about" in captured.err
    report = json.loads(captured.out)
    assert report == json.loads(out.read_text())
    assert {"machine", "limits", "settings", "engines", "models", "results"} <= set(report)
    assert report["machine"]["versions"]["openarctic"] and report["settings"]["max_foreign"] == 1.0
    assert main(["bench", "compare", str(out), str(out), "--max-loss", "1", "--format", "json"]) == 0
    assert [row["change"] for row in json.loads(capsys.readouterr().out)] == [1.0]


def test_the_table_names_the_machine_and_its_limits(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", "--model", str(model), *FAST]) == 0
    text = capsys.readouterr().out
    assert "10.0 GB/s" in text and "decode" in text and "bus " in text


def test_a_loss_beyond_the_limit_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, rate: float) -> str:
        cell = {"workload": "decode", "model": "m", "settings": {}, "unit": "tok/s", "sides": {"openarctic": {"median": rate}}}
        (tmp_path / name).write_text(json.dumps({"format": 1, "results": [cell]}))
        return str(tmp_path / name)

    before, after = write("a.json", 100), write("b.json", 94)
    assert main(["bench", "compare", before, after]) == 0
    assert main(["bench", "compare", before, after, "--max-loss", "5"]) == 1
    assert main(["bench", "compare", before, after, "--max-loss", "7"]) == 0
    assert "0.94" in capsys.readouterr().out


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fly"])
    assert caught.value.code == 2 and "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--model", "no-such.gguf"], "no model named 'no-such.gguf'"),
        (["decode", "--repetitions", "0"], "--repetitions is 0"),
        (["decode", "--threads", "-1"], "threads is -1"),
        (["decode", "--max-foreign", "101"], "--max-foreign is 101"),
        (["decode", "--seconds", "0"], "--seconds is 0"),
        (["batch", "--batch", "0"], "batches has 0"),
        (["decode", "--random", "S", "--type", "Q9"], "no number type 'Q9'"),
        (["compare", "a.json", "b.json"], "no result at a.json"),
    ],
)
def test_wrong_input_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr().err
    assert message in captured


def test_a_late_failure_leaves_what_was_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise CapacityError("enough")

    monkeypatch.setattr("openarctic.bench.special.load", fail)
    skipped = [
        option
        for name in ("batch", "prefix", "long", "contention", "speculation", "submit", "experts", "accuracy")
        for option in ("--skip", name)
    ]
    assert main(["bench", "all", "--model", str(model), *FAST, *skipped, "--out", str(tmp_path / "x.json")]) == 5
    report = json.loads((tmp_path / "x.json").read_text())
    assert [cell["workload"] for cell in report["results"]] == ["decode", "prefill"]


def test_a_peer_that_is_not_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(model), "--against", "llama.cpp", "--peer-python", "no-such-python"]
    assert main(["bench", "decode", *FAST, *arguments]) == 2
    assert "cannot start no-such-python" in capsys.readouterr().err
