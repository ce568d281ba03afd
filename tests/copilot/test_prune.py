"""Tables joined for nothing go; all others stay."""

from __future__ import annotations

import pytest

from openarctic.copilot.prune import prune
from openarctic.copilot.schema import Schema

from .test_grammar import SHOP, table

ROME = "Names of the customers from Rome"


@pytest.mark.parametrize(
    ("question", "sql", "pruned"),
    [
        (ROME, "SELECT name FROM customers, orders WHERE city = 'Rome'", "SELECT name FROM customers WHERE city = 'Rome'"),
        (ROME, "SELECT name FROM orders, customers WHERE city = 'Rome'", "SELECT name FROM customers WHERE city = 'Rome'"),
        (ROME, "SELECT name FROM customers, orders, items", "SELECT name FROM customers"),
        ("Quantity by status", "SELECT quantity FROM items, orders, customers", "SELECT quantity FROM items"),
        (
            "Who is from Rome?",
            "SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders, items)",
            "SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders)",
        ),
        (  # the key that is read stands in the other table too
            "How many customers are from Rome?",
            "SELECT COUNT(customer_id) FROM customers, orders WHERE city = 'Rome'",
            "SELECT COUNT(customers.id) FROM customers WHERE city = 'Rome'",
        ),
        (
            "How many orders does Ann have?",
            "SELECT COUNT(order_id) FROM customers, orders, items WHERE name = 'Ann'",
            "SELECT COUNT(orders.id) FROM customers, orders WHERE name = 'Ann'",
        ),
    ],
)
def test_superfluous_tables_go(question: str, sql: str, pruned: str) -> None:
    assert prune(sql, SHOP, question) == pruned


def test_a_column_is_read_elsewhere_only_where_one_key_can_make_it_equal() -> None:
    games = table("games", "id home_id away_id", home_id="teams.id", away_id="teams.id")
    schema = Schema(dialect="sqlite", tables=(table("teams", "id name"), games))
    sql = "SELECT COUNT(away_id) FROM teams, games WHERE name = 'Ajax'"
    assert prune(sql, schema, "How many are from Ajax?") == sql


def test_a_word_that_two_names_share_speaks_of_one() -> None:
    tables = (table("customers", "id phone owes"), table("customer_payments", "customer_id paid", customer_id="customers.id"))
    schema = Schema(dialect="sqlite", tables=tables)
    sql = "SELECT phone FROM customers, customer_payments WHERE owes > 9"
    assert prune(sql, schema, "Phones of customers who owe more than 9") == "SELECT phone FROM customers WHERE owes > 9"
    assert prune(sql, schema, "Phones of customers with payments who owe more than 9") == sql


@pytest.mark.parametrize(
    ("question", "sql"),
    [
        ("Customers with orders", "SELECT name FROM customers, orders"),  # it is spoken of
        ("What did we order from Rome?", "SELECT name FROM customers, orders"),
        (ROME, "SELECT name, status FROM customers, orders"),  # it is read
        (ROME, "SELECT name FROM customers, orders WHERE status = 'open'"),
        ("Products by name", "SELECT name, product FROM customers, orders, items"),  # it joins the others
        (ROME, "SELECT name, COUNT(*) FROM customers, orders GROUP BY name"),  # it is counted
        (ROME, "SELECT * FROM customers, orders"),
        (ROME, "SELECT orders.* FROM customers, orders"),
        (ROME, "SELECT name FROM customers JOIN orders ON customers.id = orders.id"),  # written with a condition
        (ROME, "SELECT name FROM customers EXCEPT SELECT name FROM customers, orders"),
        (ROME, "SELECT t1.name FROM customers AS t1, customers AS t2"),
        (ROME, "SELECT name FROM customers"),
        # the nested query may mean its own column
        (ROME, "SELECT name FROM customers, orders WHERE id IN (SELECT customer_id FROM orders)"),
    ],
)
def test_what_is_needed_stays(question: str, sql: str) -> None:
    assert prune(sql, SHOP, question) == sql


def test_what_is_only_counted_or_shown_by_a_star_goes_where_it_may() -> None:
    for shown in ("COUNT(*)", "*"):
        sql = f"SELECT {shown} FROM customers, orders WHERE city = 'Rome'"
        assert prune(sql, SHOP, "") == sql
        assert prune(sql, SHOP, "", is_careful=False) == f"SELECT {shown} FROM customers WHERE city = 'Rome'"
    sql = "SELECT orders.* FROM customers, orders WHERE city = 'Rome'"
    assert prune(sql, SHOP, "", is_careful=False) == sql
