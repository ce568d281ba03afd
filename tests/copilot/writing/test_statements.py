"""SQL of generated code: targets may be written, nothing else; reads pass the guard."""

from __future__ import annotations

import pytest

from openarctic.copilot.guard import DIALECTS
from openarctic.copilot.writing.statements import Statements
from openarctic.errors import RefusedError

from .world import shop

CREATE = "CREATE TABLE IF NOT EXISTS revenue (month date PRIMARY KEY, total numeric(10, 2) NOT NULL DEFAULT 0)"
GOOD = (
    CREATE,
    "INSERT INTO revenue (month, total) SELECT ordered_on, sum(amount) FROM orders GROUP BY ordered_on",
    "INSERT INTO revenue (month, total) VALUES ('2024-01-01', 3), ('2024-02-01', DEFAULT)",
    "INSERT INTO revenue SELECT ordered_on, amount FROM orders WHERE true "
    "ON CONFLICT (month) DO UPDATE SET total = excluded.total",
    "UPDATE revenue SET total = o.amount FROM orders AS o WHERE o.ordered_on = revenue.month",
    "DELETE FROM revenue WHERE month IN (SELECT ordered_on FROM orders)",
    "WITH big AS (SELECT ordered_on, amount FROM orders WHERE amount > 3) INSERT INTO revenue SELECT ordered_on, amount FROM big",
    "MERGE INTO revenue AS r USING (SELECT ordered_on AS d, amount AS a FROM orders) AS s ON r.month = s.d "
    "WHEN MATCHED THEN UPDATE SET total = s.a WHEN NOT MATCHED THEN INSERT (month, total) VALUES (s.d, s.a)",
    "TRUNCATE TABLE revenue",
    "CREATE TEMPORARY TABLE few AS SELECT id, name FROM customers",
    "SELECT name FROM few",
    "DROP TABLE IF EXISTS revenue",
)
BAD = (
    ("DELETE FROM orders", "not_permitted"),
    ("UPDATE customers SET name = ''", "not_permitted"),
    ("INSERT INTO customers SELECT * FROM customers", "not_permitted"),
    ("MERGE INTO orders AS o USING customers AS c ON o.id = c.id WHEN MATCHED THEN UPDATE SET amount = 0", "not_permitted"),
    ("TRUNCATE TABLE revenue, orders", "not_permitted"),
    ("DROP TABLE orders", "not_permitted"),
    ("DROP TABLE revenue, orders", "not_permitted"),
    ("DROP TABLE revenue CASCADE", "not_a_read"),
    ("DROP SCHEMA public", "not_a_read"),
    ("CREATE TABLE orders (id int)", "not_permitted"),
    ("CREATE TEMPORARY TABLE orders (id int)", "not_permitted"),
    ("CREATE TABLE revenue (month int REFERENCES orders (id))", "not_permitted"),
    ("CREATE TABLE revenue AS SELECT pg_read_file('/etc/passwd') AS a", "forbidden_function"),
    ("CREATE TABLE revenue (month date, total int CHECK (pg_sleep(9) IS NULL))", "forbidden_function"),
    ("CREATE TABLE revenue (month date, total int, CHECK (total > nothing))", "unknown_column"),
    ("CREATE TABLE revenue (month date, total int DEFAULT pg_sleep(9))", "forbidden_function"),
    ("CREATE TABLE revenue (month date, total int GENERATED ALWAYS AS (length(pg_read_file('x'))) STORED)", "not_permitted"),
    ("CREATE VIEW revenue AS SELECT 1 AS a", "not_a_read"),
    ("CREATE FUNCTION f() RETURNS int AS 'x'", "not_a_read"),
    ("INSERT INTO revenue (month, totl) VALUES (1, 2)", "unknown_column"),
    ("INSERT INTO revenue (month) SELECT ordered_on, amount FROM orders", "unparsable"),
    ("INSERT INTO revenue (month, total) VALUES (1, pg_sleep(9))", "forbidden_function"),
    ("UPDATE revenue SET total = nothing", "unknown_column"),
    ("UPDATE revenue SET nothing = 1", "unknown_column"),
    ("DELETE FROM revenue WHERE month = (SELECT secret FROM orders)", "unknown_column"),
    ("INSERT INTO other.revenue SELECT ordered_on, amount FROM orders", "not_permitted"),
    ("SELECT 1; SELECT 2", "not_a_read"),
    ("GRANT ALL ON orders TO public", "not_a_read"),
    ("COPY revenue FROM '/etc/passwd'", "not_a_read"),
    ("CALL f()", "not_a_read"),
    ("ALTER TABLE revenue ADD COLUMN x int", "not_a_read"),
    ("SELECT * FROM nowhere", "unknown_table"),
    ("SELEC 1", None),
)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_targets_are_written_and_what_was_made_is_known(dialect: str) -> None:
    statements = Statements(shop(dialect), ["Revenue"])
    for sql in GOOD:
        if not (dialect == "snowflake" and "ON CONFLICT" in sql):
            statements.check(sql)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("sql", "kind"), BAD)
def test_nothing_else_is(dialect: str, sql: str, kind: str | None) -> None:
    statements = Statements(shop(dialect), ["revenue"])
    statements.check(CREATE)
    with pytest.raises(RefusedError) as refused:
        statements.check(sql)
    assert kind in (None, refused.value.type) or refused.value.type == "unparsable"


@pytest.mark.parametrize("dialect", ["postgres", "duckdb"])
def test_a_write_inside_of_a_read_is_refused(dialect: str) -> None:
    statements = Statements(shop(dialect), ["revenue"])
    statements.check(CREATE)
    for sql in (
        "WITH gone AS (DELETE FROM orders RETURNING ordered_on, amount) INSERT INTO revenue SELECT ordered_on, amount FROM gone",
        "WITH gone AS (DELETE FROM revenue RETURNING month) SELECT * FROM gone",
        "SELECT * INTO copied FROM orders",
    ):
        with pytest.raises(RefusedError):
            statements.check(sql)


def test_hints_name_the_nearest() -> None:
    statements = Statements(shop("postgres"), ["revenue"])
    with pytest.raises(RefusedError) as refused:
        statements.check("INSERT INTO revenu SELECT 1")
    assert refused.value.hint == "did you mean revenue?"
    with pytest.raises(RefusedError) as refused:
        Statements(shop("postgres")).check("DELETE FROM orders")
    assert "nothing may be changed" in (refused.value.hint or "")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_columns_of_a_read(dialect: str) -> None:
    statements = Statements(shop(dialect))
    assert [c.lower() for c in statements.check("SELECT *, amount + 1 AS more FROM orders")] == [
        "id",
        "customer_id",
        "amount",
        "ordered_on",
        "more",
    ]
