"""Perplexity of gold queries, from logits that are known."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openarctic.engine import load
from openarctic.errors import UserError
from openarctic.evals.perplexity import gold_perplexity, log_likelihood
from openarctic.evals.spider import Question


@pytest.fixture
def databases(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    with sqlite3.connect(tmp_path / "shop" / "shop.sqlite") as connection:
        connection.execute("CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, name TEXT)")
    connection.close()
    return tmp_path


GOOD = Question("How many customers are there?", "SELECT count(*) FROM customer", "shop")


class Guessing:
    """Every token is as likely as every other, but for the one that comes next, which is `lead` times as likely."""

    def __init__(self, lead: float) -> None:
        self.tokenizer, self.target_form, self.lead = load().tokenizer, "sql", lead

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        rows = np.zeros((len(ids), 16384), np.float32)
        rows[np.arange(len(ids) - 1), list(ids[1:])] = math.log(self.lead)
        return rows


def test_a_model_that_guesses_is_as_surprised_as_its_vocabulary_is_large(databases: Path) -> None:
    perplexity, tokens = gold_perplexity([GOOD], databases, Guessing(1.0))
    assert perplexity == pytest.approx(16384) and 5 <= tokens <= 12
    assert gold_perplexity([GOOD], databases, Guessing(16383.0))[0] == pytest.approx(2.0)  # as likely as all others together


def test_the_bundled_model_knows_a_plain_count_and_likes_it_more_than_another_query(databases: Path) -> None:
    other = Question(GOOD.text, "SELECT name FROM customer WHERE customer_id = 3", "shop")
    engine = load()
    assert gold_perplexity([GOOD], databases, engine)[0] < 1.5 < gold_perplexity([other], databases, engine)[0]


def test_log_likelihood_of_far_apart_logits() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, -1000.0]], np.float32)
    assert log_likelihood(logits, [0, 0]) == 0.0 and log_likelihood(logits, [1, 0]) == -1000.0


def test_nothing_to_measure_is_told(databases: Path) -> None:
    with pytest.raises(UserError, match="no question"):
        gold_perplexity([Question("?", "SELECT 1", "absent")], databases, Guessing(1.0))
