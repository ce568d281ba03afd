"""What a principal sees: the door itself, on both embedded databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openarctic.copilot.access import Access, open_access
from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.policy import Reader, parse_policy
from openarctic.errors import RefusedError, UserError
from openarctic.generator import ScriptedGenerator

from .files import write_both

SETUP = """
CREATE TABLE regions (region VARCHAR PRIMARY KEY, manager VARCHAR);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR, email VARCHAR, card VARCHAR, salary INTEGER, region VARCHAR);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), region VARCHAR, amount INTEGER);
CREATE TABLE secrets (id INTEGER, word VARCHAR);
CREATE VIEW big_orders AS SELECT * FROM orders WHERE amount >= 20;
CREATE VIEW totals AS SELECT region, sum(amount) FROM orders GROUP BY region;
CREATE VIEW pay AS SELECT name, salary FROM customers;
CREATE VIEW all_secrets AS SELECT word FROM secrets;
INSERT INTO regions VALUES ('north', 'ann'), ('south', 'bob');
INSERT INTO customers VALUES (1, 'Ada', 'ada@x.org', '1111222233334444', 100, 'north'),
  (2, 'Bea', 'bea@x.org', '12', 200, 'south'), (3, 'Cid', NULL, '5555666677778888', 300, 'north');
INSERT INTO orders VALUES (1, 1, 'north', 10), (2, 2, 'south', 20), (3, 3, 'north', 30), (4, 1, 'south', 40);
INSERT INTO secrets VALUES (1, 'xyzzy');
"""
POLICY = """
roles:
  seller:
    tables:
      regions:
      customers: {columns: {deny: [salary], mask: {email: hash, card: last4}}, rows: "region = 'north'"}
      orders: {rows: "region IN (SELECT region FROM regions WHERE manager = :user)"}
      big_orders:
      totals:
  auditor:
    tables:
      customers: {columns: {deny: [email, card]}}
      all_secrets: {security: definer}
  boss:
    tables: {"*": }
  counter:
    tables: {orders: {columns: {mask: {amount: null}}}}
    functions: [count]
    limits: {rows: 2, seconds: 5}
users:
  ann: [seller]
  eve: [auditor]
  kim: [seller, auditor]
  max: [boss]
  tom: [counter]
  nil: []
