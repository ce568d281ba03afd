"""A user's own questions: read, asked, counted, and turned into a page and a calibration that `ask` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openarctic.cli import main
from openarctic.copilot.ask import AskOptions, Copilot, ask
from openarctic.copilot.sample import sample_database
from openarctic.errors import UserError
from openarctic.evals.mine import mine, read_mine
from openarctic.evals.spider import Question
from openarctic.generator import ScriptedGenerator

COUNT, NAMES, EMPTY = (
    " SELECT COUNT(*) FROM orders",
    " SELECT name FROM customers",
    " SELECT name FROM customers WHERE name = 'no'",
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_questions_are_read_and_errors_have_lines(tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text("- question: How many orders?\n  sql: SELECT COUNT(*) FROM orders\n")
    assert read_mine(file) == [Question("How many orders?", "SELECT COUNT(*) FROM orders", "[0]")]
    for text, message in (
        ("- question: x\n", r"line 1.*no sql"),
        ("- question: x\n  sql: y\n  tags: z\n", r"line 3.*'tags'"),
        ("question: x\n", "must be a list"),
        ("[]\n", "no questions"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_mine(file)


def test_what_is_found_is_a_calibration_that_ask_takes(tmp_path: Path) -> None:
    """Questions of two kinds: the model agrees with itself where it is right, and gives two results where it is wrong."""
    sure, unsure = Question("How many orders?", "SELECT COUNT(*) FROM orders", ""), Question("x", "SELECT name FROM stores", "")
    questions = [Question(q.text, q.gold, str(i)) for i, q in enumerate([sure, unsure] * 11)]
    replies = [[COUNT, COUNT], [NAMES, EMPTY]] * 11
    with Copilot(sample_database(), ScriptedGenerator(replies)) as copilot:
        mined = mine(questions, copilot, AskOptions(candidates=2))
    told = mined.to_dict()
    assert (told["total"], told["correct"], told["calibrated"]) == (22, 11, True)
    assert told["accuracy"] == 0.5 and told["curve"][5] == {**told["curve"][5], "coverage": 0.5, "accuracy": 1.0}
    assert len(mined.wrong()) == 11
    file = tmp_path / "c.json"
    assert mined.fit is not None
    file.write_text(mined.fit.calibration.to_json())

    def status(reply: list[str], question: str) -> str:
        model, options = ScriptedGenerator([reply]), AskOptions(max_error=0.1, candidates=2)
        return ask(question, model=model, calibration=file, options=options).status

    assert status([COUNT, COUNT], "How many orders?") == "ok" and status([NAMES, EMPTY], "x") == "abstained"


def test_a_gold_query_that_cannot_run_is_named() -> None:
    with (
        Copilot(sample_database(), ScriptedGenerator([])) as copilot,
        pytest.raises(UserError, match="'How many\\?' cannot be run"),
    ):
        mine([Question("How many?", "SELECT nothing FROM nowhere", "")], copilot, AskOptions())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page, picture, record = (tmp_path / name for name in ("q.yaml", "p.html", "c.svg", "r.jsonl"))
    file.write_text(
        "- {question: How many customers are there?, sql: SELECT COUNT(*) FROM customers}\n"
        "- {question: How many stores are there?, sql: SELECT COUNT(*) FROM products}\n"
    )
    arguments = ["eval", "mine", str(file), "--record", str(record), "--html", str(page), "--svg", str(picture)]
    assert main([*arguments, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"] == 2 and told["correct"] == 1 and "at least 20" in told["why_not"]
    assert "<svg" in page.read_text() and "How many stores" in page.read_text() and picture.read_text().startswith("<svg")
    lines = record.read_text()
    assert main([*arguments, "--format", "table"]) == 0
    assert record.read_text() == lines  # nothing was asked again
    assert "coverage" in capsys.readouterr().out
    assert main([*arguments, "--calibration", str(tmp_path / "c.json")]) == 2
    assert "at least 20" in capsys.readouterr().err and not (tmp_path / "c.json").exists()
