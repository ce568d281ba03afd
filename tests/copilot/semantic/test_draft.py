"""Drafts: roles, samples, relationships, and that the same database gives the same text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.linking.words import phrase_of, words_of
from openarctic.copilot.semantic import model as m
from openarctic.copilot.semantic.cortex import cortex_text, parse_cortex
from openarctic.copilot.semantic.draft import Draft, draft_model
from openarctic.copilot.semantic.lint import lint
from openarctic.copilot.semantic.naming import looks_personal, synonyms_of
from openarctic.copilot.semantic.probe import Probe
from tests.copilot.files import write_both

SCRIPT = """
CREATE TABLE regions (region_cd VARCHAR PRIMARY KEY, nm VARCHAR);
CREATE TABLE cust (id INTEGER PRIMARY KEY, full_name VARCHAR, e_mail VARCHAR, contact VARCHAR, region_cd VARCHAR, tier VARCHAR);
CREATE TABLE sales (sale_id INTEGER PRIMARY KEY, cust_id INTEGER, qty INTEGER, unit_prc DOUBLE, sold_on VARCHAR, yr INTEGER,
  is_online INTEGER, buyer INTEGER, note VARCHAR);
CREATE TABLE details (sale_id INTEGER PRIMARY KEY REFERENCES sales (sale_id), amt DOUBLE);
"""


@pytest.fixture(scope="module", params=["sqlite", "duckdb"])
def drafts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Draft, Draft, Probe]]:
    path = write_both(tmp_path_factory.mktemp("draft"), SCRIPT + fill())[request.param]
    database = open_database(path)
    schema = read_schema(database)
    with Probe(database, schema) as probe:
        yield draft_model(schema, "shop", probe), draft_model(schema, "shop", probe, values=False), probe


def fill() -> str:
    regions = ", ".join(f"('R{i}', 'Region {i}')" for i in range(7))
    customers = ", ".join(
        f"({i}, 'Person {i}', 'p{i}@example.com', '+49 30 1234{i:03}', {('NULL' if i == 5 else repr(f'R{i % 7}'))}, "
        f"'{['gold', 'silver'][i % 2]}')"
        for i in range(20)
    )
    sales = ", ".join(
        f"({i}, {i % 20}, {i % 4 + 1}, {i / 3:.2f}, '2024-{i % 12 + 1:02}-0{i % 9 + 1}', {2020 + i % 3}, {i % 2}, "
        f"{i * 7 % 50}, 'n{i}')"
        for i in range(60)
    )
    details = ", ".join(f"({i}, {i}.5)" for i in range(30))
    return (
        f"INSERT INTO regions VALUES {regions}; INSERT INTO cust VALUES {customers}; INSERT INTO sales VALUES {sales}; "
        f"INSERT INTO details VALUES {details};"
    )


def table(draft: Draft, name: str) -> m.SemanticTable:
    found = draft.model.table(name)
    assert found is not None
    return found


def test_roles_and_aggregations(drafts: tuple[Draft, Draft, Probe]) -> None:
    draft = drafts[0]
    sales = table(draft, "sales")
    assert [f.name for f in sales.time_dimensions] == ["sold_on"]
    assert [(f.name, f.default_aggregation) for f in sales.facts] == [("qty", "sum"), ("unit_prc", "avg"), ("buyer", "sum")]
    assert [f.name for f in sales.dimensions] == ["sale_id", "cust_id", "yr", "is_online", "note"]
    assert [f.name for f in sales.dimensions if f.unique] == ["sale_id", "note"]
    assert {metric.name: metric.expr for metric in sales.metrics} == {
        "sale_count": "COUNT(*)", "total_qty": "SUM(qty)", "average_unit_prc": "AVG(unit_prc)", "total_buyer": "SUM(buyer)",
    }  # fmt: skip
    assert sales.metrics[1].synonyms == ("total quantity",)


def test_samples_are_bounded_and_never_of_persons(drafts: tuple[Draft, Draft, Probe]) -> None:
    draft, bare, _ = drafts
    samples = {(t.name, f.name): (f.sample_values, f.is_enum) for t in draft.model.tables for f in t.fields if f.sample_values}
    codes = tuple(f"R{i}" for i in range(7))
    assert samples == {
        ("regions", "region_cd"): (codes, True),
        ("cust", "region_cd"): (codes, True),
        ("regions", "nm"): (tuple(f"Region {i}" for i in range(7)), True),
        ("cust", "tier"): (("gold", "silver"), True),
        ("sales", "yr"): (("2020", "2021", "2022"), True),
        ("sales", "is_online"): (("0", "1"), True),
    }
    assert not any(f.sample_values for t in bare.model.tables for f in t.fields)


def test_relationships_from_keys_and_from_values(drafts: tuple[Draft, Draft, Probe]) -> None:
    draft = drafts[0]
    found = {r.name: (r.relationship_type, r.join_type) for r in draft.model.relationships}
    assert found == {
        "details_to_sales": ("one_to_one", "inner"),  # declared
        "cust_to_regions": ("many_to_one", "left_outer"),  # one has none
        "sales_to_cust": ("many_to_one", "inner"),
    }
    guessed = {e.relationship: (e.left, e.right) for e in draft.evidence if e.overlap}
    assert guessed == {
        "cust_to_regions": ("cust.region_cd", "regions.region_cd"),
        "sales_to_cust": ("sales.cust_id", "cust.id"),
    }


def test_the_draft_is_deterministic_reads_back_and_has_no_errors(drafts: tuple[Draft, Draft, Probe]) -> None:
    draft, _, probe = drafts
    again = draft_model(probe.schema, "shop", probe)
    text = cortex_text(draft.model)
    assert cortex_text(again.model) == text and parse_cortex(text) == (draft.model, ())
    assert [str(f) for f in lint(draft.model, probe.schema, probe) if f.level == "error"] == []


def test_a_draft_without_a_look_at_the_data(drafts: tuple[Draft, Draft, Probe]) -> None:
    model = draft_model(drafts[2].schema, "shop").model
    assert [r.name for r in model.relationships] == ["details_to_sales"]
    assert not any(f.sample_values for t in model.tables for f in t.fields)


def test_comments_become_descriptions_and_synonyms(drafts: tuple[Draft, Draft, Probe]) -> None:
    schema = drafts[2].schema
    sales = schema.table("sales")
    assert sales is not None
    columns = tuple(
        dataclasses.replace(c, comment="Pieces sold (also known as units or volume)") if c.name == "qty" else c
        for c in sales.columns
    )
    changed = dataclasses.replace(sales, comment="All sales; aka deals", columns=columns)
    tables = tuple(changed if t.name == "sales" else t for t in schema.tables)
    model = draft_model(dataclasses.replace(schema, tables=tables), "shop").model
    found = model.table("sales")
    assert found is not None and found.description == "All sales; aka deals" and found.synonyms == ("deals",)
    assert found.facts[0].synonyms == ("quantity", "units", "volume")


@pytest.mark.parametrize(
    ("name", "words", "phrase"),
    [
        ("OrderDate", ("order", "date"), "order date"),
        ("cust_nm", ("cust", "nm"), "customer name"),
        ("HTTPStatusCd", ("http", "status", "cd"), "http status code"),
        ("dim_prod", ("dim", "prod"), "product"),
        ("größe", ("größe",), "größe"),
        ("", (), ""),
    ],
)
def test_names_become_words(name: str, words: tuple[str, ...], phrase: str) -> None:
    assert words_of(name) == words and phrase_of(name) == phrase
    assert synonyms_of("order_date", "") == () and synonyms_of("ord_dt", "") == ("order date",)


@pytest.mark.parametrize(
    ("owner", "column", "values", "personal"),
    [
        ("x", "email", (), True),
        ("customers", "name", (), True),
        ("x", "customer_name", (), True),
        ("x", "employee", (), True),
        ("x", "contact_info", ("a@b.de", "c@d.de", "none"), True),
        ("x", "c1", ("+49 30 123456789", "030/1234567"), True),
        ("x", "c1", ("123-45-6789",), True),
        ("products", "name", ("Tent",), False),
        ("x", "customer_type", ("gold",), False),
        ("orders", "customer_id", (), False),
        ("x", "code", ("2024-01-01", "12.5"), False),
    ],
)
def test_what_looks_personal(owner: str, column: str, values: tuple[str, ...], personal: bool) -> None:
    assert looks_personal(owner, column, values) is personal


def test_names_of_tables_in_the_singular(tmp_path: Path) -> None:
    script = """
    CREATE TABLE courses (id INTEGER PRIMARY KEY); CREATE TABLE houses (id INTEGER PRIMARY KEY);
    CREATE TABLE visits (course_id INTEGER, house_id INTEGER); INSERT INTO courses VALUES (1), (2), (3);
    INSERT INTO houses VALUES (7), (8), (9); INSERT INTO visits VALUES (1, 7), (2, 8), (2, 8);
    """
    for path in write_both(tmp_path, script).values():
        database = open_database(path)
        schema = read_schema(database)
        with Probe(database, schema) as probe:
            model = draft_model(schema, "q", probe).model
        counts = [metric.name for t in model.tables for metric in t.metrics if metric.name.endswith("_count")]
        assert counts == ["course_count", "house_count", "visit_count"]
        assert [r.name for r in model.relationships] == ["visits_to_courses", "visits_to_houses"]


def test_names_that_sql_must_quote(tmp_path: Path) -> None:
    script = (
        'CREATE TABLE "Order Items" ("order" INTEGER, "Größe 🦊" DOUBLE); INSERT INTO "Order Items" VALUES (1, 2.5), (1, 3.5);'
    )
    for path in write_both(tmp_path, script).values():
        database = open_database(path)
        schema = read_schema(database)
        with Probe(database, schema) as probe:
            model = draft_model(schema, "q", probe).model
            assert parse_cortex(cortex_text(model)).model == model
            assert [str(f) for f in lint(model, schema, probe) if f.level == "error"] == []