"""


class World:
    """A database with its schema, and one process that runs statements on it."""

    def __init__(self, path: Path) -> None:
        self.database = open_database(path)
        self.schema = read_schema(self.database)
        self.worker = Worker(self.database)
        self.policy, self.seen = parse_policy(POLICY), dict[str, Access]()


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(write_both(tmp_path_factory.mktemp("access"), SETUP)[request.param])
    yield world
    world.worker.close()


def access(world: World, user: str) -> Access:
    if user not in world.seen:
        world.seen[user] = open_access(world.schema, world.policy, user)
    return world.seen[user]


def rows(world: World, user: str, sql: str) -> list[tuple[object, ...]]:
    return run(world, user, sql).rows


def run(world: World, user: str, sql: str) -> Result:
    return world.worker.execute(access(world, user).check(sql))


def refusal(world: World, user: str, sql: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        access(world, user).check(sql)
    return caught.value


def test_what_may_not_be_seen_is_not_in_the_schema(world: World) -> None:
    schema = access(world, "ann").schema
    assert {t.name for t in schema.tables} == {"regions", "customers", "orders", "big_orders", "totals"}
    customers = schema.table("customers")
    assert customers is not None and customers.row_count is None
    assert customers.column_names == {"id", "name", "email", "card", "region"}
    assert all(not column.values for column in customers.columns)  # a sample knows no row condition
    regions = schema.table("regions")
    assert regions is not None and regions.row_count == 2 and regions.columns[0].values


def test_keys_lead_to_visible_tables_alone(world: World) -> None:
    orders = access(world, "tom").schema.table("orders")
    assert orders is not None and orders.foreign_keys == ()
    orders = access(world, "ann").schema.table("orders")
    assert orders is not None and [key.table for key in orders.foreign_keys] == ["customers"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders ORDER BY id",
        "SELECT o.id FROM orders AS o ORDER BY o.id",
        "WITH orders AS (SELECT * FROM orders) SELECT id FROM orders ORDER BY id",
        "SELECT id FROM (SELECT * FROM orders) AS t ORDER BY id",
        "SELECT id FROM orders UNION SELECT id FROM orders ORDER BY id",
        "SELECT id FROM orders INTERSECT SELECT id FROM orders ORDER BY id",
        "SELECT DISTINCT o.id FROM regions AS r, orders AS o ORDER BY 1",
        "SELECT id FROM orders AS o WHERE EXISTS (SELECT 1 FROM orders AS i WHERE i.id = o.id) ORDER BY id",
        "SELECT id FROM main.orders ORDER BY id",
        # A CTE cannot stand in for the table of which the row condition speaks.
        "WITH regions AS (SELECT 'south' AS region, 'ann' AS manager) SELECT orders.id FROM regions, orders ORDER BY 1",
        "WITH RECURSIVE regions(region, manager) AS (SELECT 'south', 'ann' UNION SELECT region, 'a' FROM regions WHERE 1 = 0) "
        "SELECT orders.id FROM orders, regions ORDER BY 1",
    ],
)
def test_a_row_condition_holds_wherever_the_table_stands(world: World, sql: str) -> None:
    assert rows(world, "ann", sql) == [(1,), (3,)]


def test_masks_hold_in_every_clause(world: World) -> None:
    result = run(world, "ann", "SELECT * FROM customers ORDER BY id")
    assert result.columns == ["id", "name", "email", "card", "region"]
    assert [row[3] for row in result.rows] == ["****4444", "****8888"]
    assert len(str(result.rows[0][2])) == 64 and result.rows[1][2] is None
    assert rows(world, "ann", "SELECT id FROM customers WHERE email = 'ada@x.org' OR card LIKE '1111%'") == []
    assert rows(world, "ann", "SELECT count(*) FROM customers GROUP BY length(card) HAVING length(card) > 8") == []
    assert rows(world, "tom", "SELECT amount FROM orders WHERE amount > 5") == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT salary FROM customers",
        "SELECT c.salary FROM customers AS c",
        "SELECT id FROM customers ORDER BY salary",
        "SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE salary > 1)",
        "SELECT word FROM secrets",
        "SELECT name, salary FROM pay",
        "WITH t AS (SELECT * FROM all_secrets) SELECT * FROM t",
    ],
)
def test_not_permitted_is_said(world: World, sql: str) -> None:
    error = refusal(world, "ann", sql)
    assert error.type == "not_permitted"
    assert "salary" not in (error.hint or "") and "secrets" not in (error.hint or "")


def test_what_does_not_exist_is_unknown(world: World) -> None:
    assert refusal(world, "ann", "SELECT nothing FROM customers").type == "unknown_column"
    assert refusal(world, "ann", "SELECT 1 FROM nowhere").type == "unknown_table"


def test_views_are_read_with_the_readers_rights(world: World) -> None:
    assert rows(world, "ann", "SELECT id FROM big_orders") == [(3,)]
    assert rows(world, "ann", "SELECT * FROM totals") == [("north", 40)]
    assert rows(world, "max", "SELECT count(*) FROM totals") == [(2,)]
    assert rows(world, "eve", "SELECT word FROM all_secrets") == [("xyzzy",)]  # by its definer


def test_roles_add_up_cell_by_cell(world: World) -> None:
    """Each cell is what one of the roles shows: seller the northern rows with masks, auditor all rows without email and card."""
    result = run(world, "kim", "SELECT id, email, card, salary FROM customers ORDER BY id")
    assert [(r[0], r[1] is not None, r[2], r[3]) for r in result.rows] == [
        (1, True, "****4444", 100),
        (2, False, None, 200),
        (3, False, "****8888", 300),
    ]


def test_functions_and_limits(world: World) -> None:
    assert refusal(world, "tom", "SELECT sum(id) FROM orders").type == "not_permitted"
    result = run(world, "tom", "SELECT id FROM orders")
    assert len(result.rows) == 2 and result.truncated


def test_whoever_may_see_everything_sees_it(world: World) -> None:
    allowed = access(world, "max")
    sql = "SELECT word FROM secrets"
    assert allowed.check(sql).sql == open_access(world.schema).check(sql).sql
    assert [t.row_count for t in allowed.schema.tables] == [t.row_count for t in world.schema.tables]


def test_an_error_tells_nothing_of_hidden_rows(world: World) -> None:
    """Were the cast computed on all rows, it would fail where the guess about a hidden row is right."""
    for guess in (20, 21):
        fails = "abs(-9223372036854775807 - 1)"
        sql = f"SELECT count(*) FROM orders WHERE CASE WHEN id = 2 AND amount = {guess} THEN {fails} ELSE 1 END > 0"
        assert rows(world, "ann", sql) == [(2,)]


def test_users_and_files(world: World, tmp_path: Path) -> None:
    schema = world.schema
    with pytest.raises(RefusedError, match="names no user 'joe'"):
        open_access(schema, parse_policy(POLICY), "joe")
    with pytest.raises(RefusedError, match="may read nothing here"):
        access(world, "nil")
    with pytest.raises(UserError, match="nobody is named"):
        open_access(schema, parse_policy(POLICY))
    with pytest.raises(UserError, match="without a policy"):
        open_access(schema, None, "ann")


def test_a_question_sees_the_same(world: World) -> None:
    model = ScriptedGenerator([[" SELECT COUNT(*) FROM orders WHERE amount > 35"], [" SELECT word FROM secrets"] * 2, [""]])
    with Copilot(world.database, model, world.schema, policy=parse_policy(POLICY), user="ann") as copilot:
        answer = copilot.ask("How many orders above 35?", AskOptions(candidates=1))
        assert answer.rows == [(0,)] and answer.hidden_by_policy == ("orders",)
        assert "only some rows of orders" in answer.answer and "manager" not in (answer.sql or "")
        assert "secrets" not in model.prompts[0] and "salary" not in model.prompts[0] and "Ada" not in model.prompts[0]


def test_masked_texts_compare_as_texts(world: World) -> None:
    """In SQLite a text is always above a number, but a column of texts makes a text of the number."""
    query = "SELECT name FROM customers WHERE card < 5 ORDER BY name"
    policy = "roles: {r: {tables: {customers: {columns: {mask: {card: last4}}}}}}\nusers: {ann: [r]}"
    if world.database.dialect == "sqlite":
        checked = open_access(world.schema, parse_policy(policy), "ann").check(query)
        assert world.worker.execute(checked).rows == [("Ada",), ("Bea",), ("Cid",)]  # "****..." < "5"


def test_the_fence_keeps_conditions_off_hidden_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite computes first what costs least: without the fence this fails where order 2, a hidden one, has an amount of 20."""
    own = "EXISTS (SELECT 1 FROM regions AS r WHERE r.region = orders.region AND r.manager = :user)"
    policy = parse_policy(f"roles: {{r: {{tables: {{orders: {{rows: {own!r}}}}}}}}}\nusers: {{ann: [r]}}")
    guess = "SELECT count(*) FROM orders WHERE abs(CASE WHEN amount = 20 THEN -9223372036854775807 - 1 ELSE 1 END) = 1"
    assert world.worker.execute(open_access(world.schema, policy, "ann").check(guess)).rows == [(2,)]
    monkeypatch.setattr(Reader, "_fenced", lambda self, query: query)
    unfenced = open_access(world.schema, policy, "ann").check(guess)
    if world.database.dialect == "sqlite":
        with pytest.raises(UserError, match="overflow"):
            world.worker.execute(unfenced)


