"""Which verified query a question is like, and in what they differ."""

from __future__ import annotations

import pytest

from openarctic.copilot.linking.values import ValueIndex
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.copilot.semantic.model import VerifiedQuery
from openarctic.copilot.semantic.verified import Change, VerifiedQueries
from openarctic.copilot.semantic.words import normal_words

QUESTIONS = (
    "What is the revenue in Germany?",
    "How many orders were delivered?",
    "Top 5 products by price",
    "Which customers have no orders?",
)
VALUES = ValueIndex(
    Schema(
        dialect="duckdb",
        tables=(
            Table(name="customers", columns=(Column(name="country", values=("Germany", "France", "New Zealand")),)),
            Table(name="orders", columns=(Column(name="state", values=("delivered", "shipped")),)),
        ),
    )
)
KNOWN = VerifiedQueries([VerifiedQuery(question=q, sql=f"SELECT {i}") for i, q in enumerate(QUESTIONS)], VALUES.links)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the  total Revenue?", "total revenue"),
        ("Please show me total revenue!", "total revenue"),
        ("Could you please give me the total revenue", "total revenue"),
        ("top twenty-five customers", "top 25 customers"),
        ("two hundred and five", "200 and 5"),
        ("one hundred twenty three thousand five", "123005"),
        ("more than 1,000.50 EUR", "more than 1000.5 eur"),
        ("the customer’s “Best” orders", "customer best orders"),
        ("students of grade A", "students of grade a"),
        ("year < 2020", "year < 2020"),
        ("order 007", "order 007"),
        ("ＦＵＬＬ width", "full width"),
        ("show", "show"),
    ],
)
def test_normal_words(text: str, words: str) -> None:
    assert " ".join(normal_words(text)) == words


@pytest.mark.parametrize(
    ("question", "of"),
    [
        ("what's the revenue in GERMANY", 0),
        ("  how many orders were DELIVERED", 1),
        ("top five products by price", 2),
        ("Please list which customers have no orders", 3),
    ],
)
def test_the_same_question_in_other_clothes_is_exact(question: str, of: int) -> None:
    match = KNOWN.find(question)
    assert match is not None and match.exact and match.score == 1 and match.query.question == QUESTIONS[of]


@pytest.mark.parametrize(
    "question",
    [
        "Which customers have orders?",
        "How many orders were not delivered?",
        "Top 50 products by price",
        "Bottom 5 products by price",
        "What is the revenue outside Germany?",
        "How many orders was delivered?",
    ],
)
def test_what_may_mean_something_else_is_never_exact(question: str) -> None:
    match = KNOWN.find(question)
    assert match is None or not match.exact


def test_questions_that_differ_in_values_alone_say_so() -> None:
    match = KNOWN.find("what is the revenue in new zealand")
    assert match and not match.exact
    assert match.changes == (Change("Germany", "New Zealand", frozenset({("customers", "country")})),)
    match = KNOWN.find("top ten products by price")
    assert match and match.changes == (Change("5", "10"),)
    # A value of another column is another question.
    match = KNOWN.find("what is the revenue in shipped")
    assert match is None or match.changes is None


def test_near_questions_are_scored_and_far_ones_are_not_found() -> None:
    match = KNOWN.find("Which customers have had no orders?")
    assert match and match.query.question == QUESTIONS[3] and 0.6 <= match.score < 1 and match.changes is None
    assert KNOWN.find("average salary of employees") is None
    assert KNOWN.find("???") is None and VerifiedQueries([]).find("anything") is None


def test_the_latest_of_equal_questions_counts() -> None:
    queries = [VerifiedQuery(question="a b", sql=str(at), verified_at=at) for at in (5, 9, 2)]
    match = VerifiedQueries(queries).find("A b?")
    assert match and match.query.sql == "9"
