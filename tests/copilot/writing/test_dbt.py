"""dbt models: references, SQL, Jinja, YAML; staging from the schema; and dbt itself takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest
import yaml

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.copilot.writing.dbt import Dbt, Project, source_name, staging
from openarctic.errors import MissingError, UserError

from .world import DBT, SHOP_SQL, shop

TASK = Dbt("revenue", shop("duckdb"), "shop")
GOOD_YAML = "models:\n  - name: m\n    description: x\n"


def found(sql: str, schema_yml: str = GOOD_YAML) -> list[str]:
    return [str(problem) for problem in TASK.check({"models/m.sql": sql, "models/schema.yml": schema_yml})]


def test_a_good_answer_passes_and_gets_its_sources() -> None:
    files = TASK.read(DBT)
    assert list(files) == ["models/revenue_by_month.sql", "models/good_months.sql", "models/schema.yml"]
    assert TASK.check(files) == []
    sources = yaml.safe_load(TASK.complete(files)["models/_shop__sources.yml"])
    assert [table["name"] for table in sources["sources"][0]["tables"]] == ["orders"]


@pytest.mark.parametrize("dialect", ["postgres", "snowflake", "sqlite"])
def test_models_of_other_dialects(dialect: str) -> None:
    name = shop(dialect).tables[1].name
    sql = f"select c.id, upper(c.name) as name from {{{{ source('shop', '{shop(dialect).tables[0].name}') }}}} as c"
    orders = f"{{{{ source('shop', '{name}') }}}}"
    later = f"select m.name, o.amount from {{{{ ref('m') }}}} as m join {orders} as o on o.customer_id = m.id"
    files = {"models/m.sql": sql, "models/n.sql": later, "models/schema.yml": f"{GOOD_YAML}  - name: n\n    description: y\n"}
    assert Dbt("x", shop(dialect), "shop").check(files) == []


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("{{ run_query('drop table orders') }} select 1 as x", "run_query"),
        ("{% do run_query('drop table orders') %} select 1 as x", "may not be used"),
        ("-- {{ run_query('drop table orders') }}\nselect 1 as x", "run_query"),
        ("select 1 as x {# {{ #} run_query('x') }}", "never closed"),
        ("{{ config(pre_hook='drop table orders') }} select 1 as x", "pre_hook"),
        ("{{ config(post_hook=['drop table orders']) }} select 1 as x", "post_hook"),
        ("{{ config(**{'pre_hook': 'x'}) }} select 1 as x", "may not be used"),
        ("{{ config(sql_header='drop table orders;') }} select 1 as x", "sql_header"),
        ("{{ config(alias='orders') }} select 1 as x", "alias"),
        ("{{ config(schema='other') }} select 1 as x", "schema"),
        ("{{ config(materialized='drop') }} select 1 as x", "materialized"),
        ("{{ config(unique_key='x; drop table orders') }} select 1 as x", "no column of the model"),
        ("{{ config(tags=['a; b']) }} select 1 as x", "no plain word"),
        ("{% call statement('x') %} drop table orders {% endcall %} select 1 as x", "may not be used"),
        ("{% set x = 1 %} select 1 as x", "may not be used"),
        ("{% macro m() %}{% endmacro %} select 1 as x", "may not be used"),
        ("{% if true %} select 1 as x {% endif %}", "may not be used"),
        ("{% if is_incremental() %} select 1 as x", "never closed"),
        ("{{ env_var('HOME') }} select 1 as x", "env_var"),
        ("{{ ''.__class__ }} select 1 as x", "may not be used"),
        ("{{ ref('m' ~ 'x') }}", "may not be used"),
        ("{{ adapter.drop_relation(this) }} select 1 as x", "may not be used"),
        ("select * from orders", "source() and ref()"),
        ("select * from main.orders", "source() and ref()"),
        ("select * from {{ ref('nowhere') }}", "there is no model nowhere"),
        ("select * from {{ source('shop', 'custmers') }}", "did you mean customers?"),
        ("select * from {{ source('other', 'customers') }}", "there is no source other"),
        ("select nome from {{ source('shop', 'customers') }}", "did you mean name?"),
        ("select * from {{ ref('m') }}", "circle"),
        ("drop table orders", "one SELECT statement"),
        ("create temp table t as select 1 as x", "one SELECT statement"),
        ("insert into {{ source('shop', 'orders') }} select 1", "one SELECT statement"),
        ("select 1 as x;", "semicolon"),
        ("select 1 as x; drop table orders", "2 statements"),
        ("select 1 as x) ; drop table orders --", "not duckdb SQL"),
        ("copy orders to 'x'", "one SELECT statement"),
        ("select * from read_csv('/etc/passwd')", "may not be read"),
        ("select name as \"x; drop table orders\" from {{ source('shop', 'customers') }}", "no plain name"),
        ("select", "m.sql"),
        ("", "m.sql"),
    ],
)
def test_each_bad_model_is_found(sql: str, told: str) -> None:
    problems = found(sql)
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: [", "not YAML"),
        ("", "empty"),
        ("models:\n  - name: m\n    config: {pre_hook: drop}", "config may not be used"),
        ("models:\n  - name: m\n    description: \"{{ run_query('drop') }}\"", "Jinja"),
        ("models:\n  - name: m\n    columns: [{name: y}]", "no column y"),
        ("models:\n  - name: n", "no model n"),
        ("models: []", "no schema.yml speaks of m"),
        ("models:\n  - name: m\n    columns: [{name: x, data_tests: [{expression_is_true: {expression: drop}}]}]", "no test"),
        ("models:\n  - name: m\n    columns: [{name: x, data_tests: [{not_null: {where: drop}}]}]", "no test"),
        ('models:\n  - name: m\n    columns: [{name: x, data_tests: [{accepted_values: {values: ["a\'); drop"]}}]}]', "quotes"),
        ("models:\n  - name: m\n    columns: [{name: x, data_tests: [{accepted_values: {values: [a], quote: false}}]}]", "quote"),
        ("models:\n  - name: m\n    columns: [{name: x, tests: [{relationships: {to: orders, field: id}}]}]", "must be ref"),
        ("models:\n  - name: m\n    columns: [{name: x, tests: [{relationships: {to: ref('m'), field: y}}]}]", "no column y"),
        ("models:\n  - name: m\n    constraints: [{type: check, expression: drop}]", "constraints"),
        ("models: [{name: m}]\non-run-end: drop table orders", "on-run-end"),
        ("models: [{name: m}]\nmacros: []", "macros"),
        ("models: !!python/object/apply:os.system [ls]", "holds the tag"),
        ("models:\n  - name: m\n    description: !!python/name:os.system x", "holds the tag"),
    ],
)
def test_each_bad_property_file_is_found(text: str, told: str) -> None:
    problems = found("select 1 as x", text)
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("I cannot do that.", "no model"),
        ("```sql ../../etc/cron.d/x.sql\nselect 1\n```", "may not be written"),
        ("```sql /models/x.sql\nselect 1\n```", "may not be written"),
        ("```sql models/x.sql\nselect 1", "not closed"),
        ("```sql\nselect 1\n```", "no path"),
        ("```sql models/x.sql\nselect 1\n```\n```sql models/x.sql\nselect 2\n```", "twice"),
        ("```sql macros/x.sql\nselect 1\n```", None),
        ("```python models/x.py\nprint()\n```", "may not be written"),
    ],
)
def test_answers_without_models_or_with_other_paths(answer: str, told: str | None) -> None:
    if told is None:
        assert list(TASK.read(answer)) == ["models/macros/x.sql"]  # below models, whatever it is called
        return
    with pytest.raises(UserError, match=told):
        TASK.read(answer)


ODD = Schema(
    dialect="duckdb",
    tables=(
        Table(
            name="Order Lines",
            columns=(
                Column(name="Line ID", comment="{{ run_query('drop table x') }}"),
                Column(name="order"),
                Column(name="größe"),
            ),
            primary_key=("Line ID",),
            foreign_keys=(ForeignKey(column="order", table="select", to_column="from"),),
            comment='it says "{% set x %}" \'',
        ),
        Table(name="select", columns=(Column(name="from"), Column(name="a\nb"), Column(name='c"d')), primary_key=("from",)),
    ),
)


def test_staging_of_odd_names_is_safe() -> None:
    written = staging(ODD, "shop")
    text = "".join(written.files.values())
    assert "run_query" in text and "{{ run_query" not in text and "{%" not in text
    sql = written.files["models/staging/shop/stg_shop__order_lines.sql"]
    assert '"Line ID" as line_id' in sql and "source('shop', 'Order Lines')" in sql
    models = yaml.safe_load(written.files["models/staging/shop/_shop__models.yml"])["models"]
    by_name = {column["name"]: column for column in models[0]["columns"]}
    assert by_name["line_id"]["data_tests"] == ["not_null", "unique"]
    assert by_name["order"]["data_tests"][0]["relationships"]["arguments"] == {"to": "ref('stg_shop__select')", "field": "from"}


def test_staging_relationships_name_the_new_column_of_their_own_table() -> None:
    """Two keys whose columns have one name, which only one of the tables has to change."""
    keys = (ForeignKey(column="a_code", table="a", to_column="Code"), ForeignKey(column="b_code", table="b", to_column="Code"))
    a = Table(name="a", columns=(Column(name="Code"),))
    b = Table(name="b", columns=(Column(name="code"), Column(name="Code")))
    c = Table(name="c", columns=(Column(name="a_code"), Column(name="b_code")), foreign_keys=keys)
    written = staging(Schema(dialect="postgres", tables=(a, b, c)), "shop")
    models = yaml.safe_load(written.files["models/staging/shop/_shop__models.yml"])["models"]
    tests = [test["relationships"]["arguments"] for column in models[2]["columns"] for test in column["data_tests"]]
    assert tests == [{"to": "ref('stg_shop__a')", "field": "code"}, {"to": "ref('stg_shop__b')", "field": "code_2"}]


@pytest.mark.parametrize("name", ["{{ x }}", "a{%b", 'say "x"', "back\\slash"])
def test_names_that_dbt_cannot_hold(name: str) -> None:
    schema = Schema(dialect="duckdb", tables=(Table(name=name, columns=(Column(name="a"),)), *shop("duckdb").tables))
    with pytest.raises(UserError):
        staging(schema, "shop")
    assert staging(schema, "shop", ["orders"]).files


def test_staging_of_some_tables_and_of_none() -> None:
    written = staging(shop("snowflake"), "shop", ["ORDERS"])
    assert "    amount,\n" in written.files["models/staging/shop/stg_shop__orders.sql"]
    assert "relationships" not in written.files["models/staging/shop/_shop__models.yml"]  # the other model is not there
    with pytest.raises(MissingError):
        staging(shop("duckdb"), "shop", ["nothing"])
    assert source_name("My Shop-2") == "my_shop_2"


def test_staging_passes_the_check_of_models() -> None:
    for dialect in ("duckdb", "postgres", "snowflake", "sqlite"):
        files = {path: text for path, text in staging(shop(dialect), "shop").files.items() if "sources" not in path}
        assert Project(files, shop(dialect), "shop").problems == []


DBT_PROGRAM = shutil.which("dbt")


@pytest.mark.ecosystem
@pytest.mark.skipif(DBT_PROGRAM is None, reason="pip install dbt-core dbt-duckdb")
@pytest.mark.parametrize("kind", ["staging", "written"])
def test_dbt_builds_what_passed(tmp_path: Path, kind: str) -> None:
    database = tmp_path / "shop.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(SHOP_SQL)
        connection.execute('CREATE TABLE "Order Lines" ("Line ID" INTEGER PRIMARY KEY, "order" INTEGER REFERENCES orders (id))')
        connection.execute("COMMENT ON TABLE customers IS 'Who buys: {{ run_query(''drop table orders'') }} {% set x %}'")
    schema = read_schema(open_database(database))
    files = staging(schema, "shop").files
    if kind == "written":
        task = Dbt("revenue", schema, "shop")
        read = task.read(DBT)
        assert task.check(read) == []
        files = task.complete(read)
    project = {
        "dbt_project.yml": "name: shop\nversion: '1.0.0'\nconfig-version: 2\nprofile: shop\nmodel-paths: [models]\n",
        "profiles.yml": f"shop:\n  target: dev\n  outputs:\n    dev: {{type: duckdb, path: {database}, schema: built}}\n",
    }
    for path, text in {**files, **project}.items():
        place = tmp_path / "project" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert DBT_PROGRAM is not None
    command = [DBT_PROGRAM, "--no-send-anonymous-usage-stats", "build", "--profiles-dir", "."]
    done = subprocess.run(command, cwd=tmp_path / "project", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "WARN" not in done.stdout.replace("WARN=0", ""), done.stdout
    with duckdb.connect(str(database), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
