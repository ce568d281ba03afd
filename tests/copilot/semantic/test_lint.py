"""Every kind of finding, on models that are wrong in one way each, and none on one that is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.copilot.semantic.lint import Finding, lint
from openarctic.copilot.semantic.probe import Probe
from tests.copilot.semantic.shop import MODEL, Shop


@pytest.fixture(scope="module")
def probe(shop: Shop) -> Iterator[Probe]:
    with Probe(shop.database, shop.schema) as made:
        yield made


def findings(shop: Shop, probe: Probe | None, *changes: tuple[str, str]) -> list[Finding]:
    text = MODEL
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return lint(parse_cortex(text).model, shop.schema, probe)


def told(found: list[Finding], level: str) -> set[tuple[str, str]]:
    return {(f.rule, f.place) for f in found if f.level == level}


def test_a_right_model_has_no_errors(shop: Shop, probe: Probe) -> None:
    found = findings(shop, probe)
    assert told(found, "error") == set()
    # `customers.home` and `.work` are other columns' names for what stands in home_city and work_city; nothing else is doubtful.
    assert {rule for rule, _ in told(found, "warning")} == {"no-description"}
    fan_outs = {f.place: f.message for f in found if f.rule == "fan-out"}
    assert "by lines, orders, refunds rows would be counted several times" in fan_outs["tables.customers"]
    assert "tables.lines" in fan_outs and "refunds" in fan_outs["tables.lines"]
    orphans = {f.place: f for f in found if f.rule == "orphans"}
    assert set(orphans) == {"relationships.line_order"} and "1 of 7 keys" in orphans["relationships.line_order"].message


LINES = "- name: lines\n"
ONE_DIALECT = pytest.mark.parametrize("shop", ["sqlite"], indirect=True, scope="package")  # the queries are the same in both
ERRORS = [
    ("unknown-table", "tables.lines", ("{table: line}", "{table: lin}")),
    ("unknown-column", "tables.orders.state", ("{name: state, expr: st,", "{name: state, expr: stat,")),
    ("unknown-column", "tables.refunds", ("{columns: [rid]}", "{columns: [rids]}")),
    ("bad-expression", "tables.lines.pieces", ("expr: qty, default", "expr: qty +, default")),
    ("bad-expression", "tables.lines.pieces", ("expr: qty, default", "expr: SUM(qty), default")),
    ("bad-expression", "tables.orders.is_open", ("expr: st = 'open'", "expr: clients.nm = 'x'")),
    ("bad-expression", "tables.orders.settled", ("expr: state = 'paid'", "expr: nothing = 'paid'")),
    ("bad-filter", "tables.orders.settled", ("expr: state = 'paid'", "expr: COUNT(*) > 1")),
    ("bad-metric", "tables.lines.revenue", ("expr: SUM(amount)", "expr: amount")),
    ("bad-metric", "metrics.net", ("lines.revenue - refunds", "lines.revenues - refunds")),
    ("bad-metric", "metrics.net", ("expr: lines.revenue - refunds.refunds_total", "expr: SUM(lines.amount * refunds.refunded)")),
    ("duplicate-name", "tables.orders", (LINES, "- name: orders\n")),
    ("duplicate-name", "tables.orders.client_id", ("{name: is_open,", "{name: client_id,")),
    ("duplicate-name", "relationships.line_order", ("name: refund_order", "name: line_order")),
    ("duplicate-name", "metrics.net", ("name: refund_rate", "name: net")),
    ("unknown-table", "relationships.line_order", ("right_table: orders", "right_table: order")),
    ("unknown-column", "relationships.refund_order", ("{left_column: oid, right", "{left_column: o, right")),
    ("not-unique", "relationships.order_client", ("{left_column: client_id, right_column: client_id}",
                                                  "{left_column: client_id, right_column: customer_name}")),
    ("not-unique", "tables.customers", ("primary_key: {columns: [cid]}", "primary_key: {columns: [customer_name]}")),
    ("not-unique", "tables.customers.customer_name", ("{name: customer_name, expr", "{name: customer_name, unique: true, expr")),
    ("not-unique", "relationships.line_order", ("name: line_order,", "name: line_order, relationship_type: one_to_one,")),
]  # fmt: skip


@ONE_DIALECT
@pytest.mark.parametrize(("rule", "place", "change"), ERRORS, ids=[f"{rule} {place}" for rule, place, _ in ERRORS])
def test_errors(shop: Shop, probe: Probe, rule: str, place: str, change: tuple[str, str]) -> None:
    assert (rule, place) in told(findings(shop, probe, change), "error")


WARNINGS = [
    ("duplicate-synonym", "tables.lines.revenue", ("synonyms: [turnover]", "synonyms: [purchases]")),
    ("name-clash", "tables.lines.revenue", ("synonyms: [turnover]", "synonyms: [customer name]")),
    ("name-clash", "tables.lines.price", ("{name: amount, expr", "{name: price, expr")),
    ("name-clash", "tables.ord", ("- name: refunds\n", "- name: ord\n")),
    ("open-enum", "tables.orders.state", ("sample_values: [paid, open]", "is_enum: true, sample_values: [paid]")),
    ("empty-enum", "tables.orders.state", ("sample_values: [paid, open]", "is_enum: true")),
    ("personal-values", "tables.customers.customer_name", ("expr: nm", "expr: nm, sample_values: [Ada]")),
    ("orphans", "relationships.line_order", ("name: line_order, left", "name: line_order, join_type: inner, left")),
]


@ONE_DIALECT
@pytest.mark.parametrize(("rule", "place", "change"), WARNINGS, ids=[f"{rule} {place}" for rule, place, _ in WARNINGS])
def test_warnings(shop: Shop, probe: Probe, rule: str, place: str, change: tuple[str, str]) -> None:
    found = findings(shop, probe, change)
    assert (rule, place) in told(found, "warning"), [str(f) for f in found]


@ONE_DIALECT
@pytest.mark.parametrize(
    ("rule", "level", "query"),
    [
        ("does-not-run", "error", "{question: q, sql: SELECT nothing FROM orders}"),
        ("does-not-run", "error", "{question: q, sql: SELECT 1 FROM nowhere}"),
        ("does-not-run", "error", "{question: q, sql: DELETE FROM orders}"),
        ("does-not-run", "error", "{question: q, sql: 'SELECT ('}"),
        ("does-not-run", "error", "{question: q, sql: SELECT * FROM read_csv('x')}"),
        ("no-rows", "warning", "{question: q, sql: SELECT order_id FROM orders WHERE state = 'lost'}"),
        ("future-date", "warning", "{question: q, sql: SELECT 1, verified_at: 9999999999}"),
        ("no-question", "error", "{question: '?', sql: SELECT 1}"),
        ("duplicate-question", "error", "{question: q, sql: SELECT 1}\n- {question: Q?, sql: SELECT 2}"),
        ("no-verifier", "note", "{question: q, sql: SELECT 1}"),
    ],
)
def test_verified_queries(shop: Shop, probe: Probe, rule: str, level: str, query: str) -> None:
    found = findings(shop, probe, ("metrics:\n- {name: net", f"verified_queries:\n- {query}\nmetrics:\n- {{name: net"))
    assert rule in {f.rule for f in found if f.level == level and f.place.startswith("verified_queries")}, [str(f) for f in found]


def test_keys_that_nothing_declares_are_doubtful_without_data(shop: Shop) -> None:
    change = ("{left_column: client_id, right_column: client_id}", "{left_column: client_id, right_column: customer_name}")
    found = findings(shop, None, change)
    assert ("not-declared-unique", "relationships.order_client") in told(found, "warning") and told(found, "error") == set()


def test_a_model_is_checked_without_a_database(tmp_path: Path) -> None:
    model = parse_cortex(MODEL.replace("name: refund_rate", "name: net")).model
    assert {f.rule for f in lint(model) if f.level == "error"} == {"duplicate-name"}
