"""The model that ships: a true hybrid of the promised size that answers from the sample, and the README's transcript."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from openarctic.cli import main
from openarctic.engine import Engine, load
from openarctic.errors import MissingError
from openarctic.formats import GGUFFile, read_gguf
from openarctic.formats.bundled import bundled_models
from openarctic.generator import Sampling

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def file() -> GGUFFile:
    return read_gguf(bundled_models()["arctic-nano"], verify=True)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load()


def test_the_file_is_small(file: GGUFFile) -> None:
    sizes = [path.stat().st_size for path in file.paths]
    assert max(sizes) <= 45_000_000 and sum(sizes) <= 90_000_000


def test_it_is_a_hybrid_whose_experts_and_routers_were_trained(file: GGUFFile) -> None:
    layers = [int(name.split(".")[1]) for name in file.tensors if "ffn_gate_inp" in name]
    assert len(layers) >= 3
    for layer in layers:
        down = file.dequantize(f"blk.{layer}.ffn_down_exps.weight")
        assert (np.abs(down).max(axis=(1, 2)) > 1e-3).all()  # an upcycled expert begins with zeros here
        assert all(not np.array_equal(down[0], other) for other in down[1:])


def test_the_same_question_gives_the_same_text(engine: Engine) -> None:
    def texts() -> list[str]:
        sampling = [Sampling(), Sampling(temperature=0.8, seed=3)]
        return [c.text for c in engine.generate("t: a, b\n\nQ: How many?\nSQL:", sampling=sampling, max_tokens=24)]

    assert texts() == texts()


def test_an_unknown_name_suggests_the_known() -> None:
    with pytest.raises(MissingError) as caught:
        load("arctic-nanno")
    assert caught.value.hint == "did you mean arctic-nano?"


def test_a_question_is_answered_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "How many customers are there?", "--format", "json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["rows"] == [[300]] and body["model"] == "arctic-nano" and body["status"] == "ok"
    assert set(body) == {
        "question",
        "status",
        "sql",
        "dialect",
        "columns",
        "rows",
        "truncated",
        "answer",
        "confidence",
        "model",
        "timings_ms",
        "error",
        "chart",
        "hidden_by_policy",
        "verified",
        "abstained",
        "calibrated",
        "read_as",
        "clarification",
    }
    assert body["calibrated"]  # for these very weights


def test_no_exec_prints_sql_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "How many customers are there?", "--no-exec"]) == 0
    assert capsys.readouterr().out == "SELECT COUNT(*) FROM customers\n"


def test_generate_follows_a_grammar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.lark").write_text('start: "yes" | "no"')
    assert main(["generate", "Is it?", "--grammar", str(tmp_path / "g.lark")]) == 0
    assert capsys.readouterr().out.strip() in ("yes", "no")


def test_eval_counts_every_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop").mkdir()
    with sqlite3.connect(tmp_path / "shop" / "shop.sqlite") as connection:
        connection.execute("CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO customer VALUES (?, ?)", [(1, "Ann"), (2, "Bo")])
    connection.close()
    questions = [
        {"question": "How many customers are there?", "query": "SELECT count(*) FROM customer", "db_id": "shop"},
        {"question": "Delete all customers", "query": "SELECT 1", "db_id": "shop"},
        {"question": "How many customers?", "query": "SELECT no_such FROM customer", "db_id": "shop"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    arguments = ["--questions", str(tmp_path / "q.jsonl"), "--databases", str(tmp_path), "--details", str(tmp_path / "d.jsonl")]
    assert main(["eval", "spider", *arguments, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["total"] == 3 and report["gold_ceiling"] == 0.6667
    details = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [d["kind"] for d in details][::2] == ["correct", "wrong"]  # gold that does not run is nobody's success
    assert sum(level["total"] for level in report["by_hardness"].values()) == 3


def test_the_doctor_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_transcript_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `$ openarctic ...` in it is run, and prints what stands below it."""
    [transcript] = re.findall(r"<!-- transcript -->\n```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    parts = re.split(r"^\$ openarctic (.*)\n", transcript, flags=re.MULTILINE)[1:]
    assert len(parts) >= 4
    for command, expected in zip(parts[::2], parts[1::2], strict=True):
        import shlex

        main(shlex.split(command))
        printed = capsys.readouterr()
        assert (printed.out + printed.err).strip() == expected.strip(), command
