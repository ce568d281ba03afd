"""Questions that are kept are those whose answers have the rows of the query they were asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.examples import LinkedSchema, Pair
from openarctic.copilot.question_writer import BATCH, QuestionWriter, is_said
from openarctic.generator import Completion
from openarctic.tokenizer import Tokenizer

SCRIPT = """
CREATE TABLE brand (brand_id INTEGER PRIMARY KEY, title TEXT, home TEXT);
INSERT INTO brand VALUES (1, 'Acme', 'Rome'), (2, 'Zeta', 'Oslo');
"""
IN_ROME = "SELECT title FROM brand WHERE home = 'Rome'"
# What the model asks for a query, and what it answers to a question.
ASKED = {IN_ROME: (" Which brands are from Rome?", " Which brands are there?", " Which brands are from Rome?")}
ANSWERED: dict[str, str | tuple[str, ...]] = {
    "Which brands are from Rome?": " SELECT title FROM brand WHERE brand_id = 1",  # another query, the same rows
    "Which brands are there?": " SELECT title FROM brand",
}


class Stream:
    def __init__(self, texts: Sequence[str], reason: str = "stop") -> None:
        self.completions = [Completion(text, [], 0.0, reason) for text in texts]

    def result(self) -> list[Completion]:
        return self.completions


class ScriptedEngine:
    """Writes what the test says, whatever the sampling."""

    def __init__(
        self, tokenizer: Tokenizer, asked: dict[str, tuple[str, ...]], answered: dict[str, str | tuple[str, ...]], reason: str
    ) -> None:
        self.tokenizer, self.asked, self.answered, self.reason = tokenizer, asked, answered, reason
        self.prompts: list[str] = []

    def submit(self, ids: list[int], **options: Any) -> Stream:
        prompt = self.tokenizer.decode(ids)
        self.prompts.append(prompt)
        if prompt.endswith("\nQ:"):
            return Stream(self.asked[prompt.split("\nSQL: ")[1].removesuffix("\nQ:")], self.reason)
        answers = self.answered[prompt.split("\nQ: ")[1].split(" [")[0].removesuffix("\nSQL:")]
        return Stream([answers] if isinstance(answers, str) else answers)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from openarctic.engine import load

    found = load(None).tokenizer
    assert found is not None
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "brands.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCRIPT)
    connection.close()
    return {"brands": path}


def written(
    files: dict[str, Path], tokenizer: Tokenizer, queries: list[tuple[str, str]], **told: Any
) -> tuple[list[Pair], list[str]]:
    linked = {"brands": LinkedSchema(read_schema(open_database(files["brands"])))}
    engine = ScriptedEngine(tokenizer, told.get("asked", ASKED), told.get("answered", ANSWERED), told.get("reason", "stop"))
    batches = list(QuestionWriter(engine, linked, files).write(queries))  # type: ignore[arg-type]
    assert len(batches) == -(-len(queries) // BATCH)
    return [pair for batch in batches for pair in batch], engine.prompts


def test_what_is_understood_is_kept(files: dict[str, Path], tokenizer: Tokenizer) -> None:
    pairs, prompts = written(files, tokenizer, [("brands", IN_ROME)])
    assert [(p.database, p.question, p.sql) for p in pairs] == [("brands", "Which brands are from Rome?", IN_ROME)]
    assert pairs[0].prompt == "\nQ: Which brands are from Rome? [Rome = brand.home]\nSQL:"
    assert prompts[0] == f"brand: brand_id, title (Acme/Zeta), home (Oslo/Rome)\n\nSQL: {IN_ROME}\nQ:"
    assert len(prompts) == 3  # a question that comes twice is answered once


def test_what_is_not_understood_is_left_out(files: dict[str, Path], tokenizer: Tokenizer) -> None:
    for wrong in (" SELECT title FROM brand", " SELECT nothing FROM nowhere", " no SQL ("):
        answered = ANSWERED | {"Which brands are from Rome?": wrong}
        assert written(files, tokenizer, [("brands", IN_ROME)], answered=answered)[0] == []


OTHER = " SELECT home FROM brand"
FAILS = " SELECT nothing FROM nowhere"


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ((f" {IN_ROME}", " SELECT title FROM brand WHERE brand_id = 1", OTHER), True),  # two of three have the rows
        ((f" {IN_ROME}", OTHER), True),  # no other rows have more
        ((f" {IN_ROME}", FAILS, FAILS, FAILS), True),  # what fails has no rows to agree on
        ((f" {IN_ROME}", OTHER, OTHER), False),
        ((FAILS,), False),
    ],
)
def test_answers_vote_by_their_rows(files: dict[str, Path], tokenizer: Tokenizer, answers: tuple[str, ...], kept: bool) -> None:
    answered = ANSWERED | {"Which brands are from Rome?": answers}
    assert bool(written(files, tokenizer, [("brands", IN_ROME)], answered=answered)[0]) is kept


def test_the_question_it_is_least_sure_of_is_kept(files: dict[str, Path], tokenizer: Tokenizer) -> None:
    asked = {IN_ROME: (" Which brands are from Rome?", " Brands whose home is Rome?", " Any brands from Rome?")}
    right = f" {IN_ROME}"
    answered = {
        "Which brands are from Rome?": (right, right, right),
        "Brands whose home is Rome?": (right, right, OTHER),
        "Any brands from Rome?": (right, OTHER, OTHER),
    }
    pairs, _ = written(files, tokenizer, [("brands", IN_ROME)], asked=asked, answered=answered)
    assert [p.question for p in pairs] == ["Brands whose home is Rome?"]


def test_a_question_without_an_end_is_none(files: dict[str, Path], tokenizer: Tokenizer) -> None:
    pairs, prompts = written(files, tokenizer, [("brands", IN_ROME)], reason="length")
    assert pairs == [] and len(prompts) == 1


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Which brands are from Rome?", True),
        ("Select the brands (all of them) from Rome, and count them.", True),
        ("Find the home and COUNT(*) FROM brand", False),
        ("What is the max(brand_id)?", False),
        ("List the titles ORDER BY home", False),
        ("", False),
    ],
)
def test_what_was_copied_is_no_question(question: str, said: bool) -> None:
    assert is_said(question) is said
