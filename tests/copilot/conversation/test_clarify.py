"""A question back: asked where two readings differ, said in what they differ, answered by number or in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.conversation import Clarification, Conversation
from openarctic.copilot.conversation.clarify import clarify, differences
from openarctic.copilot.sample import sample_database
from openarctic.generator import GREEDY, Completion, Sampling, ScriptedGenerator

BY_PRICE = "SELECT name FROM products ORDER BY price DESC LIMIT 1"
BY_STOCK = "SELECT name FROM products ORDER BY stock DESC LIMIT 1"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (BY_PRICE, BY_STOCK, ("ordered by price, highest first", "ordered by stock, highest first")),
        (
            "SELECT COUNT(*) FROM customers WHERE country = 'Germany'",
            "SELECT COUNT(*) FROM customers",
            ("where country is 'Germany'", "without that condition"),
        ),
        (
            "SELECT segment, COUNT(*) FROM customers GROUP BY segment",
            "SELECT country, COUNT(*) FROM customers GROUP BY country",
            ("showing segment, for each segment", "showing country, for each country"),
        ),
        (
            "SELECT COUNT(*) FROM stores WHERE country = 'Germany'",
            "SELECT COUNT(*) FROM customers WHERE country = 'Germany'",
            ("from stores", "from customers"),
        ),
        ("SELECT name FROM customers LIMIT 3", "SELECT name FROM customers LIMIT 5", ("the first 3", "the first 5")),
        ("SELECT DISTINCT city FROM stores", "SELECT city FROM stores", ("each once", "with repeats")),
        # One shows what the other shows and more: the answer stands in both.
        ("SELECT name FROM customers", "SELECT name, city FROM customers", None),
        ("SELECT name, city FROM customers", "SELECT city, name FROM customers", None),
        # Set operations have no clauses to compare.
        ("SELECT 1 UNION SELECT 2", "SELECT 1", None),
    ],
)
def test_only_the_difference_is_said(first: str, second: str, words: tuple[str, str] | None) -> None:
    assert differences(first, second, "duckdb") == words
    other_way = differences(second, first, "duckdb")
    assert other_way == (None if words is None else (words[1], words[0]))


@pytest.mark.parametrize(
    ("weight", "rows", "asks"),
    [(0.9, [("b",)], True), (0.5, [("b",)], True), (0.4, [("b",)], False), (0.9, [], False)],
)
def test_it_asks_only_where_that_pays(weight: float, rows: list[tuple[Any, ...]], asks: bool) -> None:
    found = clarify("Which product is the best?", [(BY_PRICE, 1.0, [("a",)]), (BY_STOCK, weight, rows)], "duckdb")
    assert (found is not None) == asks
    assert clarify("x", [(BY_PRICE, 1.0, [("a",)])], "duckdb") is None


ASKED = clarify("Which product is the best?", [(BY_PRICE, 1.0, [("a",)]), (BY_STOCK, 0.9, [("b",)])], "duckdb")


@pytest.mark.parametrize(
    ("reply", "sql"),
    [
        ("1", BY_PRICE), ("2", BY_STOCK), ("2.", BY_STOCK), ("the first", BY_PRICE), ("second one", BY_STOCK),
        ("the latter", BY_STOCK), ("price", BY_PRICE), ("by stock", BY_STOCK), ("ordered by price", BY_PRICE),
        ("I mean the one with the highest stock", BY_STOCK),
        ("price and stock", None), ("How many customers are there?", None), ("3", None), ("highest", None),
    ],
)  # fmt: skip
def test_replies(reply: str, sql: str | None) -> None:
    assert ASKED is not None
    found = ASKED.chosen(reply)
    assert (None if found is None else found.sql) == sql
    assert Clarification.from_dict(ASKED.to_dict()) == ASKED


class Undecided(ScriptedGenerator):
    """Two readings, of which the second is so probable beside the first."""

    ratio = 0.8

    def generate(self, prompt: str, *, sampling: Sequence[Sampling] = (GREEDY,), **options: Any) -> list[Completion]:
        self.prompts.append(prompt)
        first, second = next(self._replies)
        return [Completion(first, [], -0.1, "stop"), Completion(second, [], -0.1 + math.log(self.ratio), "stop")]


@pytest.fixture
def copilot(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copilot]:
    monkeypatch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    with Copilot(sample_database(), Undecided([[f" {BY_PRICE}", f" {BY_STOCK}"]] * 4)) as copilot:
        yield copilot


def test_a_choice_is_the_answer_and_follow_ups_go_on(copilot: Copilot) -> None:
    conversation = Conversation(copilot)
    asked = conversation.ask("Which product is the best?", AskOptions(clarify=True))
    assert (asked.status, asked.sql, asked.rows) == ("clarification", None, None) and conversation.turns == []
    assert asked.answer == "Do you mean 1) ordered by price, highest first or 2) ordered by stock, highest first?"
    assert asked.clarification is not None and [c["sql"] for c in asked.clarification["choices"]] == [BY_PRICE, BY_STOCK]
    answer = conversation.ask("the stock", AskOptions(clarify=True))
    assert answer.sql == BY_STOCK and answer.question == "Which product is the best?"
    assert answer.read_as == '"Which product is the best?", meant: ordered by stock, highest first'
    assert conversation.ask("top 3", AskOptions(clarify=True)).sql == BY_STOCK.replace("LIMIT 1", "LIMIT 3")


def test_nobody_is_asked_who_did_not_want_it(copilot: Copilot) -> None:
    answer = Conversation(copilot).ask("Which product is the best?", AskOptions())
    assert answer.sql == BY_PRICE and answer.clarification is None


def test_another_question_may_follow_a_question_back(copilot: Copilot) -> None:
    conversation = Conversation(copilot)
    conversation.ask("Which product is the best?", AskOptions(clarify=True))
    answer = conversation.ask("Which product is really the very best?", AskOptions())
    assert answer.sql == BY_PRICE and conversation.clarification is None


def test_a_reading_that_is_far_behind_is_not_asked_about(copilot: Copilot) -> None:
    assert isinstance(copilot.model, Undecided)
    copilot.model.ratio = 0.1
    answer = Conversation(copilot).ask("Which product is the best?", AskOptions(clarify=True))
    assert answer.sql == BY_PRICE
