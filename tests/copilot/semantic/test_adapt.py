"""Verified queries for other values: changed only where that is provably what the question asks."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from openarctic.copilot.semantic.adapt import adapted
from openarctic.copilot.semantic.model import VerifiedQuery
from openarctic.copilot.semantic.verified import Change, VerifiedQueries
from tests.copilot.semantic.shop import Shop

COUNTRY = frozenset({("cities", "country")})
GERMANY = Change("Germany", "France", COUNTRY)


def change(shop: Shop, sql: str, *changes: Change) -> str | None:
    tree = sqlglot.parse_one(sql, read=shop.layer.dialect)
    assert isinstance(tree, exp.Query)
    before = tree.sql()
    result = adapted(tree, changes, shop.layer.base)
    assert tree.sql() == before
    return None if result is None else result.sql(dialect=shop.layer.dialect)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) FROM cities WHERE country = 'Germany'",
        "SELECT COUNT(*) FROM cities AS c WHERE 'Germany' <> c.country",
        "SELECT city FROM cities WHERE country IN ('Germany') UNION SELECT nm FROM clients JOIN cities ON home_city = city_id "
        "WHERE country = 'Germany'",
        "SELECT n FROM (SELECT x.country AS land, COUNT(*) AS n FROM cities AS x GROUP BY 1) AS q WHERE q.land = 'Germany'",
        "WITH q AS (SELECT country FROM cities) SELECT COUNT(*) FROM q WHERE country = 'Germany'",
        "SELECT nm FROM clients WHERE EXISTS(SELECT 1 FROM cities WHERE city_id = home_city AND country = 'Germany')",
    ],
)
def test_a_text_changes_where_its_column_is_compared(shop: Shop, sql: str) -> None:
    assert change(shop, sql, GERMANY) == sql.replace("Germany", "France")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) FROM cities WHERE city = 'Germany'",  # another column
        "SELECT COUNT(*) FROM cities WHERE country LIKE 'Germany'",
        "SELECT COUNT(*) FROM cities WHERE LOWER(country) = 'germany'",
        "SELECT COUNT(*) FROM cities",  # the value is not in it
        "SELECT COUNT(*) AS cities_in_germany FROM cities WHERE country = 'Germany'",
        "SELECT 'Germany' AS land, COUNT(*) FROM cities WHERE country = 'Germany'",
        "SELECT 'in Germany: ' AS label FROM cities WHERE country = 'Germany'",
        "SELECT COUNT(*) FROM cities WHERE country = 'Germany' OR city = 'Germany'",
        "SELECT COUNT(*) FROM (SELECT UPPER(country) AS country FROM cities) AS q WHERE country = 'Germany'",
        "SELECT COUNT(*) FROM nowhere WHERE country = 'Germany'",
    ],
)
def test_a_text_that_may_mean_something_else_does_not(shop: Shop, sql: str) -> None:
    assert change(shop, sql, GERMANY) is None


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT city FROM cities ORDER BY city LIMIT 5", "SELECT city FROM cities ORDER BY city LIMIT 10"),
        ("SELECT oid FROM line WHERE qty > 5", "SELECT oid FROM line WHERE qty > 10"),
        ("SELECT oid FROM line GROUP BY oid HAVING SUM(qty) >= 5", "SELECT oid FROM line GROUP BY oid HAVING SUM(qty) >= 10"),
        ("SELECT oid FROM line WHERE qty > 5 LIMIT 5", None),
        ("SELECT oid FROM line WHERE qty > 0.05", None),
        ("SELECT oid FROM line WHERE qty > 4", None),
        ("SELECT oid FROM line WHERE qty * 2 > 5", None),
        ("SELECT qty + 5 FROM line", None),
        ("SELECT qty AS top_5 FROM line LIMIT 5", None),
        ("SELECT 5 = 5 FROM line", None),
        ("SELECT oid FROM line WHERE qty > 15 LIMIT 5", None),
    ],
)
def test_numbers(shop: Shop, sql: str, wanted: str | None) -> None:
    assert change(shop, sql, Change("5", "10")) == wanted


def test_years_in_dates_functions(shop: Shop) -> None:
    sql = "SELECT COUNT(*) FROM ord WHERE STRFTIME('%Y', dt) = '2023'" if shop.layer.dialect == "sqlite" else (
        "SELECT COUNT(*) FROM ord WHERE EXTRACT(YEAR FROM dt) = 2023"
    )  # fmt: skip
    assert change(shop, sql, Change("2023", "2024")) == sql.replace("2023", "2024")
    assert change(shop, "SELECT COUNT(*) FROM ord WHERE dt >= '2023-01-01' AND dt < '2024-01-01'", Change("2023", "2024")) is None


def test_several_changes_at_once_do_not_run_into_each_other(shop: Shop) -> None:
    sql = "SELECT COUNT(*) FROM cities WHERE country = 'Germany' OR country = 'France'"
    swapped = change(shop, sql, GERMANY, Change("France", "Germany", COUNTRY))
    assert swapped == "SELECT COUNT(*) FROM cities WHERE country = 'France' OR country = 'Germany'"
    assert change(shop, sql, GERMANY, Change("Germany", "Italy", COUNTRY)) is None


def test_a_new_value_is_a_literal_whatever_is_in_it(shop: Shop) -> None:
    sql = change(shop, "SELECT COUNT(*) FROM cities WHERE country = 'Germany'", Change("Germany", "x' OR '1'='1", COUNTRY))
    assert sql == "SELECT COUNT(*) FROM cities WHERE country = 'x'' OR ''1''=''1'"


def test_from_question_to_question(shop: Shop) -> None:
    query = VerifiedQuery(
        question="Which customers live in Germany?",
        sql="SELECT customer_name FROM customers JOIN homes ON home = city_id WHERE home_country = 'Germany'",
    )
    match = VerifiedQueries([query], shop.layer.links).find("which customers live in FRANCE")
    assert match is not None and match.changes is not None
    tree = adapted(shop.layer.physical(match.query.sql), match.changes, shop.layer.base)
    assert tree is not None
    assert sorted(shop.rows(tree.sql(dialect=shop.layer.dialect))) == [("Ada",), ("Ben",)]
