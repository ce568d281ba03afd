"""One spelling a name: what is one name to the guard is one name to the engine."""

from __future__ import annotations

import pytest

from openarctic.copilot.guard import check
from openarctic.copilot.schema import Column, Schema, Table
from openarctic.errors import RefusedError


def schema(dialect: str, *tables: tuple[str, str], namespace: str = "") -> Schema:
    made = tuple(Table(name=name, columns=tuple(Column(name=c) for c in columns.split())) for name, columns in tables)
    return Schema(dialect=dialect, tables=made, namespace=namespace)


SHOP = (("Orders", "Id customer"), ("customers", "id Name"), ("salaries", "pay"))
UPPER = (("ORDERS", "ID CUSTOMER"), ("customers", "id NAME"), ("SALARIES", "PAY"))


@pytest.mark.parametrize(
    ("dialect", "sql", "wanted"),
    [
        ("postgres", "SELECT ID FROM orders", 'SELECT "Id" FROM "Orders"'),
        ("postgres", "SELECT o.id AS N FROM ORDERS AS o ORDER BY n", 'SELECT o."Id" AS N FROM "Orders" AS o ORDER BY n'),
        ("postgres", "SELECT name FROM customers", 'SELECT "Name" FROM customers'),
        ("postgres", 'SELECT pay AS "Total" FROM salaries ORDER BY total',
         'SELECT pay AS "Total" FROM salaries ORDER BY "Total"'),
        ("postgres", "SELECT orders.id, customers.ID FROM orders, customers",
         'SELECT "Orders".id, customers.ID FROM "Orders", customers'),  # Id and id are both there: as they are written
        ("snowflake", 'SELECT "id" FROM "Orders"', 'SELECT "ID" FROM "ORDERS"'),
        ("snowflake", "SELECT id FROM orders", "SELECT id FROM orders"),
        ("snowflake", "SELECT name FROM customers", 'SELECT name FROM "customers"'),
        ("duckdb", "SELECT ID FROM orders", "SELECT ID FROM orders"),
        ("sqlite", 'SELECT "pay" FROM SALARIES', 'SELECT "pay" FROM SALARIES'),
    ],
)  # fmt: skip
def test_names_take_the_spelling_of_the_database(dialect: str, sql: str, wanted: str) -> None:
    tables = UPPER if dialect == "snowflake" else SHOP
    assert (
        check(sql, dialect, schema(dialect, *tables)).sql.replace("NULLS LAST", "").replace("NULLS FIRST", "").rstrip() == wanted
    )


@pytest.mark.parametrize(
    ("dialect", "one", "other"),
    [
        ("postgres", '"Salaries"', "salaries"),
        ("postgres", "salaries", '"SALARIES"'),
        ("snowflake", '"salaries"', "salaries"),
        ("snowflake", "SALARIES", '"salaries"'),
        ("sqlite", '"Lo\N{KELVIN SIGN}"', '"lok"'),
        ("duckdb", '"GEH\N{LATIN CAPITAL LETTER A WITH DIAERESIS}LTER"', '"geh\N{LATIN SMALL LETTER A WITH DIAERESIS}lter"'),
    ],
)
def test_a_cte_hides_a_table_from_the_guard_only_where_it_hides_it_from_the_engine(dialect: str, one: str, other: str) -> None:
    checked = check(f"WITH {one} AS (SELECT 1 AS a) SELECT a FROM {other}", dialect, schema(dialect, ("orders", "a")))
    assert checked.tables == ()
    words = checked.sql.split()
    assert as_read(words[1], dialect) == as_read(words[-1], dialect)


def as_read(word: str, dialect: str) -> str:
    """What the engine takes an identifier for."""
    if dialect in ("sqlite", "duckdb"):
        return "".join(c.lower() if c.isascii() else c for c in word.strip('"'))
    return word.strip('"') if word.startswith('"') else word.lower() if dialect == "postgres" else word.upper()


def test_tables_of_another_schema_are_not_taken_for_ours() -> None:
    sales = schema("postgres", ("orders", "id"), namespace="sales")
    assert check("SELECT sales.orders.id FROM Sales.orders", "postgres", sales).sql == "SELECT orders.id FROM orders"
    for other in ("public", "main", "pg_catalog"):
        with pytest.raises(RefusedError, match="qualified by a schema"):
            check(f"SELECT id FROM {other}.orders", "postgres", sales)
    assert check("SELECT id FROM public.orders", "postgres", schema("postgres", ("orders", "id"))).sql == "SELECT id FROM orders"
