"""Queries in words: nothing that is in the tree is left out, and nothing is said the wrong way round."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from openarctic.copilot.answers.explain import explain
from openarctic.copilot.examples import LinkedSchema
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.synthesis import PATTERNS, Draw
from openarctic.errors import RefusedError

CASES = Path(__file__).parent.parent / "cases"
ADMITTED = [
    (dialect, line)
    for dialect in ("duckdb", "sqlite", "postgres", "snowflake")
    for name in ("pass", "good")
    for line in (CASES / f"{name}_{dialect}.sql").read_text().splitlines()
    if line.strip() and not line.startswith("--")
]


def unsaid(sql: str, dialect: str) -> set[str]:
    """Names and values of the tree that the words do not mention."""
    text = "\n".join(explain(sql, dialect)).lower()
    tree = sqlglot.parse_one(sql, read=dialect)
    names = {c.name for c in tree.find_all(exp.Column) if not isinstance(c.this, exp.Star)}
    names |= {t.name for t in tree.find_all(exp.Table)}
    names |= {part for v in tree.find_all(exp.Literal) for part in v.name.strip("%").split("%")}
    # The parser adds arguments that nobody wrote.
    return {n for n in names if n.lower() in sql.lower() and n.lower() not in text}


@pytest.mark.parametrize(("dialect", "sql"), ADMITTED)
def test_everything_that_the_guard_admits_is_said(dialect: str, sql: str) -> None:
    left_out = unsaid(sql, dialect) - {"Y", "-", "m"}  # time formats are the dialect's own in the words
    if "[" not in sql:  # positions in lists are counted from 0 in the tree
        assert not left_out


def test_synthetic_queries_are_said_whole() -> None:
    table = Table(
        name="orders",
        columns=(
            Column(name="id", type="INT"),
            Column(name="amount", type="REAL"),
            Column(name="state", values=("open", "shut")),
        ),
        primary_key=("id",),
    )
    items = Table(
        name="items",
        columns=(
            Column(name="order_id", type="INT"),
            Column(name="title", values=("Tent", "Rope")),
            Column(name="price", type="REAL"),
        ),
        foreign_keys=(ForeignKey(column="order_id", table="orders", to_column="id"),),
    )
    linked = LinkedSchema(Schema(dialect="sqlite", tables=(table, items)))
    rng, said = random.Random(0), 0
    for _ in range(250):
        pair = rng.choice(PATTERNS)(Draw(linked, rng.choice(linked.schema.tables), rng))
        if pair:
            sql = check(expand(pair[1], linked.schema), "sqlite", linked.schema).sql
            assert not unsaid(sql, "sqlite"), sql
            said += 1
    assert said > 80


@pytest.mark.parametrize(
    ("sql", "steps"),
    [
        (
            "SELECT region, COUNT(*) AS n FROM orders WHERE x > 3 AND (y = 1 OR y IS NULL) GROUP BY region HAVING COUNT(*) > 1 "
            "ORDER BY n DESC LIMIT 3",
            [
                "Read orders.",
                "Keep the rows where x is above 3 and (y is 1 or y is missing).",
                "Make one row for each region.",
                "Keep the groups where the number of rows is above 1.",
                "Show region and the number of rows as n.",
                "Order by n, highest first.",
                "Stop after 3 rows.",
            ],
        ),
        (
            "SELECT a FROM t WHERE NOT (a = 1 OR b IS NOT NULL) AND c NOT IN (SELECT d FROM u) AND e NOT LIKE '%x%' "
            "AND NOT g NOT LIKE 'x%' AND f NOT BETWEEN 1 AND 2 AND NOT EXISTS (SELECT 1 FROM v) AND h IS NOT TRUE",
            [
                "Read t.",
                "Keep the rows where it is not true that (a is 1 or b is known) and c is not among (d in u) "
                "and e does not contain 'x' "
                "and g begins with 'x' and f is outside 1 to 2 and there is no row in (1 in v) "
                "and it is not true that h is true.",
                "Show a.",
            ],
        ),
        (
            "WITH big AS (SELECT * FROM orders WHERE x >= 10) "
            "SELECT c.name, b.x FROM customers c LEFT JOIN big b ON b.cid = c.id",
            [
                "Make big:",
                "   Read orders.",
                "   Keep the rows where x is at least 10.",
                "   Show every column.",
                "Read customers (called c).",
                "Add to each row those of big (called b) where cid of big is id of customers "
                "(where there is none, the row stays and the other's columns are NULL).",
                "Show name of customers and x of big.",
            ],
        ),
        (
            "SELECT name FROM orders o WHERE x > (SELECT AVG(x) FROM orders i WHERE i.region = o.region)",
            [
                "Read orders (called o).",
                "Keep the rows where x is above (the average x in orders (called i) where region of i is region of o).",
                "Show name.",
            ],
        ),
        (
            "SELECT a FROM t EXCEPT ALL SELECT b FROM u ORDER BY 1",
            ["Take the rows of:", "   Read t.", "   Show a.", "Take away the rows that are in:", "   Read u.", "   Show b.",
             "Each takes away one.", "Order by 1, lowest first."],
        ),
        (
            "SELECT a, SUM(x) OVER (PARTITION BY a ORDER BY d DESC) AS s FROM t "
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY a ORDER BY d) = 1",
            [
                "Read t.",
                "Keep the rows where the row number within each a, ordered by d, lowest first is 1.",
                "Show a and the total x within each a, ordered by d, highest first as s.",
            ],
        ),
        ("SELECT DISTINCT region FROM orders CROSS JOIN u LIMIT 1 OFFSET 2",
         ["Read orders.", "Combine every row with every row of u.", "Show region.", "Leave out rows that repeat.", "Skip 2 rows.",
          "Stop after 1 row."]),
    ],
)  # fmt: skip
def test_steps(sql: str, steps: list[str]) -> None:
    assert explain(sql, "duckdb") == steps


def test_a_part_without_words_is_shown_as_sql() -> None:
    assert "x BETWEEN SYMMETRIC 3 AND 1" in explain("SELECT a FROM t WHERE x BETWEEN SYMMETRIC 3 AND 1", "postgres")[1]


def test_what_is_no_sql_is_refused() -> None:
    with pytest.raises(RefusedError, match="understood"):
        explain("SELEC 1 FROM", "duckdb")
