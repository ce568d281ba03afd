"""Questions that are none, and questions that ask for a change."""

from __future__ import annotations

import pytest

from openarctic.copilot.intent import check_question
from openarctic.errors import RefusedError, UserError


@pytest.mark.parametrize(
    "question",
    ["delete all orders", "Please drop the customers table", "Update prices to 0", "can you remove inactive users?",
     "create a table of orders", "INSERT a new row", "set all prices to 1 in the table"],
)  # fmt: skip
def test_changes_are_refused(question: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_question(question)
    assert caught.value.type == "not_a_read"


@pytest.mark.parametrize(
    "question",
    ["How many orders were deleted last year?", "Create a list of customers", "Which product was updated last?",
     "Show the removal date", "make a report of sales per store", "Combien de clients y a-t-il ?"],
)  # fmt: skip
def test_reading_passes(question: str) -> None:
    assert check_question(f"  {question} ") == question


@pytest.mark.parametrize("question", ["", " \n", "x" * 20_000, "how many\x00rows", "\ud800"])
def test_what_is_no_question(question: str) -> None:
    with pytest.raises(UserError):
        check_question(question)
