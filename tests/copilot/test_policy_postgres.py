"""Policies on a real PostgreSQL server: the tree, names in their own case, views, and row security under a role of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openarctic.copilot.access import open_access
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.execute import Worker
from openarctic.copilot.policy import parse_policy
from openarctic.copilot.schema import Schema
from openarctic.errors import OpenArcticError, RefusedError

from .postgres_server import Server

pytestmark = pytest.mark.postgres

PASSWORD = "r3ader-s3cret"
SETUP = """
CREATE TABLE teams (team text PRIMARY KEY, lead text);
CREATE TABLE people (id integer PRIMARY KEY, "Full Name" text, email varchar(40), card text, pay numeric(10, 2), team text);
CREATE TABLE vault (word text);
CREATE VIEW cheap AS SELECT id, "Full Name", pay FROM people WHERE pay < 250;
CREATE VIEW counts AS SELECT team, count(*) AS n FROM people GROUP BY team;
CREATE TABLE ruled (id integer, owner text);
INSERT INTO teams VALUES ('red', 'ann'), ('blue', 'bob');
INSERT INTO people VALUES (1, 'Ada', 'ada@x.org', '1111222233334444', 100, 'red'),
  (2, 'Bea', 'bea@x.org', '55', 200, 'blue'), (3, 'Cid', NULL, '5555666677778888', 300, 'red');
INSERT INTO vault VALUES ('kestrel');
INSERT INTO ruled VALUES (1, 'ann'), (2, 'bob');
ALTER TABLE ruled ENABLE ROW LEVEL SECURITY;
CREATE ROLE onlooker LOGIN PASSWORD 'r3ader-s3cret';
CREATE ROLE analyst;
CREATE POLICY own ON ruled FOR SELECT TO analyst USING (owner = 'ann');
GRANT analyst TO onlooker;
GRANT SELECT ON teams, people, vault, cheap, counts, ruled TO onlooker, analyst
"""
POLICY = """
roles:
  seller:
    tables:
      people:
        columns: {deny: [pay], mask: {email: hash, card: last4}}
        rows: "team IN (SELECT team FROM public.teams WHERE lead = :user)"
      counts:
  clerk:
    tables: {people: {columns: {mask: {"Full Name": null, pay: null}}, rows: "\\"Full Name\\" <> 'Ada'"}, cheap: }
  analyst:
    tables: {ruled: }
    database_role: analyst
users: {ann: [seller], tom: [clerk], eve: [analyst]}
salt: a salt for the tests
"""


class World:
    def __init__(self, url: str) -> None:
        self.database = open_database(url)
        self.schema: Schema = read_schema(self.database)
        self.worker = Worker(self.database)

    def rows(self, user: str, sql: str) -> list[tuple[object, ...]]:
        access = open_access(self.schema, parse_policy(POLICY), user)
        return self.worker.execute(access.check(sql)).rows


@pytest.fixture(scope="module")
def world(postgres: Server) -> Iterator[World]:
    postgres.run("CREATE DATABASE ruled")
    postgres.run(*SETUP.split(";\n"), name="ruled")
    world = World(postgres.url("onlooker", PASSWORD, "ruled"))
    yield world
    world.worker.close()


def test_rows_and_masks(world: World) -> None:
    assert world.rows("ann", "SELECT id, card, length(email), email IS NULL FROM people ORDER BY id") == [
        (1, "****4444", 64, False),
        (3, "****8888", None, True),
    ]
    assert world.rows("ann", "SELECT id FROM people WHERE email = 'ada@x.org'") == []
    assert world.rows("ann", "SELECT * FROM counts") == [("red", 2)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM people ORDER BY id",
        "SELECT p.id FROM public.people AS p WHERE p.\"Full Name\" <> 'x' ORDER BY 1",
        "SELECT z.id FROM (SELECT 'red' AS team) AS t, LATERAL (SELECT * FROM people AS p WHERE p.team = t.team) AS z ORDER BY 1",
        "WITH teams AS (SELECT 'blue' AS team, 'ann' AS lead) SELECT people.id FROM people, teams ORDER BY 1",
        "SELECT (SELECT max(i.id) FROM people AS i WHERE i.id = o.id) FROM people AS o ORDER BY 1",
        "(SELECT id FROM people) UNION (SELECT id FROM people) ORDER BY 1",
    ],
)
def test_a_row_condition_holds_wherever_the_table_stands(world: World, sql: str) -> None:
    assert world.rows("ann", sql) == [(1,), (3,)]


def test_names_keep_their_case(world: World) -> None:
    assert world.rows("tom", 'SELECT id, "Full Name", pay FROM people ORDER BY id') == [(2, None, None), (3, None, None)]
    assert world.rows("tom", "SELECT count(*) FROM cheap") == [(0,)]  # pay is masked before the view compares it


def test_an_error_tells_nothing_of_hidden_rows(world: World) -> None:
    guess = "SELECT count(*) FROM people WHERE CASE WHEN \"Full Name\" = 'Bea' THEN CAST(team AS integer) ELSE 1 END = 1"
    assert world.rows("ann", guess) == [(2,)]


def test_the_row_security_of_the_server_holds_under_its_role(world: World) -> None:
    assert world.rows("eve", "SELECT id, owner FROM ruled") == [(1, "ann")]


@pytest.mark.parametrize("sql", ["SELECT word FROM vault", "SELECT pay FROM people", "SELECT p.pay FROM people AS p"])
def test_not_permitted_is_said(world: World, sql: str) -> None:
    with pytest.raises(RefusedError) as caught:
        world.rows("ann", sql)
    assert caught.value.type == "not_permitted"


def test_a_whole_row_holds_visible_columns_alone(world: World) -> None:
    with pytest.raises(OpenArcticError) as caught:
        world.rows("ann", "SELECT (p).pay FROM people AS p")
    assert "100" not in caught.value.message
    assert "100" not in str(world.rows("ann", "SELECT row_to_json(p) FROM people AS p WHERE id = 1"))
