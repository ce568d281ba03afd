from __future__ import annotations

import random

import pytest

from openarctic.data.contamination import ContaminationCheck, Item, normalised_words, reference_overlaps
from openarctic.data.documents import Document
from openarctic.errors import UserError


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, "eval", index) for index, text in enumerate(texts, 1)]


EVALUATION = [
    "How many singers are there in all concerts that took place in 2014 or in 2015?",
    "Too short to be found.",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
]


def test_a_run_of_thirteen_words_is_found_whatever_its_case_and_punctuation() -> None:
    check = ContaminationCheck({"dev": documents(EVALUATION)})
    found = check.check(
        Document("Before: ONE-two, three four\nfive six seven; eight nine ten (eleven) twelve thirteen!", "web", 7)
    )
    assert found is not None and (found.source, found.index) == ("web", 7)
    assert found.overlaps == {Item("dev", 3): 1}
    assert check.check(Document("one two three four five six seven eight nine ten eleven twelve", "web", 8)) is None
    assert check.check(Document("one two three four five six SEVEN and eight nine ten eleven twelve thirteen", "web", 9)) is None
    assert check.check(Document("", "web", 10)) is None
    coverage = check.evaluations["dev"]
    assert (coverage.texts, coverage.too_short, coverage.found) == (3, 1, {3})


def test_a_short_text_is_found_as_a_whole_document_only() -> None:
    check = ContaminationCheck({"dev": documents(["How many heads are older than 56 ?", EVALUATION[0]])})
    found = check.check(Document("how many heads are older than 56", "web", 1))
    assert found is not None and found.overlaps == {Item("dev", 1): 1}
    assert check.check(Document("Say how many heads are older than 56", "web", 2)) is None
    assert ContaminationCheck({"dev": documents(["short"])}).check(Document("Short!", "web", 1)) is not None
    assert (check.evaluations["dev"].too_short, check.evaluations["dev"].found) == (1, {1})


def test_overlaps_are_those_of_the_plain_form() -> None:
    rng = random.Random(5)
    words = [f"w{i}" for i in range(30)]

    def text(length: int) -> str:
        return " ".join(rng.choice(words) for _ in range(length))

    for run in (2, 3, 5):
        evaluation = [text(rng.randrange(1, 12)) for _ in range(40)]
        check = ContaminationCheck({"a": documents(evaluation)}, run)
        for number in range(60):
            document = f"{text(rng.randrange(40))} unseen {rng.choice(evaluation)} {text(rng.randrange(40))}"
            document = evaluation[number % 40].upper() if number % 3 == 0 else document
            expected = {Item("a", index + 1): count for index, count in reference_overlaps(evaluation, document, run).items()}
            found = check.check(Document(document, "web", number))
            assert (found.overlaps if found else {}) == expected


def test_several_evaluations_are_told_apart() -> None:
    check = ContaminationCheck({"a": documents(EVALUATION[:1]), "b": documents(EVALUATION)})
    found = check.check(Document(EVALUATION[0], "web", 1))
    assert found is not None and found.overlaps == {Item("a", 1): 4, Item("b", 1): 4}


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert normalised_words("Don't SELECT t1.name_2, 3.5 Größe!") == ["don", "t", "select", "t1", "name", "2", "3", "5", "größe"]


def test_a_check_that_finds_nothing_ever_is_refused() -> None:
    with pytest.raises(UserError, match="no evaluation text has a word: dev"):
        ContaminationCheck({"dev": documents(["...", ""])})
    with pytest.raises(UserError, match="runs of 1 words"):
        ContaminationCheck({"dev": documents(EVALUATION)}, 1)
