"""Sentences an analyst would trust: what they say, and that each of their numbers is at home in the rows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from openarctic.copilot.answers.sentence import Sentence, answer_sentence
from openarctic.copilot.answers.trace import untraceable
from openarctic.copilot.databases import Database, read_schema
from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand
from openarctic.copilot.sample import sample_database
from openarctic.copilot.schema import Schema
from openarctic.copilot.synthesis import synthesise
from openarctic.errors import UserError

GENERATED = 500
ITEMS = "FROM order_items JOIN products USING (product_id) JOIN suppliers USING (supplier_id) GROUP BY suppliers.name"


class Asker:
    """Runs statements on the sample and says their results."""

    def __init__(self, database: Database) -> None:
        self.schema = read_schema(database)
        self.worker = Worker(database)

    def __call__(self, sql: str, limit: int = 1000) -> tuple[Result, Sentence]:
        checked = check(expand(sql, self.schema, "duckdb"), "duckdb", self.schema)
        result = self.worker.execute(checked, limit=limit)
        said = answer_sentence("", result.columns, result.rows, result.truncated, checked.sql, "duckdb", self.schema)
        return result, said


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENARCTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        asker = Asker(sample_database())
    yield asker
    asker.worker.close()


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT COUNT(*) FROM customers", "There are 300 customers."),
        ("SELECT COUNT(*) FROM customers WHERE country = 'Germany'", "There are 62 customers where country is 'Germany'."),
        ("SELECT COUNT(DISTINCT country) FROM customers", "There are 10 different countries."),
        ("SELECT AVG(stock) FROM products", "The average stock is about 106.85 (106.85416666666667 unrounded)."),
        (
            "SELECT SUM(amount) AS revenue FROM payments WHERE method = 'cash'",
            "The revenue is 150,908.75, over payments where method is 'cash'.",
        ),
        (
            "SELECT MAX(price) FROM products WHERE price < 0",
            "The highest price is unknown (NULL): no products where price is below the value asked for have a value for it.",
        ),
        ("SELECT name FROM customers WHERE country = 'Norwy'", "No customers match the filter: country is 'Norwy'."),
        (
            "SELECT name FROM products WHERE price > 900 AND stock < 3",
            "No products match all of the filters: price is above the value asked for and stock is below the value asked for.",
        ),
        ("SELECT name FROM products ORDER BY price DESC LIMIT 1", "Air Mattress Pro has the highest price."),
        ("SELECT name, price FROM products ORDER BY price DESC LIMIT 1", "Air Mattress Pro has the highest price, 428.35."),
        ("SELECT name, hired FROM employees ORDER BY hired LIMIT 1", "Tina Costa has the earliest hired, 2015-01-05."),
        (
            "SELECT name FROM products ORDER BY price DESC LIMIT 3",
            "The 3 products with the highest price: Air Mattress Pro, Down Sleeping Bag Pro and Hydration Pack Pro.",
        ),
        (
            f"SELECT suppliers.name, SUM(quantity * order_items.unit_price) AS total {ITEMS} ORDER BY total DESC LIMIT 3",
            "Monte Equip has the highest total, 171,099.25; next are Nordlys (162,587.95) and Alpina Works (146,952.80).",
        ),
        (
            "SELECT segment, COUNT(*) FROM customers GROUP BY segment",
            "Club has the most customers, 105 of 300 in all 3 rows (35.0 % = 105 / 300); "
            "next are Consumer (102) and Business (93).",
        ),
        (
            "SELECT date_trunc('month', order_date) AS month, COUNT(*) AS orders FROM orders GROUP BY month ORDER BY month",
            "From 2022-01 to 2024-12 (36 rows), the number of orders is highest in 2022-03 (47) and lowest in 2023-02 (20); "
            "it begins at 40 and ends at 23.",
        ),
        ("SELECT name FROM regions", "4 regions: North, South, East and West."),
        ("SELECT country FROM customers GROUP BY country ORDER BY COUNT(*) DESC LIMIT 1", "Germany has the most customers."),
        ("SELECT store_id, COUNT(*) FROM employees GROUP BY store_id",
         "All 12 rows have the same number of employees, 5: 1, 2, 3, 4, 5 and others."),
        ("SELECT MIN(price), MAX(price) FROM products", "The lowest price is 14.95 and the highest price is 428.35."),
        ("SELECT status FROM orders WHERE order_id = 1", "The status is delivered."),
        ("SELECT COUNT(*) FROM customers WHERE customer_id IN (SELECT T1.customer_id FROM orders AS T1 WHERE T1.store_id = 3)",
         "There are 83 customers where customer_id is among what a nested query finds."),
        ("SELECT MAX(order_date) FROM orders", "The latest order date is 2024-12-27."),
        ("SELECT product_id FROM products ORDER BY price DESC LIMIT 1", "The product id with the highest price is 72."),
        ("SELECT EXTRACT(YEAR FROM hired) AS y, COUNT(*) FROM employees GROUP BY y ORDER BY COUNT(*) DESC LIMIT 1",
         "2019 has the most employees, 12."),
        ("SELECT SUM(amount) FROM payments WHERE paid_on >= DATE '2023-01-01' AND paid_on < DATE '2024-01-01'",
         "The total amount is 211,946.20, over payments where paid_on is in the range asked for."),
        ("SELECT name, email FROM customers WHERE name LIKE 'Ada%' ORDER BY email LIMIT 2",
         "2 rows: Ada Brandt (ada.brandt177@example.com) and Ada Brandt (ada.brandt195@example.com)."),
    ],
)  # fmt: skip
def test_what_is_said(asked: Asker, sql: str, text: str) -> None:
    result, said = asked(sql)
    assert said.text == text
    assert untraceable(text, result.columns, result.rows) == []


@pytest.mark.parametrize(
    ("columns", "rows", "truncated", "text"),
    [
        (["n"], [], False, "The result has no rows."),
        (["n"], [(3,)], False, "The n is 3."),
        (["total"], [(None,)], False, "The total is unknown (NULL)."),
        (["a", "b"], [(1, "x")], False, "One row: a 1, b x."),
        (["city"], [("Oslo",), ("Rome",)], False, "2 cities: Oslo and Rome."),
        (["city"], [("Oslo",)] * 9, True, "More than 9 cities; the first: Oslo, Oslo, Oslo, Oslo, Oslo and others."),
        (["name", "n"], [("a", 7), ("b", 7), (None, 1)], False, "a and b have the highest n, 7 each; next is (no name) (1)."),
        (["name", "price"], [("a", 0.1 + 0.2), ("b", 1e-9)], False, "a has the highest price, 0.30; next is b (1e-09)."),
        (["year", "n"], [(2020, 1234), (2021, 5), (2022, 7)], False,
         "From 2020 to 2022 (3 rows), the n is highest in 2020 (1,234) and lowest in 2021 (5); "
         "it begins at 1,234 and ends at 7."),
        (["day", "x"], [("2024-01-02 00:00:00", None), ("2024-01-03 00:00:00", 2), ("2024-01-04 00:00:00", 3)], False,
         "From 2024-01-03 to 2024-01-04 (3 rows), the x is highest in 2024-01-04 (3) and lowest in 2024-01-03 (2); "
         "it begins at 2 and ends at 3."),
        (["note"], [("two\nlines\x1b[31m",)], False, "The note is two lines [31m."),
        (["x"], [(-1234.5,)], False, "The x is -1,234.5."),
        (["x"], [(93166.66666666667,)], False, "The x is about 93,166.67 (93166.66666666667 unrounded)."),
        (["flag", "n"], [(True, 2), (False, 3)], False, "false has the highest n, 3; next is true (2)."),
    ],
)  # fmt: skip
def test_without_a_query_names_tell(columns: list[str], rows: list[tuple[Any, ...]], truncated: bool, text: str) -> None:
    said = answer_sentence("", columns, rows, truncated)
    assert said.text == text
    assert untraceable(text, columns, rows) == []


def generated(schema: Schema) -> list[str]:
    pairs = list(synthesise({"sample": LinkedSchema(schema)}, GENERATED - 70, seed=7))
    return [pair.sql for pair in pairs] + list(drawn(random.Random(3), 100))


def drawn(rng: random.Random, count: int) -> Iterator[str]:
    """Rankings, shares and series, which the synthetic pairs have few of."""
    kinds = [
        (
            "customers, orders, payments",
            ["country", "segment", "customers.name", "method"],
            ["COUNT(*)", "SUM(amount)", "MAX(paid_on)"],
        ),
        (
            "products, categories",
            ["categories.name", "stock"],
            ["AVG(price)", "SUM(stock) / 3", "MIN(price)", "COUNT(DISTINCT stock)"],
        ),
        ("orders", ["status", "date_trunc('month', order_date)", "store_id"], ["COUNT(*)", "MAX(order_date)"]),
    ]
    for _ in range(count):
        tables, keys, measures = rng.choice(kinds)
        key, measure, many = rng.choice(keys), rng.choice(measures), rng.choice([1, 3, 5, 10, 25])
        order = rng.choice(
            ["", f" ORDER BY {measure} DESC", f" ORDER BY {measure} DESC LIMIT {many}", f" ORDER BY 2 LIMIT {many}"]
        )
        yield f"SELECT {key}, {measure} FROM {tables} GROUP BY {key}{' ORDER BY 1' if 'month' in key else order}"


def test_every_number_of_500_generated_answers_is_at_home(asked: Asker) -> None:
    """By the citations that the writer gives, and by the checker that knows nothing of them."""
    digits, scalars, tops = re.compile(r"\d+"), 0, 0
    answered = 0
    for sql in generated(asked.schema):
        try:
            result, said = asked(sql, limit=200)
        except UserError:
            continue  # synthetic SQL is SQLite's; DuckDB does not compare dates with texts
        answered += 1
        assert untraceable(said.text, result.columns, result.rows) == [], (sql, said.text)
        cited = {token for number in said.numbers for token in digits.findall(number.text)}
        assert set(digits.findall(said.text)) <= cited, (sql, said.text)
        for number in said.numbers:
            assert number.expression or (number.row is not None and number.column is not None)
        values = [row[-1] for row in result.rows]
        is_top = re.search(r"ORDER BY .*LIMIT \d+$", sql) and len(values) <= 10 and len(result.columns) <= 2
        if is_top or (len(values) == 1 and len(result.columns) == 1):
            scalars, tops = scalars + (len(values) == 1), tops + (len(values) > 1)
            missing = [v for v in values if not states(said.text, v)]
            assert not missing, (sql, said.text, missing)
    assert answered >= GENERATED and scalars >= 50 and tops >= 25


def states(text: str, value: Any) -> bool:
    """Whether a value is said, numbers at two decimals at least."""
    if value is None:
        return "NULL" in text or "(no " in text or "no value" in text
    if isinstance(value, str):
        return value.removesuffix(" 00:00:00")[:50] in text
    numbers = [float(t.replace(",", "")) for t in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.replace(", ", "; "))]
    return any(abs(n - value) <= 0.0050001 for n in numbers)


def test_a_wrong_number_is_found_wherever_it_stands(asked: Asker) -> None:
    """The checker must be able to say no: each number of many sentences is spoilt in turn."""
    for sql in list(drawn(random.Random(5), 50)):
        result, said = asked(sql, limit=200)
        for match in re.finditer(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w.,-]*\d)", said.text):
            spoilt = said.text[: match.start()] + "987,654,321.5" + said.text[match.end() :]
            assert untraceable(spoilt, result.columns, result.rows), spoilt


AWKWARD_NAMES = [
    "name", "price", "n", "id", "year", "month", "Q1 sales", "col2", "total_2023", "count_star()", "sum(price * 1.2)",
    "created_at", "日本", "a\nb", "user_id", "\x1b[31m",
]  # fmt: skip
AWKWARD_TEXTS = [
    "a", "Tent 3", "12 kg", "1,5", "3.14", "-7", "A-12", "x" * 80 + "1234567", "1e5", "two\nlines 5", "🦊 2", "", "12 % = 3 / 4",
    "rows 3", "1.", "٣", "v1.2.3", " 007", "\x1b[31m5", "50 % of 3 rows share it",
]  # fmt: skip
QUERIES = [
    None,
    "SELECT {0}, COUNT(*) FROM t GROUP BY {0}",
    "SELECT {0}, SUM(y) FROM t GROUP BY {0} ORDER BY 2 DESC LIMIT 5",
    "SELECT {0}, AVG(y) AS z FROM t WHERE b = 5 GROUP BY {0} ORDER BY z",
    "SELECT MAX(y) FROM t",
    "SELECT {0} FROM t ORDER BY y LIMIT 3",
    "SELECT {0} FROM t WHERE q > 7 AND name = 'x 9'",
]


def awkward_cell(kind: str, rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return None
    return {
        "int": lambda: rng.choice([0, 1, -1, rng.randint(-(10**6), 10**6), 10**15, -(10**18)]),
        "float": lambda: rng.choice([rng.gauss(0, 100), round(rng.random() * 100, 2), 0.1 + 0.2, 1e-9, 1e20, -0.0, 1 / 3]),
        "text": lambda: rng.choice(AWKWARD_TEXTS),
        "date": lambda: f"{rng.choice([1, 1999, 2024]):04}-{rng.randint(1, 12):02}-{rng.choice([1, 15]):02}",
        "moment": lambda: f"2024-{rng.randint(1, 12):02}-01 00:00:00",
        "bool": lambda: rng.random() < 0.5,
        "year": lambda: rng.randint(1990, 2030),
        "list": lambda: [1, "a 7", None],
        "inf": lambda: rng.choice(["inf", "nan", 1.0]),
        "same": lambda: 7,
        "any": lambda: awkward_cell(rng.choice(["int", "float", "text", "date"]), rng),
    }[kind]()


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_whatever_the_rows_hold(count: int) -> None:
    rng = random.Random(17)
    kinds = ["int", "float", "text", "date", "moment", "bool", "year", "list", "inf", "same", "any"]
    for _ in range(count):
        chosen = rng.choices(kinds, k=rng.randint(1, 4))
        columns = [rng.choice(AWKWARD_NAMES) for _ in chosen]
        rows = [tuple(awkward_cell(kind, rng) for kind in chosen) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 12, 30]))]
        sql = rng.choice(QUERIES)
        said = answer_sentence("", columns, rows, rng.random() < 0.2, sql.format("c1") if sql else None)
        assert untraceable(said.text, columns, rows) == [], (said.text, columns, rows, sql)
        cited = {token for number in said.numbers for token in re.findall(r"\d+", number.text)}
        assert set(re.findall(r"\d+", said.text)) <= cited, (said.text, said.numbers)
        assert not re.search(r"[\x00-\x1f\x7f]", said.text) and said.text.endswith(".")


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("Ann has 12.", []),
        ("Ann has 12.00.", []),
        ("Ann has 13.", ["13"]),
        ("Bo has about 3.14.", []),
        ("Bo has about 3.15.", ["3.15"]),
        ("Bo has 3.", ["3"]),
        ("2 rows.", []),
        ("3 rows.", ["3"]),
        ("12 of 15.1416 in all 2 rows (79.3 % = 12 / 15.1416).", []),
        ("12 of 15.1416 (80.3 % = 12 / 15.1416).", ["15.1416", "80.3"]),
        ("It is 15.1416.", ["15.1416"]),
        ("The room is B-52.", []),
        ("The debt is -12.", ["-12"]),
    ],
)
def test_what_the_checker_accepts(text: str, lost: list[str]) -> None:
    assert untraceable(text, ["name", "x"], [("Ann B-52", 12), ("Bo", 3.1416)]) == lost
