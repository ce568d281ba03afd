"""How models are asked, how answers are read, and what happens after a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.forms import ChatForm, ReasoningForm, ShortForm, ddl, form_of, last_statement
from openarctic.errors import AbstainedError
from openarctic.generator import ScriptedGenerator

from .files import write_both

SCRIPT = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, "home town" TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), amount REAL);
INSERT INTO customers VALUES (1, 'Ann', 'Oslo'), (2, 'Bo', 'Rome');
INSERT INTO orders VALUES (1, 1, 9.5), (2, 2, 3.0);
"""


class Chatty(ScriptedGenerator):
    target_form = None


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_both(tmp_path_factory.mktemp("shop"), SCRIPT)["sqlite"]


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("first ```sql\nSELECT 1\n``` then ```sql\nSELECT 2\n```", "SELECT 2"),
        ("<think>```sql\nSELECT 0\n```</think><answer>```sql\nSELECT 1\n```</answer>", "SELECT 1"),
        ("```\nWITH a AS (SELECT 1) SELECT * FROM a\n```", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("The query is:\nSELECT name\nFROM t;", "SELECT name\nFROM t"),
        ("<answer>\nselect 1\n</answer>", "select 1"),
        ("I cannot tell.", ""),
        ("", ""),
    ],
)
def test_statements_are_found(text: str, sql: str) -> None:
    assert last_statement(text) == sql


def test_the_schema_as_statements(shop: Path) -> None:
    schema = read_schema(open_database(shop))
    text = ddl(schema)
    assert '"home town" TEXT' in text and "FOREIGN KEY (customer_id) REFERENCES customers (id)" in text
    assert "name TEXT, -- such as 'Ann', 'Bo'" in text
    import sqlite3

    with sqlite3.connect(":memory:") as connection:
        connection.executescript(text)  # it is SQL


def test_a_model_gets_the_form_that_it_knows() -> None:
    assert isinstance(form_of(ScriptedGenerator([])), ShortForm)
    assert isinstance(form_of(Chatty([])), ChatForm)
    assert isinstance(form_of(Chatty([], name="Snowflake/Arctic-Text2SQL-R1-7B")), ReasoningForm)


def test_a_chat_model_answers(shop: Path) -> None:
    model = Chatty([["Here:\n```sql\nSELECT name FROM customers WHERE \"home town\" = 'Oslo'\n```"]])
    with Copilot(open_database(shop), model) as copilot:
        answer = copilot.ask("Who lives in Oslo?", AskOptions(candidates=1))
    assert answer.rows == [("Ann",)]
    assert "CREATE TABLE customers" in model.prompts[0] and "'Oslo' of customers.home town" in model.prompts[0]


def test_a_bad_statement_is_mended_with_the_reason(shop: Path) -> None:
    model = Chatty([["```sql\nSELECT nome FROM customers\n```"], ["```sql\nSELECT name FROM customers ORDER BY name\n```"]])
    with Copilot(open_database(shop), model) as copilot:
        answer = copilot.ask("List the names", AskOptions(candidates=1))
    assert answer.rows == [("Ann",), ("Bo",)]
    assert "SELECT nome FROM customers" in model.prompts[1] and "nome" in model.prompts[1].split("It failed:")[1]


def test_it_gives_up_after_two_repairs(shop: Path) -> None:
    model = Chatty([["DROP TABLE customers"], ["```sql\nDELETE FROM customers\n```"], ["no"]])
    with Copilot(open_database(shop), model) as copilot, pytest.raises(AbstainedError):
        copilot.ask("List the names", AskOptions(candidates=1))
    assert len(model.prompts) == 3
