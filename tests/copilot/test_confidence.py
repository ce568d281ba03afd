"""Features by hand on a small schema, calibrations in and out of files, elections by score, and silence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.ask import AskOptions, ask
from openarctic.copilot.asked import read_question
from openarctic.copilot.confidence import Calibration, CurvePoint, Judge, Linear, read_calibration
from openarctic.copilot.execute import Result
from openarctic.copilot.features import AGAINST, FEATURES, Evidence, NameIndex
from openarctic.copilot.guard import check
from openarctic.copilot.linking.values import ValueLink
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.vote import Candidate
from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.generator import ScriptedGenerator

SCHEMA = Schema(
    dialect="sqlite",
    tables=(
        Table(name="genre", columns=(Column(name="id", type="INT"), Column(name="name", type="TEXT", values=("Rock",)))),
        Table(
            name="track",
            columns=(
                Column(name="id", type="INT"),
                Column(name="name", type="TEXT"),
                Column(name="unit_price", type="REAL"),
                Column(name="genre_id", type="INT"),
            ),
            foreign_keys=(ForeignKey(column="genre_id", table="genre", to_column="id"),),
        ),
        Table(name="invoice", columns=(Column(name="id", type="INT"), Column(name="total", type="REAL"))),
    ),
)
ROCK = ValueLink("Rock", (("genre", "name"),))
JOINED = "FROM genre JOIN track ON genre.id = track.genre_id"


def features(
    question: str, sql: str, rows: list[tuple[object, ...]] | None = None, links: tuple[ValueLink, ...] = ()
) -> dict[str, float]:
    result = None if rows is None else Result([], rows, False, 0.0)
    candidate = Candidate(check(sql, "sqlite", SCHEMA), -1.0, tokens=10, is_first=True, result=result, asked_logprob=-0.5)
    Evidence(question, NameIndex(SCHEMA), links).describe([candidate])
    return candidate.features


@pytest.mark.parametrize(
    ("question", "cues", "rows", "columns", "is_number"),
    [
        ("How many tracks are there?", {"count"}, None, 1, True),
        ("How many tracks are there in each genre?", {"count", "group"}, None, None, False),
        ("What are the names and prices of the 3 most expensive tracks?", {"extreme"}, 3, 2, False),
        ("Which track has the highest price?", {"extreme"}, 1, 1, False),
        ("List the name, price and genre of tracks that are not sold.", {"negation"}, None, 3, False),
        ("Show the average price for different genres, sorted by name", {"average", "distinct", "order"}, None, 1, False),
    ],
)
def test_what_a_question_asks_for(question: str, cues: set[str], rows: int | None, columns: int | None, is_number: bool) -> None:
    asked = read_question(question)
    assert cues <= asked.cues and (asked.rows, asked.is_number) == (rows, is_number)
    assert columns is None or asked.columns == columns


def test_every_feature_is_described_and_finite() -> None:
    found = features("How many tracks?", "SELECT COUNT(*) FROM track", [(3,)])
    assert set(found) == set(FEATURES) > AGAINST
    assert all(math.isfinite(value) for value in found.values())


def test_the_name_of_the_wrong_table_is_seen() -> None:
    question = "What are the names of tracks of the genre Rock?"
    right = features(question, f"SELECT track.name {JOINED} WHERE genre.name = 'Rock'", [("a",), ("b",)], (ROCK,))
    wrong = features(question, f"SELECT genre.name {JOINED} WHERE genre.name = 'Rock'", [("Rock",), ("Rock",)], (ROCK,))
    assert right["repeats"] == 0 and wrong["repeats"] == 0.5
    assert right["fixed_outputs"] == 0 and wrong["fixed_outputs"] == 1


def test_what_is_joined_unused_or_unsaid_is_counted() -> None:
    question = "What is the unit price of tracks of the genre Rock?"
    full = features(question, f"SELECT track.unit_price {JOINED} WHERE genre.name = 'Rock'", [(1.0,)], (ROCK,))
    assert (full["links_unused"], full["links_misplaced"], full["outputs_said"], full["words_explained"]) == (0, 0, 1, 1)
    bare = features(question, "SELECT total FROM invoice", [(1.0,)], (ROCK,))
    assert (bare["links_unused"], bare["tables_unsaid"], bare["tables_missing"]) == (1, 1, 2)
    assert bare["outputs_unsaid"] == 1 and bare["words_explained"] < full["words_explained"]
    misplaced = features(question, f"SELECT track.unit_price {JOINED} WHERE track.name = 'Rock'", [], (ROCK,))
    assert misplaced["links_misplaced"] == 1 and misplaced["is_empty"] == 1


def test_the_shape_of_the_result_is_held_against_the_question() -> None:
    assert features("How many tracks?", "SELECT COUNT(*) FROM track", [(3,)])["number_wanted"] == 1
    assert features("How many tracks?", "SELECT name FROM track", [("a",), ("b",)])["number_wanted"] == -1
    three = "SELECT name FROM track ORDER BY unit_price DESC LIMIT 3"
    assert features("Names of the top 3 tracks?", three, [("a",), ("b",), ("c",)])["rows_wanted"] == 1
    assert features("Names of the top 3 tracks?", three, [("a",)])["rows_wanted"] == -1
    assert (
        features("What are the names of tracks?", "SELECT id, name, unit_price FROM track", [(1, "a", 2.0)])["columns_gap"] == 2
    )
    assert features("What is the average price?", "SELECT MAX(unit_price) FROM track", [(None,)])["is_null"] == 1


LINEAR = Linear(0.0, {"is_empty": (0.0, 1.0, -3.0), "columns_gap": (0.0, 1.0, -1.0)})
SURE = Linear(0.0, {})
CURVE = (CurvePoint(0.0, 1.0, 0.5), CurvePoint(0.4, 0.7, 0.3), CurvePoint(0.6, 0.2, 0.1))
CALIBRATION = Calibration(model="scripted", fingerprint="", questions=9, correct=LINEAR, sure=SURE, curve=CURVE)


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(CALIBRATION.to_json())
    assert read_calibration(file) == CALIBRATION


@pytest.mark.parametrize(
    ("change", "error"),
    [({"format": 99}, UserError), ({"curve": 3}, CorruptError), ({"correct": {"bias": "x", "terms": {}}}, CorruptError)],
)
def test_a_broken_calibration_is_an_error_of_ours(tmp_path: Path, change: dict[str, object], error: type[Exception]) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({**json.loads(CALIBRATION.to_json()), **change}))
    with pytest.raises(error, match=r"c\.json"):
        read_calibration(file)
    with pytest.raises(MissingError):
        read_calibration(tmp_path / "none.json")


def test_the_threshold_is_the_widest_coverage_that_keeps_the_error() -> None:
    assert [CALIBRATION.threshold(e) for e in (0.5, 0.3, 0.29, 0.05)] == [0.0, 0.4, 0.6, None]


def test_a_linear_model_by_hand() -> None:
    linear = Linear(0.5, {"a": (1.0, 2.0, 3.0), "absent": (0.0, 1.0, 9.0)})
    assert linear.log_odds({"a": 2.0}) == 0.5 + 3.0 * 0.5
    assert linear.log_odds({"a": 1e9}) == 0.5 + 3.0 * 4
    assert linear.probability({"a": 2.0}) == pytest.approx(1 / (1 + math.exp(-2.0)))


def test_another_models_calibration_is_refused() -> None:
    with pytest.raises(UserError, match="of scripted"):
        Judge(SCHEMA, ScriptedGenerator([], name="other"), CALIBRATION)


EMPTY, FULL = " SELECT name FROM customers WHERE name = 'nobody'", " SELECT name FROM customers"


def test_the_score_elects_and_says_how_sure_it_is(tmp_path: Path) -> None:
    """The more probable statement gives no rows, which this calibration holds against it."""
    with_score = ask("names of customers", model=ScriptedGenerator([[EMPTY, FULL]]), calibration=CALIBRATION)
    assert with_score.rows and with_score.calibrated and with_score.confidence == pytest.approx(0.5)
    without = ask(
        "names of customers",
        model=ScriptedGenerator([[EMPTY, FULL]]),
        calibration=CALIBRATION,
        options=AskOptions(without=frozenset({"scorer"})),
    )
    assert without.rows == [] or not without.calibrated


class Asking(ScriptedGenerator):
    """Finds it probable that a question is asked for the statements that `likely` names."""

    asks_questions = True
    likely = "name FROM regions"

    def continuation_logprobs(self, prompts: Sequence[str], continuation: str) -> list[float]:
        assert continuation == " names of things" and all(p.startswith("categories: ") and p.endswith("\nQ:") for p in prompts)
        return [-0.5 if self.likely in prompt.split("SQL: ")[1] else -4.0 for prompt in prompts]


def test_how_probable_the_question_is_elects_too() -> None:
    channel = replace(CALIBRATION, correct=Linear(0.0, {"asked_logprob": (0.0, 1.0, 1.0)}))
    written = [[FULL, FULL, " SELECT name FROM regions"]]

    def asked(model: ScriptedGenerator, calibration: Calibration = channel, **options: Any) -> str | None:
        return ask("names of things", model=model, calibration=calibration, options=AskOptions(**options)).sql

    assert asked(Asking(written)) == "SELECT name FROM regions"
    # Not where the step is off, the calibration does not weigh it, or the model never learned to ask.
    assert asked(Asking(written), without=frozenset({"channel"})) == "SELECT name FROM customers"
    assert asked(ScriptedGenerator(written)) == "SELECT name FROM customers"
    assert asked(Asking(written), CALIBRATION) == "SELECT name FROM customers"


def test_an_unsure_answer_is_held_back() -> None:
    def asked(max_error: float) -> tuple[str, bool, bool]:
        answer = ask(
            "names of customers",
            model=ScriptedGenerator([[FULL]]),
            calibration=CALIBRATION,
            options=AskOptions(max_error=max_error),
        )
        assert answer.sql == "SELECT name FROM customers" and answer.to_dict()["abstained"] == answer.abstained
        return answer.status, answer.rows is None, "would have run" in answer.answer

    assert asked(0.3) == ("ok", False, False)  # 0.5 is sure enough for 30 %
    assert asked(0.2) == ("abstained", True, True)
    assert asked(0.01) == ("abstained", True, True)


def test_an_error_rate_needs_a_calibration() -> None:
    with pytest.raises(UserError, match="needs a calibration"):
        ask("names of customers", model=ScriptedGenerator([[FULL]]), options=AskOptions(max_error=0.2))
