"""Metrics by dimensions, against the same numbers added up row by row in Python."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from openarctic.copilot.semantic.compose import Group, MetricQuery, compose, measure
from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.copilot.semantic.graph import FanOutError, RelationshipGraph
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.metrics import MetricReader
from openarctic.copilot.semantic.model import Metric
from openarctic.errors import UserError
from tests.copilot.semantic.shop import MODEL, Shop

Row = dict[str, Any]


def wide(shop: Shop, table: str) -> Iterable[Row]:
    """Every row of a table with what its keys lead to: joined here, not in SQL."""
    tables = {name: shop.rows(f"SELECT * FROM {name}") for name in ("cities", "clients", "ord", "line", "refund")}
    cities = {c[0]: c for c in tables["cities"]}
    clients = {c[0]: c for c in tables["clients"]}
    orders = {o[0]: o for o in tables["ord"]}
    none = (None,) * 5
    for row in tables[table]:
        order = orders.get(row[0] if table in ("line", "ord") else row[1] if table == "refund" else None, none)
        client = row if table == "clients" else clients.get(order[1], none)
        home, work = cities.get(client[2], none), cities.get(client[3], none)
        yield {
            "row": row, "day": order[2], "state": order[3], "customer_name": client[1], "home_city": home[1],
            "home_country": home[2], "work_city": work[1],
        }  # fmt: skip


def by(rows: Iterable[Row], keys: tuple[str, ...], value: Callable[[Row], float]) -> dict[tuple[Any, ...], float]:
    sums: dict[tuple[Any, ...], float] = defaultdict(float)
    for row in rows:
        sums[tuple(row[key] for key in keys)] += value(row)
    return dict(sums)


def amount(row: Row) -> float:
    return float(row["row"][2] * row["row"][3])


def composed(shop: Shop, metric: str, *groups: tuple[str, str]) -> dict[tuple[Any, ...], Any]:
    layer = shop.layer
    table, _, name = metric.rpartition(".")
    home = layer.model.table(table) if table else None
    found = home.metric(name) if home else next(m for m in layer.model.metrics if m.name == name)
    assert found is not None
    query = MetricQuery((measure(layer, found, home),), tuple(Group(t, f) for t, f in groups))
    return {row[:-1]: row[-1] for row in shop.rows(compose(layer, query).sql(dialect=layer.dialect))}


GROUPS = [
    ("orders", "state"), ("customers", "customer_name"), ("homes", "home_city"), ("homes", "home_country"),
    ("workplaces", "work_city"),
]  # fmt: skip


@pytest.mark.parametrize("groups", [(), *((g,) for g in GROUPS), (GROUPS[0], GROUPS[3]), (GROUPS[3], GROUPS[4])], ids=str)
def test_sums_are_those_of_the_rows(shop: Shop, groups: tuple[tuple[str, str], ...]) -> None:
    keys = tuple(name for _, name in groups)
    revenue = by(wide(shop, "line"), keys, amount)
    assert composed(shop, "lines.revenue", *groups) == pytest.approx(revenue)
    refunds = by(wide(shop, "refund"), keys, lambda row: row["row"][2])
    assert composed(shop, "refunds.refunds_total", *groups) == pytest.approx(refunds)
    # Joined to each other through orders, both would be counted several times.
    every = set(revenue) | set(refunds)
    assert composed(shop, "net", *groups) == pytest.approx({k: revenue.get(k, 0) - refunds.get(k, 0) for k in every})
    lines = by(wide(shop, "line"), keys, lambda row: 1)
    assert composed(shop, "lines.average_line", *groups) == pytest.approx({k: revenue[k] / lines[k] for k in revenue})


def test_counting_rows_twice_is_refused(shop: Shop) -> None:
    with pytest.raises(FanOutError, match="counted several times"):
        composed(shop, "customers.customer_count", ("orders", "state"))
    with pytest.raises(FanOutError, match="counted several times"):
        composed(shop, "net", ("lines", "order_id"))
    with pytest.raises(FanOutError, match="without counting rows twice"):
        RelationshipGraph(shop.layer.model).home(["lines", "refunds"])


def test_two_ways_of_one_length_need_a_word(shop: Shop) -> None:
    text = shop.layer.model.relationships
    both = tuple(r for r in text if r.name.startswith("client_"))
    assert {r.right_table for r in both} == {"homes", "workplaces"}
    twisted = [dataclasses.replace(r, right_table="homes") for r in both]
    model = dataclasses.replace(shop.layer.model, relationships=tuple(twisted))
    graph = RelationshipGraph(model)
    with pytest.raises(UserError, match="client_home or client_work"):
        graph.path("customers", "homes")
    (step,) = graph.path("customers", "homes", ["Client_Work"])
    assert step.relationship == "client_work" and step.pairs == (("work", "city_id"),)


@pytest.mark.parametrize(
    ("question", "groups", "keep"),
    [
        ("What is the turnover?", (), lambda row: True),
        ("Revenue per country", ("home_country",), lambda row: True),
        ("revenue by state and customer name", ("state", "customer_name"), lambda row: True),
        ("revenue of settled orders by home city", ("home_city",), lambda row: row["state"] == "paid"),
        ("total revenue in 2023", (), lambda row: str(row["day"]).startswith("2023")),
        ("revenue in February 2024 by state", ("state",), lambda row: str(row["day"]).startswith("2024-02")),
        ("turnover of customers from France", (), lambda row: row["home_country"] == "France"),
        ("turnover in Germany and France by state", ("state",), lambda row: row["home_country"] in ("Germany", "France")),
    ],
)
def test_questions_become_metric_queries(shop: Shop, question: str, groups: tuple[str, ...], keep: Callable[[Row], bool]) -> None:
    answer = MetricReader(shop.layer).read(question, shop.layer.links(question))
    assert answer is not None and answer.unread == ()
    rows = shop.rows(answer.tree.sql(dialect=shop.layer.dialect))
    wanted = by(filter(keep, wide(shop, "line")), groups, amount)
    assert {row[:-1]: row[-1] for row in rows} == pytest.approx(wanted)


def test_a_table_to_group_by_means_the_field_that_is_called_as_one_of_its_rows(shop: Shop) -> None:
    text = MODEL.replace("homes", "houses").replace("home_city, expr: city", "house_name, expr: city")
    answer = MetricReader(SemanticLayer(parse_cortex(text).model, shop.schema)).read("revenue by houses")
    assert answer is not None and [group.field for group in answer.query.groups] == ["house_name"]


def test_order_limit_and_grain(shop: Shop) -> None:
    reader = MetricReader(shop.layer)

    def rows(question: str) -> list[tuple[Any, ...]]:
        answer = reader.read(question, shop.layer.links(question))
        assert answer is not None and answer.unread == (), question
        return shop.rows(answer.tree.sql(dialect=shop.layer.dialect))

    names = by(wide(shop, "line"), ("customer_name",), amount)
    best = sorted(((value, key[0]) for key, value in names.items()), reverse=True)
    assert rows("top 2 customer names by revenue") == [(name, value) for value, name in best[:2]]
    # Who is asked for alone is all that is returned.
    assert rows("Which customer name has the lowest revenue?") == [(best[-1][1],)]
    nets = composed(shop, "net", ("customers", "customer_name"))
    assert rows("Which customer name has the highest net revenue?") == [max(nets, key=lambda name: nets[name])]
    pieces = [row["row"][2] for row in wide(shop, "line")]
    assert rows("minimum and maximum pieces") == [(min(pieces), max(pieces))]
    assert rows("how many purchases are open") == [(2,)]
    months = rows("monthly number of orders in 2023")
    assert [str(m)[:7] for m, _ in months] == ["2023-01", "2023-02", "2023-12"] and [n for _, n in months] == [1, 1, 1]
    quarters = rows("revenue by quarter in 2024")
    assert len(quarters) == 1 and quarters[0][1] == 103.0 + 8.0 + 9.0


@pytest.mark.parametrize(
    "question",
    [
        "revenue by weather in the galaxy tonight maybe",
        "revenue without refunds",
        "customers with revenue by nothing known here",
        "number of customers by state",
        "What is the meaning of life?",
        "refund_rate by order_id of lines",
        "states with at least 2 purchases by revenue",
        "revenue of the highest home city",
        "What are the pieces?",
        "",
    ],
)
def test_what_is_not_understood_is_left_to_the_model(shop: Shop, question: str) -> None:
    assert MetricReader(shop.layer).read(question, shop.layer.links(question)) is None


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("amount", "aggregates nothing"),
        ("SUM(SUM(amount))", "an aggregate inside an aggregate"),
        ("SUM(amount) + pieces", "outside of an aggregate"),
        ("SUM(nothing)", "names nothing, which lines does not have"),
        ("SUM(amount) OVER ()", "a window or a subquery"),
        ("worse", "comes back to itself"),
        ("SUM(galaxy.amount)", "there is no table galaxy"),
        ("SUM(", "is not a SQL expression"),
    ],
)
def test_metrics_that_cannot_be_composed_say_why(shop: Shop, expr: str, said: str) -> None:
    lines = shop.layer.model.table("lines")
    assert lines is not None
    metric = Metric(name="worse", expr=expr)
    changed = dataclasses.replace(lines, metrics=(*lines.metrics, metric))
    model = dataclasses.replace(
        shop.layer.model, tables=tuple(changed if t.name == "lines" else t for t in shop.layer.model.tables)
    )
    layer = SemanticLayer(model, shop.schema)
    with pytest.raises(UserError, match=said):
        compose(layer, MetricQuery((measure(layer, metric, changed),)))
