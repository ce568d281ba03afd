"""Logical names become physical ones: the same rows as SQL that was written over the base tables by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openarctic.copilot.prompt import schema_text
from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.errors import UserError
from tests.copilot.files import write_both
from tests.copilot.semantic.shop import MODEL, SCRIPT, Shop

PAIRS = [
    ("SELECT COUNT(*) FROM __orders", "SELECT COUNT(*) FROM ord"),
    ("SELECT state, COUNT(*) AS n FROM orders GROUP BY state ORDER BY 1", "SELECT st, COUNT(*) FROM ord GROUP BY st ORDER BY 1"),
    ("SELECT O.State FROM ORDERS AS O WHERE o.order_id = 2", "SELECT st FROM ord WHERE oid = 2"),
    ("SELECT SUM(amount) FROM lines", "SELECT SUM(qty * price) FROM line"),
    ("SELECT SUM(pieces * 2) FROM lines WHERE order_id > 1", "SELECT SUM(qty * 2) FROM line WHERE oid > 1"),
    (
        "SELECT c.customer_name, l.amount FROM lines l JOIN orders o ON l.order_id = o.order_id JOIN customers c ON "
        "o.client_id = c.client_id WHERE o.is_open ORDER BY 1, 2",
        "SELECT nm, qty * price FROM line JOIN ord ON line.oid = ord.oid JOIN clients ON ord.cid = clients.cid "
        "WHERE st = 'open' ORDER BY 1, 2",
    ),
    # Two roles of one table.
    (
        "SELECT h.home_city, w.work_city FROM customers c JOIN homes h ON c.home = h.city_id JOIN workplaces w ON c.work = "
        "w.city_id ORDER BY c.client_id",
        "SELECT a.city, b.city FROM clients c JOIN cities a ON c.home_city = a.city_id JOIN cities b ON c.work_city = b.city_id "
        "ORDER BY c.cid",
    ),
    # A CTE hides the logical table of its name, there alone.
    (
        "WITH orders AS (SELECT order_id AS x FROM __orders WHERE state = 'open') SELECT x FROM orders ORDER BY x",
        "SELECT oid FROM ord WHERE st = 'open' ORDER BY oid",
    ),
    ("SELECT * FROM workplaces WHERE city_id = 2", "SELECT city_id, city FROM cities WHERE city_id = 2"),
    (
        "SELECT customer_name FROM customers WHERE client_id NOT IN (SELECT client_id FROM orders WHERE client_id IS NOT NULL "
        "UNION SELECT 77) ORDER BY 1",
        "SELECT nm FROM clients WHERE cid NOT IN (SELECT cid FROM ord WHERE cid IS NOT NULL UNION SELECT 77) ORDER BY 1",
    ),
    # Names of the database stay usable.
    ("SELECT rid FROM refund ORDER BY rid DESC LIMIT 1", "SELECT MAX(rid) FROM refund"),
    ("SELECT SUM(refunded) AS refunded FROM refunds WHERE rid > 1", "SELECT SUM(amt) FROM refund WHERE rid > 1"),
]


@pytest.mark.parametrize(("logical", "plain"), PAIRS)
def test_the_rows_are_those_of_the_sql_written_by_hand(shop: Shop, logical: str, plain: str) -> None:
    assert shop.rows(shop.layer.physical(logical).sql(dialect=shop.layer.dialect)) == shop.rows(plain)


def test_names_that_are_the_same_stay_plain(shop: Shop) -> None:
    model, _ = parse_cortex(
        "name: x\ntables:\n- name: ord\n  base_table: {database: d, schema: s, table: ord}\n  dimensions: [{name: st, expr: st}, "
        "{name: oid, expr: oid}]\n"
    )
    layer = SemanticLayer(model, shop.schema)
    assert layer.physical("SELECT st FROM __ord").sql() == "SELECT st FROM ord AS __ord"
    assert layer.physical("SELECT st FROM d.s.ord AS o").sql() == "SELECT st FROM ord AS o"
    # All columns of the logical table are not all of the base table.
    assert "SELECT ord.st AS st, ord.oid AS oid FROM ord" in layer.physical("SELECT * FROM ord").sql()


def test_snowflake_functions_are_understood(shop: Shop) -> None:
    tree = shop.layer.physical("SELECT SUM(IFF(state = 'open', 1, 0)) FROM orders")
    assert shop.rows(tree.sql(dialect=shop.layer.dialect)) == [(2,)]


@pytest.mark.parametrize(
    ("sql", "said"),
    [("DELETE FROM orders", "is not a query"), ("SELEC 1", "not a"), ("", "not a SQL query"), ("SELECT (", "not a")],
)
def test_what_is_no_query_is_refused(shop: Shop, sql: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        shop.layer.physical(sql)


def test_the_overlaid_schema_is_what_the_model_tells(shop: Shop) -> None:
    text = schema_text(shop.layer.schema)
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert lines == {
        "cities": "city_id, city (Bonn/Lyon/Paris/Rome), country (France/Germany)",
        "clients": "cid, nm (Ada/Ben/Cleo), home_city > cities, work_city > cities",
        "ord": "oid, cid > clients, dt, st (open/paid)",
        "line": "oid > ord, no, qty",  # the price is only in a private fact
        "refund": "rid, oid > ord, amt",
    }
    assert shop.layer.schema.table("ord") is not None


def test_the_logical_schema_is_what_a_model_writes_for(shop: Shop) -> None:
    lines = dict(line.split(": ", 1) for line in schema_text(shop.layer.logical).splitlines())
    assert lines == {
        "orders": "order_id, client_id > customers, state (open/paid), is_open, ordered",
        "lines": "order_id > orders, pieces",
        "refunds": "order_id > orders, refunded",  # the relationship names the column below the field
        "customers": "client_id, customer_name (Ada/Ben/Cleo), home > homes, work > workplaces",
        "homes": "city_id, home_city (Bonn/Lyon/Paris/Rome), home_country (France/Germany)",
        "workplaces": "city_id, work_city (Bonn/Lyon/Paris/Rome)",
    }
    gone = dataclasses.replace(
        shop.schema,
        tables=tuple(
            dataclasses.replace(t, columns=tuple(c for c in t.columns if c.name != "st"))
            for t in shop.schema.tables
            if t.name != "refund"
        ),
    )
    seen = SemanticLayer(shop.layer.model, gone).logical
    orders = seen.table("orders")
    assert orders is not None and orders.column_names == {"order_id", "client_id", "ordered"} and seen.table("refunds") is None
    assert SemanticLayer(dataclasses.replace(shop.layer.model, tables=()), shop.schema).logical is shop.schema


def test_descriptions_and_samples_are_laid_over(shop: Shop) -> None:
    bare = dataclasses.replace(
        shop.schema,
        tables=tuple(
            dataclasses.replace(t, columns=tuple(dataclasses.replace(c, values=()) for c in t.columns))
            for t in shop.schema.tables
        ),
    )
    text = MODEL.replace("- name: orders\n", "- name: orders\n  description: What was ordered\n", 1)
    text = text.replace("{name: state,", "{name: state, description: Open or paid,")
    table = SemanticLayer(parse_cortex(text).model, bare).schema.table("ord")
    assert table is not None and table.comment == "What was ordered"
    state = table.column("st")
    assert state is not None and (state.comment, state.values) == ("Open or paid", ("paid", "open"))


def test_private_columns_and_unknown_tables_are_not_shown(tmp_path: Path) -> None:
    shop = Shop(
        write_both(tmp_path, SCRIPT)["sqlite"],
        MODEL.replace("{name: state, expr", "{name: state, access_modifier: private_access, expr"),
    )
    with shop.worker:
        orders = shop.layer.schema.table("ord")
        assert orders is not None and orders.column("st") is None and orders.column("dt") is not None
        gone = dataclasses.replace(shop.schema, tables=tuple(t for t in shop.schema.tables if t.name != "refund"))
        layer = SemanticLayer(shop.layer.model, gone)
        assert layer.schema.table("refund") is None and layer.schema.table("line") is not None
        # The name still leads to the table that is not there, so that the guard can say so.
        assert "refund" in layer.physical("SELECT COUNT(*) FROM refunds").sql()


def test_expressions_that_go_round_are_refused(shop: Shop) -> None:
    model, _ = parse_cortex(
        "name: x\ntables:\n- name: t\n  base_table: {table: ord}\n  facts: [{name: a, expr: b + 1}, {name: b, expr: a + 1}]\n"
    )
    with pytest.raises(UserError, match="comes back to itself"):
        SemanticLayer(model, shop.schema).physical("SELECT a FROM t")
