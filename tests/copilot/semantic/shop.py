"""A small shop in SQLite and DuckDB whose joins are full of traps: orders without customers, items without orders, refunds beside
items, two ways to a city, missing and equal names."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import check
from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.copilot.semantic.layer import SemanticLayer
from tests.copilot.files import write_both

SCRIPT = """
CREATE TABLE cities (city_id INTEGER PRIMARY KEY, city VARCHAR, country VARCHAR);
CREATE TABLE clients (cid INTEGER PRIMARY KEY, nm VARCHAR, home_city INTEGER, work_city INTEGER);
CREATE TABLE ord (oid INTEGER PRIMARY KEY, cid INTEGER, dt DATE, st VARCHAR);
CREATE TABLE line (oid INTEGER, no INTEGER, qty INTEGER, price DOUBLE, PRIMARY KEY (oid, no));
CREATE TABLE refund (rid INTEGER PRIMARY KEY, oid INTEGER, amt DOUBLE);
INSERT INTO cities VALUES (1, 'Bonn', 'Germany'), (2, 'Paris', 'France'), (3, 'Lyon', 'France'), (4, 'Rome', NULL);
INSERT INTO clients VALUES (1, 'Ada', 1, 2), (2, 'Ben', 2, 2), (3, 'Cleo', 4, 1), (4, 'Ada', 3, NULL);
INSERT INTO ord VALUES (1, 1, '2023-01-05', 'paid'), (2, 1, '2023-02-10', 'open'), (3, 2, '2024-02-11', 'paid'),
  (4, NULL, '2024-03-01', 'paid'), (5, 3, '2024-03-09', 'open'), (6, 4, '2023-12-31', 'paid');
INSERT INTO line VALUES (1, 1, 2, 10.0), (1, 2, 1, 5.0), (2, 1, 3, 7.0), (3, 1, 1, 100.0), (3, 2, 2, 1.5), (4, 1, 4, 2.0),
  (5, 1, 1, 9.0), (6, 1, 10, 0.5), (99, 1, 1, 1000.0);
INSERT INTO refund VALUES (1, 1, 3.0), (2, 1, 4.0), (3, 3, 50.0), (4, 4, 1.0);
"""
MODEL = """
name: shop
tables:
- name: orders
  synonyms: [purchases]
  base_table: {table: ord}
  primary_key: {columns: [order_id]}
  dimensions:
  - {name: order_id, expr: oid}
  - {name: client_id, expr: cid}
  - {name: state, expr: st, sample_values: [paid, open]}
  - {name: is_open, expr: st = 'open'}
  time_dimensions:
  - {name: ordered, expr: dt}
  filters:
  - {name: settled, synonyms: [paid], expr: state = 'paid'}
  metrics:
  - {name: order_count, synonyms: [number of orders], expr: COUNT(*)}
- name: lines
  base_table: {table: line}
  primary_key: {columns: [oid, no]}
  dimensions: [{name: order_id, expr: oid}]
  facts:
  - {name: pieces, expr: qty, default_aggregation: sum}
  - {name: amount, expr: qty * price, access_modifier: private_access}
  metrics:
  - {name: revenue, synonyms: [turnover], expr: SUM(amount)}
  - {name: average_line, expr: revenue / COUNT(*)}
- name: refunds
  base_table: {table: refund}
  primary_key: {columns: [rid]}
  dimensions: [{name: order_id, expr: oid}]
  facts: [{name: refunded, expr: amt}]
  metrics: [{name: refunds_total, synonyms: [refund sum], expr: SUM(refunded)}]
- name: customers
  base_table: {table: clients}
  primary_key: {columns: [cid]}
  dimensions:
  - {name: client_id, expr: cid}
  - {name: customer_name, expr: nm}
  - {name: home, expr: home_city}
  - {name: work, expr: work_city}
  metrics: [{name: customer_count, synonyms: [number of customers], expr: COUNT(cid)}]
- name: homes
  base_table: {table: cities}
  primary_key: {columns: [city_id]}
  dimensions:
  - {name: city_id, expr: city_id}
  - {name: home_city, expr: city}
  - {name: home_country, synonyms: [country], expr: country}
- name: workplaces
  base_table: {table: cities}
  primary_key: {columns: [city_id]}
  dimensions: [{name: city_id, expr: city_id}, {name: work_city, expr: city}]
relationships:
- {name: line_order, left_table: lines, right_table: orders,
   relationship_columns: [{left_column: order_id, right_column: order_id}]}
- {name: refund_order, left_table: refunds, right_table: orders,
   relationship_columns: [{left_column: oid, right_column: oid}]}
- {name: order_client, left_table: orders, right_table: customers,
   relationship_columns: [{left_column: client_id, right_column: client_id}]}
- {name: client_home, left_table: customers, right_table: homes,
   relationship_columns: [{left_column: home, right_column: city_id}]}
- {name: client_work, left_table: customers, right_table: workplaces,
   relationship_columns: [{left_column: work, right_column: city_id}]}
metrics:
- {name: net, synonyms: [net revenue], expr: lines.revenue - refunds.refunds_total}
- {name: refund_rate, expr: refunds.refunds_total / lines.revenue}
"""


class Shop:
    """The shop in one dialect, with its semantic layer."""

    def __init__(self, path: Path, model: str = MODEL) -> None:
        self.database = open_database(path)
        self.schema = read_schema(self.database)
        self.layer = SemanticLayer(parse_cortex(model).model, self.schema)
        self.worker = Worker(self.database)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """What a statement returns after the guard has passed it."""
        return self.worker.execute(check(sql, self.schema.dialect, self.schema)).rows


@pytest.fixture(scope="package", params=["sqlite", "duckdb"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    made = Shop(write_both(tmp_path_factory.mktemp("shop"), SCRIPT)[request.param])
    yield made
    made.worker.close()
