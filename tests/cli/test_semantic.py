"""init, semantic, feedback and ask --semantic as their user meets them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from openarctic.cli import main
from tests.copilot.semantic.models import SALES
from tests.copilot.semantic.test_ossie import LONG

CORRECTION = "SELECT COUNT(*) FROM orders WHERE status = 'returned'"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "sales.yaml"
    path.write_text(SALES)
    return path


def test_init_lint_and_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "draft.yaml"
    assert main(["init", "--out", str(path), "--name", "outdoor"]) == 0
    assert "10 tables, 10 relationships" in capsys.readouterr().err
    assert main(["init", "--out", str(path)]) == 2 and "--force" in capsys.readouterr().err
    assert main(["semantic", "lint", str(path), "--level", "error"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "0 errors" in printed.err
    emails = [f for t in yaml.safe_load(path.read_text())["tables"] for f in t["dimensions"] if f["name"] == "email"]
    assert emails and all("sample_values" not in f for f in emails)


def test_lint_tells_errors_with_its_exit_code(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from openarctic.copilot.sample import sample_database

    database = str(sample_database().file)
    assert main(["semantic", "lint", str(model), "--db", database, "--no-data", "--format", "json"]) == 0
    assert all(f["level"] != "error" for f in json.loads(capsys.readouterr().out))
    model.write_text(SALES.replace("expr: SUM(amount)", "expr: SUM(sum)"))
    assert main(["semantic", "lint", str(model), "--db", database, "--no-data", "--level", "error"]) == 2
    assert "error: tables.payments.paid: metric payments.paid names sum" in capsys.readouterr().out


def test_convert_reads_ossie_and_writes_cortex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "ossie.yaml"
    source.write_text(LONG)
    assert main(["semantic", "convert", str(source)]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["tables"][0]["base_table"]["table"] == "store_sales"
    assert "custom_extensions" in printed.err
    assert main(["semantic", "convert", str(source), str(source)]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("name: x\ntables: 5\n", "line 2: tables must be a list"), ("name: [", "this is not YAML"), ("", "is empty")],
)
def test_broken_models_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    assert main(["ask", "How many?", "--semantic", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_from_an_answer_to_a_verified_query(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, answer = tmp_path / "f.jsonl", {"question": "How many orders were returned?", "sql": "SELECT COUNT(*) FROM orders"}
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(answer).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["feedback", "add", "-", "--down", "--correct", CORRECTION, "--by", "ada", "--store", str(store)]) == 0
    capsys.readouterr()
    assert main(["feedback", "list", "--store", str(store), "--format", "json"]) == 0
    (draft,) = json.loads(capsys.readouterr().out)
    assert draft["sql"] == CORRECTION and draft["people"] == ["ada"]
    arguments = ["--semantic", str(model), "--by", "Zoe", "--store", str(store)]
    assert main(["feedback", "accept", draft["id"][:6], *arguments]) == 0
    assert "verified by Zoe on 20" in capsys.readouterr().err
    assert yaml.safe_load(model.read_text())["verified_queries"][-1]["verified_by"] == "Zoe"
    assert main(["query", CORRECTION, "--format", "csv"]) == 0
    counted = capsys.readouterr().out
    assert main(["ask", "how many orders were RETURNED", "--semantic", str(model), "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out == counted
    assert "verified by Zoe on 20" in printed.err
    pairs = tmp_path / "pairs.jsonl"
    assert main(["feedback", "pairs", "--store", str(store), "--out", str(pairs)]) == 0
    assert json.loads(pairs.read_text()) == {"question": answer["question"], "query": CORRECTION, "db_id": "sample-v1"}
    assert main(["feedback", "reject", draft["id"], "--by", "Zoe", "--store", str(store)]) == 0
    assert main(["feedback", "pairs", "--store", str(store), "--out", str(pairs)]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add"], "there is no question"),
        (["add", "--question", "How many?"], "there is no verdict"),
        (["add", "nowhere.json", "--up"], "no file at nowhere.json"),
        (["add", "nowhere.json", "--question", "q", "--up"], "both an answer and --question"),
        (["list", "--store", "nowhere.jsonl"], "no feedback at nowhere.jsonl"),
        (["reject", "x", "--by", "z", "--store", "nowhere.jsonl"], "no feedback at nowhere.jsonl"),
    ],
)
def test_wrong_use_of_feedback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["feedback", *arguments]) == 2
    assert said in capsys.readouterr().err
