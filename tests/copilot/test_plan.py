"""Plans: the same clauses in another order, there and back, and in the grammar."""

from __future__ import annotations

import pytest

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.grammar import schema_grammar
from openarctic.copilot.plan import from_plan, to_plan
from openarctic.copilot.sample import sample_database
from openarctic.generator import ScriptedGenerator

from .test_grammar import SHOP, accepts, matcher

BOTH = {
    "SELECT name FROM customers": "FROM customers SELECT name",
    "SELECT DISTINCT city FROM customers WHERE city != 'FROM (' GROUP BY city HAVING COUNT(*) > 1 ORDER BY city LIMIT 3":
        "FROM customers WHERE city != 'FROM (' GROUP BY city HAVING COUNT(*) > 1 SELECT DISTINCT city ORDER BY city LIMIT 3",
    "SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders WHERE NOT id IN (SELECT order_id FROM items))":
        "FROM customers WHERE id IN (FROM orders WHERE NOT id IN (FROM items SELECT order_id) SELECT customer_id) SELECT name",
    "SELECT city FROM customers UNION ALL SELECT city FROM customers WHERE name = 'Ann' EXCEPT SELECT status FROM orders":
        "FROM customers SELECT city UNION ALL FROM customers WHERE name = 'Ann' SELECT city EXCEPT FROM orders SELECT status",
    'SELECT "select" FROM "odd names" WHERE größe = \'it\'\'s\'': 'FROM "odd names" WHERE größe = \'it\'\'s\' SELECT "select"',
    "SELECT COUNT(*) FROM (SELECT DISTINCT city FROM customers)": "FROM (FROM customers SELECT DISTINCT city) SELECT COUNT(*)",
}  # fmt: skip


@pytest.mark.parametrize(("sql", "plan"), BOTH.items())
def test_there_and_back(sql: str, plan: str) -> None:
    assert to_plan(sql) == plan and from_plan(plan) == sql
    assert from_plan(sql) == sql and to_plan(plan) == plan


def test_each_grammar_takes_its_own_form_alone() -> None:
    as_sql, as_plan = matcher(SHOP), matcher(SHOP, schema_grammar(SHOP, "plan"))
    for sql, plan in BOTH.items():
        assert accepts(as_sql, f" {sql}") and accepts(as_plan, f" {plan}"), plan
        assert not accepts(as_sql, f" {plan}") and not accepts(as_plan, f" {sql}")


def test_a_model_that_writes_plans_is_asked_as_any_other() -> None:
    class Planner(ScriptedGenerator):
        target_form = "plan"

    with Copilot(sample_database(), Planner([["FROM regions SELECT COUNT(*)"]])) as copilot:
        answer = copilot.ask("How many regions are there?", AskOptions(candidates=1))
    assert answer.rows == [(4,)] and answer.sql == "SELECT COUNT(*) FROM regions"
