"""Comparisons as the question words them."""

from __future__ import annotations

import pytest
import sqlglot

from openarctic.copilot.comparisons import as_worded
from openarctic.copilot.schema import Column, Schema, Table

SCHEMA = Schema(
    dialect="sqlite",
    tables=(
        Table(
            name="staff",
            columns=(
                Column(name="name", type="TEXT", values=("Ann", "Bob")),
                Column(name="age", type="INTEGER"),
                Column(name="hire_date", type="TEXT", values=("2001-02-03", "2002-06-21 10:00:00")),
                Column(name="years_employed", type="INTEGER"),
                Column(name="cost_per_year", type="INTEGER"),
                Column(name="left_on", type="TEXT", values=("June 21, 2002",)),
            ),
        ),
    ),
)


def worded(question: str, condition: str) -> str:
    return as_worded(f"SELECT name FROM staff WHERE {condition}", question, SCHEMA).partition(" WHERE ")[2]


@pytest.mark.parametrize(
    ("question", "pattern"),
    [
        ("Who has the letter M in the name?", "%M%"),
        ("Who is without the letter M in their first name?", "%M%"),
        ("Whose name does not contain M?", "%M%"),
        ("Whose name contains the substring 'M'?", "%M%"),
        ("Staff whose names start with M", "M%"),
        ("Staff whose name begins with the letter M", "M%"),
        ("Staff whose names end with the letter m", "%M"),
        ("Find the names that include 'M'.", "%M%"),
    ],
)
@pytest.mark.parametrize("written", ["M%", "%M", "%M%", "M"])
def test_where_in_a_text(question: str, pattern: str, written: str) -> None:
    assert worded(question, f"name LIKE '{written}'") == f"name LIKE '{pattern}'"
    assert worded(question, f"NOT name LIKE '{written}'") == f"NOT name LIKE '{pattern}'"


@pytest.mark.parametrize(
    ("question", "condition"),
    [
        ("Who is called M?", "name LIKE 'M%'"),  # no word tells
        ("Names that contain M or end with M", "name LIKE 'M%'"),  # said twice
        ("Names that contain the letters", "name LIKE 'M%'"),  # not said
        ("Names that start with M", "name LIKE '%M%n%'"),
        ("Names that start with M", "name LIKE '_M'"),
        ("Names that contain M as their first letter", "name LIKE 'M%'"),
        ("Names that contain M at the end", "name LIKE '%M'"),
        ("Names with the first letter M", "name LIKE 'M%'"),
        ("Names of which the first character is M", "name LIKE 'M%'"),
        ("Names whose last letter is M", "name LIKE '%M'"),
        ("Staff who started at M", "name LIKE '%M%'"),
        ("Staff for beginners by M", "name LIKE '%M%'"),
        ("Contracts ending in 2020", "hire_date LIKE '2020%'"),
        ("Staff hired on a day that ends in 20", "hire_date LIKE '%20%'"),
        ("Names that start and end with M", "name LIKE 'M%' AND name LIKE '%M'"),
        ("Names that start with M and contain N", "name LIKE 'M%' AND name LIKE '%N%'"),
        ("Names that do not begin with M but include N", "NOT name LIKE 'M%' AND name LIKE '%N%'"),
        ("Who is older than the mean, with an M in the title of the work that starts next year?", "name LIKE '%M%'"),
    ],
)
def test_a_text_of_which_nothing_is_told_stays(question: str, condition: str) -> None:
    assert worded(question, condition) == condition


@pytest.mark.parametrize(
    ("question", "operator"),
    [
        ("Who is at least 30?", ">="),
        ("Who is 30 or older?", ">="),
        ("Who is 30 years or older?", ">="),
        ("Who is not younger than 30?", ">="),
        ("Who is of an age greater than or equal to 30?", ">="),
        ("Who is older than 30?", ">"),
        ("Who is older than 30 and above average height?", ">"),
        ("Who is older than 30 or more expensive than 5?", ">"),
        ("Whose age is above 30 and up to 50?", ">"),
        ("Whose age is above 30?", ">"),
        ("Whose age is over 30 or lower than 20?", ">"),
    ],
)
def test_whether_a_lower_bound_is_included(question: str, operator: str) -> None:
    assert worded(question, "age > 30") == worded(question, "age >= 30") == f"age {operator} 30"


@pytest.mark.parametrize(
    ("question", "operator"),
    [("At most 30", "<="), ("30 or less", "<="), ("no more than 30", "<="), ("up to 30", "<="), ("under 30", "<")],
)
def test_whether_an_upper_bound_is_included(question: str, operator: str) -> None:
    assert worded(question, "age < 30") == worded(question, "age <= 30") == f"age {operator} 30"


def test_numbers_in_words() -> None:
    sql = "SELECT name FROM staff GROUP BY name HAVING COUNT(*) {} 2"
    assert as_worded(sql.format(">"), "Which names do two or more people have?", SCHEMA) == sql.format(">=")
    assert as_worded(sql.format(">"), "Which names stand there at least twice?", SCHEMA) == sql.format(">=")
    assert as_worded(sql.format(">="), "Which names do more than two people have?", SCHEMA) == sql.format(">")