def test_the_fence_keeps_conditions_off_what_a_definers_view_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view's join hides order 2, whose region has no manager; without the fence SQLite looks at its amount first."""
    tables = "CREATE TABLE regions (region TEXT, manager TEXT); CREATE TABLE orders (id INTEGER, region TEXT, amount INTEGER);"
    rows = "INSERT INTO regions VALUES ('north', 'ann'); INSERT INTO orders VALUES (1, 'north', 10), (2, 'south', 20);"
    view = "CREATE VIEW managed AS SELECT o.id, o.amount FROM orders AS o JOIN regions AS r ON o.region = r.region;"
    database = open_database(write_both(tmp_path, tables + rows + view)["sqlite"])
    schema, worker = read_schema(database), Worker(database)
    policy = parse_policy("roles: {r: {tables: {managed: {security: definer}}}}\nusers: {ann: [r]}")
    guess = "SELECT count(*) FROM managed WHERE abs(CASE WHEN amount = 20 THEN -9223372036854775807 - 1 ELSE 1 END) = 1"
    assert worker.execute(open_access(schema, policy, "ann").check(guess)).rows == [(1,)]
    monkeypatch.setattr(Reader, "_fenced", lambda self, query: query)
    with pytest.raises(UserError, match="overflow"):
        worker.execute(open_access(schema, policy, "ann").check(guess))
    worker.close()


def test_who_sees_a_part_of_a_table_sees_it_in_every_form(world: World) -> None:
    """What hangs on a table in FROM moves to the subquery that takes its place."""
    assert rows(world, "ann", "SELECT count(*) FROM (orders JOIN customers ON orders.customer_id = customers.id)") == [(2,)]
    if world.database.dialect == "sqlite":
        return
    assert rows(world, "ann", "SELECT count(*) FROM orders TABLESAMPLE 100%") == [(2,)]
    pivot = "SELECT north, south FROM orders PIVOT (count(id) FOR region IN ('north', 'south')) AS p"
    assert rows(world, "ann", pivot) == [(1, 0), (1, 0)]
    pivoted = run(world, "ann", "PIVOT (SELECT o.region, c.name FROM orders AS o, customers AS c) ON region USING count(*)")
    assert pivoted.columns == ["name", "north"]
    lateral = "SELECT z.id FROM regions AS r, LATERAL (SELECT id FROM orders WHERE region = r.region) AS z ORDER BY 1"
    assert rows(world, "ann", lateral) == [(1,), (3,)]
    whole = str(rows(world, "ann", "SELECT c FROM customers AS c"))
    assert "salary" not in whole and "x.org" not in whole
    assert rows(world, "ann", "SELECT COLUMNS(c -> c LIKE '%ar%') FROM customers WHERE id = 1") == [("****4444",)]
