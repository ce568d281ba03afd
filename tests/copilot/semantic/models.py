"""Semantic models for the tests: one over the bundled sample, and random ones full of what YAML finds special."""

from __future__ import annotations

import dataclasses
import random
from datetime import date
from typing import Any

from openarctic.copilot.semantic import model as m

SALES = """\
name: outdoor_sales
description: Orders of Northwind Outdoor
tables:
  - name: orders
    synonyms: [purchases]
    description: One row an order
    base_table: {database: retail, schema: main, table: orders}
    primary_key: {columns: [order_id]}
    dimensions:
      - {name: order_id, expr: order_id, data_type: INTEGER, unique: true}
      - {name: customer_id, expr: customer_id, data_type: INTEGER}
      - {name: store_id, expr: store_id, data_type: INTEGER}
      - {name: state, synonyms: [order status], expr: status, data_type: VARCHAR, sample_values: [delivered, shipped]}
    time_dimensions:
      - {name: ordered_on, synonyms: [order date], expr: order_date, data_type: DATE}
    filters:
      - {name: finished, synonyms: [completed], description: Delivered orders, expr: status = 'delivered'}
    metrics:
      - {name: order_count, synonyms: [number of orders], expr: COUNT(*)}
  - name: items
    base_table: {table: order_items}
    primary_key: {columns: [order_item_id]}
    dimensions:
      - {name: order_item_id, expr: order_item_id, data_type: INTEGER}
      - {name: order_id, expr: order_id, data_type: INTEGER}
      - {name: product_id, expr: product_id, data_type: INTEGER}
    facts:
      - {name: units, synonyms: [pieces], expr: quantity, data_type: INTEGER, default_aggregation: sum}
      - {name: line_total, expr: quantity * unit_price, data_type: DOUBLE, access_modifier: private_access}
    metrics:
      - {name: revenue, synonyms: [turnover, sales], description: Value of all items, expr: SUM(line_total)}
  - name: products
    base_table: {table: products}
    primary_key: {columns: [product_id]}
    dimensions:
      - {name: product_id, expr: product_id, data_type: INTEGER}
      - {name: product, expr: name, data_type: VARCHAR}
      - {name: category_id, expr: category_id, data_type: INTEGER}
    facts:
      - {name: price, expr: price, data_type: DOUBLE, default_aggregation: avg}
  - name: categories
    base_table: {table: categories}
    primary_key: {columns: [category_id]}
    dimensions:
      - {name: category_id, expr: category_id, data_type: INTEGER}
      - {name: category, synonyms: [product group], expr: name, data_type: VARCHAR}
  - name: customers
    base_table: {table: customers}
    primary_key: {columns: [customer_id]}
    dimensions:
      - {name: customer_id, expr: customer_id, data_type: INTEGER}
      - {name: customer, expr: name, data_type: VARCHAR}
      - {name: country, expr: country, data_type: VARCHAR}
      - {name: segment, expr: segment, data_type: VARCHAR, is_enum: true, sample_values: [Business, Club, Consumer]}
    metrics:
      - {name: customer_count, synonyms: [number of customers], expr: COUNT(*)}
  - name: payments
    base_table: {table: payments}
    primary_key: {columns: [payment_id]}
    dimensions:
      - {name: payment_id, expr: payment_id, data_type: INTEGER}
      - {name: order_id, expr: order_id, data_type: INTEGER}
      - {name: method, expr: method, data_type: VARCHAR}
    facts:
      - {name: amount, expr: amount, data_type: DOUBLE, default_aggregation: sum}
    metrics:
      - {name: paid, synonyms: [total payments], expr: SUM(amount)}
relationships:
  - name: items_to_orders
    left_table: items
    right_table: orders
    relationship_columns: [{left_column: order_id, right_column: order_id}]
    join_type: left_outer
    relationship_type: many_to_one
  - {name: items_to_products, left_table: items, right_table: products,
     relationship_columns: [{left_column: product_id, right_column: product_id}]}
  - {name: products_to_categories, left_table: products, right_table: categories,
     relationship_columns: [{left_column: category_id, right_column: category_id}]}
  - {name: orders_to_customers, left_table: orders, right_table: customers,
     relationship_columns: [{left_column: customer_id, right_column: customer_id}]}
  - {name: payments_to_orders, left_table: payments, right_table: orders,
     relationship_columns: [{left_column: order_id, right_column: order_id}]}
metrics:
  - {name: open_amount, synonyms: [unpaid amount], description: What is not yet paid, expr: items.revenue - payments.paid}
  - {name: revenue_per_customer, expr: SUM(items.line_total) / COUNT(DISTINCT orders.customer_id)}
verified_queries:
  - name: finished orders
    question: How many orders were delivered?
    sql: SELECT COUNT(*) AS n FROM __orders WHERE state = 'delivered'
    verified_at: 1714521600
    verified_by: Ada
    use_as_onboarding_question: true
  - name: revenue of a country
    question: What is the revenue in Germany?
    sql: |
      SELECT SUM(i.line_total) AS revenue
      FROM items AS i JOIN orders AS o ON i.order_id = o.order_id JOIN customers AS c ON o.customer_id = c.customer_id
      WHERE c.country = 'Germany'
    verified_by: Ben
  - name: top products
    question: Which are the 5 products with the highest price?
    sql: SELECT product, price FROM products ORDER BY price DESC, product LIMIT 5
custom_instructions: Round money to two places.
module_custom_instructions:
  sql_generation: Never show cancelled orders.
"""

