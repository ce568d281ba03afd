"""Apache Ossie files, in the long form of its schema and the short form of its compliance tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.copilot.semantic.load import load_semantic_model
from openarctic.errors import UserError

LONG = """\
version: "0.2.0.dev0"
semantic_model:
  - name: retail
    description: Sales
    ai_context: {instructions: Money is in euros., synonyms: [shop]}
    datasets:
      - name: sales
        source: warehouse.public.store_sales
        primary_key: [item, ticket]
        ai_context: {synonyms: [purchases]}
        fields:
          - name: item
            expression: {dialects: [{dialect: ANSI_SQL, expression: ss_item}]}
          - name: sold_on
            expression: {dialects: [{dialect: TABLEAU, expression: "[D]"}, {dialect: SNOWFLAKE, expression: ss_date}]}
            dimension: {is_time: true}
            label: Calendar
          - {name: price, expression: {dialects: [{dialect: ANSI_SQL, expression: ss_price}]}, custom_extensions: []}
          - {name: channel, dimension: {}, expression: {dialects: [{dialect: ANSI_SQL, expression: ss_channel}]}}
      - name: items
        source: {kind: table, object: public.item}
        unique_keys: [[sk], [a, b]]
        fields: [{name: sk, expression: i_sk}]
      - name: recent
        source: {kind: query, object: {dialects: [{dialect: ANSI_SQL, expression: SELECT 1 AS one}]}}
    relationships:
      - {name: sales_items, from: sales, to: items, from_columns: [item], to_columns: [sk]}
    metrics:
      - {name: total, expression: {dialects: [{dialect: ANSI_SQL, expression: SUM(sales.price) / COUNT(DISTINCT sales.item)}]}}
"""
SHORT = """\
name: f
datasets:
  - {name: orders, source: orders, primary_key: [id],
     fields: [{name: id, expression: id, dimension: {}}, {name: amount, expression: amount}]}
metrics:
  - {name: total, expression: "SUM(orders.amount)"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "model.yaml"
    path.write_text(text)
    return path


def test_the_long_form(tmp_path: Path) -> None:
    model, warnings = load_semantic_model(write(tmp_path, LONG))
    assert (model.name, model.description, model.instructions) == ("retail", "Sales", "Money is in euros.")
    sales, items, recent = model.tables
    assert (sales.base_table.database, sales.base_table.schema, sales.base_table.table) == ("warehouse", "public", "store_sales")
    assert sales.synonyms == ("purchases",) and sales.primary_key and sales.primary_key.columns == ("item", "ticket")
    # `item` is counted by a metric, but it is a key.
    assert [f.name for f in sales.dimensions] == ["item", "channel"] and [f.name for f in sales.facts] == ["price"]
    assert [(f.name, f.expr, f.description) for f in sales.time_dimensions] == [("sold_on", "ss_date", "Calendar")]
    assert items.base_table.schema == "public" and [k.columns for k in items.unique_keys] == [("sk",), ("a", "b")]
    assert recent.base_table.definition == "SELECT 1 AS one"
    (relationship,) = model.relationships
    assert (relationship.left_table, relationship.right_table, relationship.relationship_type) == (
        "sales",
        "items",
        "many_to_one",
    )
    assert model.metrics[0].expr == "SUM(sales.price) / COUNT(DISTINCT sales.item)"
    assert [w.split(" has no place")[0] for w in warnings] == [
        "line 18: semantic_model[0].datasets[0].fields[2].custom_extensions"
    ]


def test_the_short_form(tmp_path: Path) -> None:
    model, warnings = load_semantic_model(write(tmp_path, SHORT))
    assert [f.name for f in model.tables[0].facts] == ["amount"] and "says no version" in warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "dialect: ANSI_SQL, expression: ss_item",
            "dialect: MDX, expression: x",
            "line 13: .*written in MDX alone",
        ),
        ("to_columns: [sk]", "to_columns: [sk, b]", r"line 27: .*relationships\[0\] pairs 1 columns with 2"),
        ("source: warehouse.public.store_sales", "source: a.b.c.d", r"line 8: .*source is 'a.b.c.d'"),
        ("kind: table", "kind: cube", "line 21: .*kind is 'cube'"),
        ("  - name: retail\n", "  - {name: a, datasets: []}\n  - name: retail\n", "line 3: semantic_model holds 2 models"),
        ("is_time: true", "is_time: 3", "line 16: .*is_time must be true or false"),
    ],
)
def test_wrong_forms_are_told_with_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_semantic_model(write(tmp_path, LONG.replace(old, new, 1)))
