"""Cortex Analyst YAML: what is read, what is written, and that the second reads back as the first."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from openarctic.copilot.semantic import model as m
from openarctic.copilot.semantic.cortex import cortex_text, parse_cortex, read_cortex, write_cortex
from openarctic.errors import UserError
from tests.copilot.semantic.models import SALES, random_model


def test_every_key_is_read() -> None:
    model, warnings = parse_cortex(SALES)
    assert warnings == ()
    orders = model.tables[0]
    assert orders.base_table == m.BaseTable(database="retail", schema="main", table="orders")
    assert orders.primary_key == m.Key(columns=("order_id",))
    assert [type(f).__name__ for f in orders.fields] == ["Dimension"] * 4 + ["TimeDimension"]
    assert orders.field("STATE") == m.Dimension(
        name="state", synonyms=("order status",), expr="status", data_type="VARCHAR", sample_values=("delivered", "shipped")
    )
    assert model.table("items") is model.table("__Items") and model.table("nothing") is None
    assert model.tables[1].facts[0].default_aggregation == "sum" and model.tables[1].facts[1].is_private
    assert model.relationships[0].join_type == "left_outer"
    assert model.verified_queries[0].badge == "verified by Ada on 2024-05-01"
    assert model.verified_queries[1].badge == "verified by Ben" and model.verified_queries[2].badge == "verified"
    assert model.instructions == "Round money to two places.\nNever show cancelled orders."
    terms = set(model.synonyms())
    assert ("purchases", "orders", "") in terms and ("order status", "orders", "state") in terms
    assert not any(field == "line_total" for _, _, field in terms)


def test_what_is_written_reads_back_equal_and_has_a_stable_order() -> None:
    model, _ = parse_cortex(SALES)
    text = cortex_text(model)
    assert parse_cortex(text) == (model, ())
    assert cortex_text(parse_cortex(text).model) == text
    assert list(yaml.safe_load(text)) == [
        "name", "description", "tables", "relationships", "metrics", "verified_queries", "custom_instructions",
        "module_custom_instructions",
    ]  # fmt: skip


def test_any_model_reads_back_equal() -> None:
    rng = random.Random(7)
    for _ in range(30):
        model = random_model(rng)
        assert parse_cortex(cortex_text(model)).model == model


def test_unknown_keys_are_kept_and_told(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "name: x\nowner: {team: data, since: 2024-01-01}\nvariables: [{name: t}]\n"
        "tables:\n- name: t\n  base_table: {table: t, warehouse: w}\n  dimensions:\n  - {name: a, expr: a, colour: red}\n"
    )
    loaded = read_cortex(path)
    assert [w.split(" is not")[0] for w in loaded.warnings] == [
        "line 6: tables[0].base_table.warehouse",
        "line 8: tables[0].dimensions[0].colour",
        "line 2: owner",
    ]
    write_cortex(loaded.model, tmp_path / "n.yaml")
    again = yaml.safe_load((tmp_path / "n.yaml").read_text())
    assert again == yaml.safe_load(path.read_text())
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_measures_are_facts() -> None:
    model, warnings = parse_cortex(
        "name: x\ntables:\n- name: t\n  base_table: {table: t}\n  measures: [{name: a, expr: a}]\n  facts: [{name: b, expr: b}]\n"
    )
    assert [f.name for f in model.tables[0].facts] == ["b", "a"] and "old name of facts" in warnings[0]


TABLE = "name: x\ntables:\n- name: t\n  base_table: {table: t}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: []", "line 1: the file has no name"),
        ("name: x\ntables:\n- name: t\n", r"line 3: tables\[0\] has no base_table"),
        ("name: x\ntables:\n- name: t\n  base_table: {schema: s}\n", r"line 4: tables\[0\].base_table needs either a table"),
        (TABLE + "  dimensions:\n  - name: d\n", r"line 6: tables\[0\].dimensions\[0\] has no expr"),
        (TABLE + "  dimensions:\n  - {name: d, expr: d, unique: maybe}\n", r"\[0\].unique must be true or false, not 'maybe'"),
        (TABLE + "  facts:\n  - {name: d, expr: d, default_aggregation: total}\n", r"line 6: .*default_aggregation is 'total'"),
        (TABLE + "  facts: {name: d}\n", r"line 5: tables\[0\].facts must be a list, not a mapping"),
        (TABLE + "relationships:\n- {name: r, left_table: t}\n", r"line 6: relationships\[0\] has no right_table"),
        (TABLE + "verified_queries:\n- {question: q, sql: s, verified_at: today}\n", r"verified_at must be a whole number"),
        (TABLE + "verified_queries:\n- {question: q, sql: s, verified_at: -5}\n", r"verified_at is -5"),
        (TABLE + "verified_queries:\n- {question: q, sql: s, verified_at: 99999999999999999999}\n", r"verified_at is 9999"),
        ("- a\n- b\n", "line 1: the file must be a mapping"),
    ],
)  # fmt: skip
def test_wrong_forms_are_told_with_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_cortex(text)