_SPECIAL = [
    "NO", "null", "~", "1e3", "2024-01-01", "0o7", "true", "=", "<<", "1_000", "12:30", "- x", "x: y", "#", "a #b", "!x", "&a",
    "*a", "|", ">", "%", "@", "`", "{}", "[]", ",", "?", "'", '"', "\\", "é", "🦊", "\u2028", "\x85", "\ufeff",
    "a\nb", "a\n\n b\n", "\n",
    "a\r\nb", " lead", "trail ", "tab\there", "\x1b[0m", "---", "...", "SELECT 1\nFROM t -- x\n", "",
]  # fmt: skip
_CHOICES: dict[str, tuple[Any, ...]] = {
    "access_modifier": ("public_access", "private_access"),
    "default_aggregation": (None, *m.AGGREGATIONS),
    "join_type": ("", *m.JOIN_TYPES),
    "relationship_type": ("", *m.RELATIONSHIP_TYPES),
    "type": ("", "asof", "range"),
    "verified_at": (None, 0, 1714521600),
}
_PARTS: dict[str, type] = {
    "unique_keys": m.Key,
    "dimensions": m.Dimension,
    "time_dimensions": m.TimeDimension,
    "facts": m.Fact,
    "metrics": m.Metric,
    "filters": m.Filter,
    "tables": m.SemanticTable,
    "relationships": m.Relationship,
    "relationship_columns": m.RelationshipColumn,
    "verified_queries": m.VerifiedQuery,
}
_NEVER_EMPTY = frozenset("name expr question sql left_table right_table left_column right_column".split())


def random_model(rng: random.Random) -> m.SemanticModel:
    """Any model that a file can hold."""
    return _random(m.SemanticModel, rng)


def _random(cls: type, rng: random.Random) -> Any:
    return cls(**{field.name: _value(cls, field.name, str(field.type), rng) for field in dataclasses.fields(cls)})


def _value(cls: type, name: str, type_: str, rng: random.Random) -> Any:
    if name in _CHOICES:
        return rng.choice(_CHOICES[name])
    if name in _PARTS:
        return tuple(_random(_PARTS[name], rng) for _ in range(rng.randrange(3)))
    if name == "extra":
        return {f"x{rng.choice(_SPECIAL)}": _anything(rng, 2)} if rng.random() < 0.2 else {}
    if name == "primary_key":
        return _random(m.Key, rng) if rng.random() < 0.5 else None
    if name == "base_table":
        return rng.choice((m.BaseTable(table=_text(rng, True), schema=_text(rng)), m.BaseTable(definition=_text(rng, True))))
    if name == "module_custom_instructions":
        return _random(m.ModuleInstructions, rng)
    if type_ == "bool":
        return rng.random() < 0.5
    if type_.startswith("tuple"):
        return tuple(_text(rng, name != "sample_values") for _ in range(rng.randrange(3)))
    return _text(rng, name in _NEVER_EMPTY and not (cls is m.VerifiedQuery and name == "name"))


def _text(rng: random.Random, is_name: bool = False) -> str:
    """Names come without spaces around them and are never empty; other texts may be anything."""
    text = "".join(rng.choice([*_SPECIAL, "ab", "C d"]) for _ in range(rng.randrange(1, 4)))
    return text.strip() or "n" if is_name else text


def _anything(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(8 if depth else 6)
    if kind >= 6:
        inner = [_anything(rng, depth - 1) for _ in range(2)]
        return inner if kind == 6 else {_text(rng): inner[0], "k": inner[1]}
    return (None, True, rng.randrange(-9, 9), rng.random(), _text(rng), date(2024, 1, 2))[kind]