@pytest.mark.parametrize(
    ("question", "condition"),
    [
        ("Who is at least 30?", "age < 30"),  # the other side: something else is meant
        ("Who is at least 30, and who is above 30?", "age > 30"),  # said twice
        ("Who is at least 30?", "age > 31"),
        ("Who is at least 30?", "age > 30 AND NOT age > 30"),  # twice in the statement
        ("Who is 30 or older than the others?", "age > 30"),
        ("Who is at least 30?", "age > '30'"),
        ("Who is 30?", "age >= 30"),
    ],
)
def test_a_bound_of_which_nothing_is_told_stays(question: str, condition: str) -> None:
    assert worded(question, condition) == condition


@pytest.mark.parametrize(
    "day",
    [
        "June 21, 2002",
        "June 21st, 2002",
        "Jun. 21 2002",
        "21 June 2002",
        "21st of June, 2002",
        "the 21st June 2002",
        "june 21 2002",
    ],
)
@pytest.mark.parametrize("written", ["June 21, 2002", "2002", "21/2002", "the 21st of June, 2002"])
def test_a_day_as_the_column_writes_it(day: str, written: str) -> None:
    assert worded(f"Who was hired before {day}?", f"hire_date < '{written}'") == "hire_date < '2002-06-21'"


@pytest.mark.parametrize(
    ("question", "condition"),
    [
        ("Who was hired before 2002-06-21?", "hire_date < '2002'"),
        ("Who was hired on June 21, 2002?", "hire_date = '2002-06-21 10:00:00'"),
        ("Who left on June 21, 2002?", "left_on = 'June 21, 2002'"),  # that column writes days otherwise
        ("Who was hired between May 1, 2001 and June 21, 2002?", "hire_date < '2002'"),  # which one?
        ("Who was hired in June 2002?", "hire_date < 'June 2002'"),
        ("Who was hired between 2001 and June 21, 2002?", "hire_date > '2001' AND hire_date < '2002-06-21'"),
        ("Who was hired after 2001, and born before June 21, 1982?", "hire_date > '2001'"),
        ("Who was hired before June 21, 2002?", "hire_date != ''"),
        ("Who was hired before June 21, 2002?", "hire_date < '3/4/2002'"),
        ("Who was hired before June 31, 2002?", "hire_date < '2002'"),  # no such day
        ("Who was hired before May 45 2002?", "hire_date < '2002'"),
        ("The top 10 May 2013 staff", "hire_date >= '2013'"),
        ("Who was hired on June 21, 2002?", "name = 'Ann'"),
    ],
)
def test_a_day_of_which_nothing_is_told_stays(question: str, condition: str) -> None:
    assert worded(question, condition) == condition


def test_two_days_are_told_apart_by_what_is_written() -> None:
    question = "Who was hired between May 1, 2001 and June 21, 2002?"
    condition = "hire_date > 'May 1, 2001' AND hire_date < 'June 21, 2002'"
    assert worded(question, condition) == "hire_date > '2001-05-01' AND hire_date < '2002-06-21'"


@pytest.mark.parametrize(
    ("question", "direction"),
    [("Who was hired most recently?", "DESC"), ("Who is the newest?", "DESC"), ("Who was hired earliest?", "ASC")],
)
def test_which_end_of_a_date(question: str, direction: str) -> None:
    sql = "SELECT name FROM staff ORDER BY hire_date {} LIMIT 1"
    for written in ("ASC", "DESC"):
        told = as_worded(sql.format(written), question, SCHEMA)
        assert sqlglot.parse_one(told, read="sqlite") == sqlglot.parse_one(sql.format(direction), read="sqlite"), told


@pytest.mark.parametrize(
    ("question", "order"),
    [
        ("Who is the youngest?", "age DESC LIMIT 1"),  # no date: the model knows best
        ("Who is the newest?", "hire_date ASC"),
        ("Who is the newest, and who the oldest?", "hire_date ASC LIMIT 1"),
        ("Who is the newest?", "name ASC, hire_date ASC LIMIT 1"),
        ("Who is the newest?", "hire_date DESC LIMIT 1"),
        ("Who is the newest?", "years_employed ASC LIMIT 1"),
        ("Which of the latest costs least?", "cost_per_year ASC LIMIT 1"),
        ("What did the newest do first?", "hire_date ASC LIMIT 1"),
    ],
)
def test_an_order_of_which_nothing_is_told_stays(question: str, order: str) -> None:
    sql = f"SELECT name FROM staff ORDER BY {order}"
    assert as_worded(sql, question, SCHEMA) == sql


def test_only_one_order_is_turned() -> None:
    sql = (
        "SELECT name FROM staff WHERE age = (SELECT age FROM staff ORDER BY hire_date ASC LIMIT 1) ORDER BY hire_date ASC LIMIT 1"
    )
    assert as_worded(sql, "Who is the newest?", SCHEMA) == sql


def test_a_long_question_does_not_take_long() -> None:
    question = "at least " + " or more, ".join(map(str, range(1000)))
    assert worded(question, "age > 999") == "age > 999" and worded(question, "age > 500") == "age >= 500"
