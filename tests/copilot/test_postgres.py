"""PostgreSQL against a real server: its catalog, its locks, its ways to fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.execute import Result, Worker, execute
from openarctic.copilot.guard import Checked, check
from openarctic.copilot.schema import ForeignKey, Schema, Table
from openarctic.errors import CapacityError, MissingError, RefusedError, UserError

from .postgres_server import Server

pytestmark = pytest.mark.postgres

PASSWORD = "r3ader-s3cret"
SHOP = """
CREATE SCHEMA sales;
CREATE TABLE sales.shops (shop_id integer PRIMARY KEY, city text NOT NULL);
CREATE TABLE sales.orders (order_id bigint PRIMARY KEY, shop_id integer REFERENCES sales.shops, note varchar(40),
  price numeric(10, 2), placed timestamptz, happy boolean);
CREATE VIEW sales.cheap AS SELECT * FROM sales.orders WHERE price < 10;
CREATE TABLE sales.hidden (secret text);
CREATE TABLE sales.logs (day date, line text) PARTITION BY RANGE (day);
CREATE TABLE sales.logs_2024 PARTITION OF sales.logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE sales.pg_class (trap text);
CREATE TABLE public.elsewhere (a integer);
COMMENT ON TABLE sales.orders IS 'what was bought';
COMMENT ON COLUMN sales.orders.price IS 'in euros, with tax';
INSERT INTO sales.shops VALUES (1, 'Oslo'), (2, 'Rome');
INSERT INTO sales.orders VALUES (1, 1, 'gift', 5, '2024-01-02 03:04:05+00', true),
  (2, 1, NULL, 20.5, NULL, false), (3, 2, 'x', 7, NULL, NULL);
INSERT INTO sales.logs SELECT '2024-05-05', 'line ' || g FROM generate_series(1, 500) g;
ANALYZE sales.orders; ANALYZE sales.logs;
CREATE ROLE reader LOGIN PASSWORD 'r3ader-s3cret';
CREATE ROLE writer LOGIN PASSWORD 'r3ader-s3cret';
GRANT USAGE ON SCHEMA sales TO reader, writer;
GRANT SELECT ON sales.shops, sales.orders, sales.cheap, sales.logs, sales.pg_class TO reader, writer;
GRANT UPDATE (note) ON sales.orders TO writer;
"""


@pytest.fixture(scope="module")
def shop(postgres: Server) -> Database:
    postgres.run("CREATE DATABASE shop")
    postgres.run(*SHOP.split(";\n"), name="shop")
    return open_database(postgres.url("reader", PASSWORD, "shop") + "?schema=sales")


def table_of(schema: Schema, name: str) -> Table:
    table = schema.table(name)
    assert table is not None
    return table


def read(sql: str) -> Checked:
    return Checked(sql, (), ())


def rows(database: Database, sql: str) -> list[tuple]:
    return execute(database, read(sql)).rows


def test_schema(shop: Database) -> None:
    schema = read_schema(shop)
    assert (schema.dialect, schema.namespace) == ("postgres", "sales")
    assert {t.name for t in schema.tables} == {"shops", "orders", "cheap", "logs"}
    orders = table_of(schema, "orders")
    assert (orders.comment, orders.primary_key, orders.row_estimate) == ("what was bought", ("order_id",), 3)
    assert orders.foreign_keys == (ForeignKey(column="shop_id", table="shops", to_column="shop_id"),)
    assert {c.name: c.comment for c in orders.columns if c.comment} == {"price": "in euros, with tax"}
    assert [c.type for c in orders.columns][:4] == ["bigint", "integer", "character varying(40)", "numeric(10,2)"]
    assert [c.name for c in orders.columns if c.is_numeric] == ["order_id", "shop_id", "price"]
    assert set(table_of(schema, "shops").columns[1].values) == {"Oslo", "Rome"}
    cheap = table_of(schema, "cheap")
    assert cheap.is_view and "price <" in cheap.definition and cheap.row_estimate is None
    assert table_of(schema, "logs").row_estimate == 500  # of all partitions
    assert not any(column.values for t in read_schema(shop, values=False).tables for column in t.columns)


def test_the_usual_schema_has_no_name(postgres: Server, shop: Database) -> None:
    admin = open_database(postgres.admin_url.removesuffix("/postgres") + "/shop?allow_writing_role=yes")
    schema = read_schema(admin)
    assert (schema.namespace, [t.name for t in schema.tables]) == ("", ["elsewhere"])


def test_a_question_goes_through_guard_and_child(shop: Database) -> None:
    checked = check(
        "SELECT city, sum(price) FROM sales.orders JOIN shops USING (shop_id) GROUP BY 1 ORDER BY 1",
        "postgres",
        read_schema(shop),
    )
    assert "sales." not in checked.sql
    assert execute(shop, checked).rows == [("Oslo", 25.5), ("Rome", 7)]
    with pytest.raises(RefusedError, match="elsewhere"):
        check("SELECT * FROM public.elsewhere", "postgres", read_schema(shop))
    # `public` is another schema here, so its name is not dropped.
    with pytest.raises(RefusedError):
        check("SELECT * FROM public.orders", "postgres", read_schema(shop))


@pytest.mark.parametrize(
    ("user", "why"),
    [("writer", "may change the table sales.orders"), ("admin", "superuser")],
)
def test_a_role_that_may_write_is_refused_unless_told(postgres: Server, shop: Database, user: str, why: str) -> None:
    password = PASSWORD if user == "writer" else "adm1n-s3cret"
    url = postgres.url(user, password, "shop") + "?schema=sales"
    for attempt in (read_schema, lambda database: rows(database, "SELECT 1")):
        with pytest.raises(RefusedError, match=why) as caught:
            attempt(open_database(url))
        assert "allow_writing_role" in str(caught.value.hint)
    told = open_database(url + "&allow_writing_role=yes")
    assert rows(told, "SELECT count(*) FROM orders") == [(3,)]
    # The session only reads all the same.
    with pytest.raises(UserError, match=r"read-only transaction|data-modifying"):
        rows(told, "WITH d AS (UPDATE orders SET note = 'z' RETURNING 1) SELECT * FROM d")


@pytest.mark.parametrize(
    ("grant", "why"),
    [
        ("GRANT CREATE ON SCHEMA sales TO maybe", "make tables in the schema sales"),
        ("GRANT CREATE ON DATABASE shop TO maybe", "make schemas"),
        ("GRANT pg_write_all_data TO maybe", "member of pg_write_all_data"),
        ("GRANT DELETE ON public.elsewhere TO maybe", "change the table public.elsewhere"),
        ("ALTER ROLE maybe CREATEROLE", "databases or roles"),
        ("GRANT USAGE ON SCHEMA sales TO maybe", None),
    ],
)
def test_every_way_to_write_counts(postgres: Server, shop: Database, grant: str, why: str | None) -> None:
    postgres.run("CREATE ROLE maybe LOGIN PASSWORD 'r3ader-s3cret'", "GRANT USAGE ON SCHEMA sales TO maybe", grant, name="shop")
    database = open_database(postgres.url("maybe", PASSWORD, "shop"))
    try:
        if why is None:
            assert rows(database, "SELECT 1") == [(1,)]
        else:
            with pytest.raises(RefusedError, match=why):
                rows(database, "SELECT 1")
    finally:
        postgres.run("DROP OWNED BY maybe", "DROP ROLE maybe", name="shop")


def test_sessions_are_locked_down(shop: Database) -> None:
    wanted = {
        "transaction_read_only": "on", "default_transaction_read_only": "on", "search_path": '"sales"', "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "2min", "statement_timeout": "7s", "row_security": "on",
    }  # fmt: skip
    sql = "SELECT " + ", ".join(f"current_setting('{name}')" for name in wanted)
    assert execute(shop, read(sql), timeout_s=7).rows == [tuple(wanted.values())]


def test_a_role_of_the_policy_runs_the_statement(postgres: Server, shop: Database) -> None:
    postgres.run(
        "CREATE ROLE oslo NOLOGIN",
        "GRANT USAGE ON SCHEMA sales TO oslo",
        "GRANT SELECT ON sales.shops TO oslo",
        "GRANT oslo TO reader",
        "ALTER TABLE sales.shops ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY every ON sales.shops TO reader USING (pg_has_role(current_user, 'reader', 'USAGE'))",
        "CREATE POLICY only_oslo ON sales.shops TO oslo USING (city = 'Oslo')",
        name="shop",
    )
    with Worker(shop) as worker:
        sql = read("SELECT current_user::text, city FROM shops ORDER BY 2")
        assert worker.execute(sql, role="oslo").rows == [("oslo", "Oslo")]
        assert worker.execute(sql).rows == [("reader", "Oslo"), ("reader", "Rome")]
        with pytest.raises(RefusedError, match="permission denied"):
            worker.execute(read("SELECT * FROM orders"), role="oslo")
        with pytest.raises(RefusedError, match="permission denied"):
            worker.execute(sql, role="admin")
    postgres.run("ALTER TABLE sales.shops DISABLE ROW LEVEL SECURITY", name="shop")


def test_limits_of_rows_and_time(shop: Database) -> None:
    with Worker(shop) as worker:
        started = time.monotonic()
        some = worker.execute(read("SELECT g FROM generate_series(1, 10000000) g"), limit=3, timeout_s=20)
        assert (some.rows, some.truncated) == ([(1,), (2,), (3,)], True)
        with pytest.raises(CapacityError, match=r"longer than 0\.5 s"):
            worker.execute(
                read("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"), timeout_s=0.5
            )
        assert worker.execute(read("SELECT '%s' LIKE '%'")).rows == [(True,)]  # and no parameter is looked for
        assert time.monotonic() - started < 15


def test_exact_rows_tell_the_kinds_of_their_values(shop: Database) -> None:
    numbers, times = "12345678901234567890.10::numeric", "date 'infinity', now(), timestamp '2024-01-02', time '12:00'"
    sql = f"SELECT {numbers}, {times}, 1, NULL"
    with Worker(shop) as worker:
        exact = worker.execute(read(sql), is_exact=True)
        assert worker.execute(read(sql)).kinds is None
    assert exact.rows[0][:2] == ("12345678901234567890.10", "infinity")
    assert exact.kinds == [["Decimal"], ["date"], ["aware"], ["datetime"], ["time"], ["int"], []]


def test_ten_million_rows_end_at_the_limit_of_bytes(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openarctic.copilot.execute.RESULT_BYTES", 4 << 20)
    with pytest.raises(CapacityError, match="more than 4194304 bytes"):
        execute(shop, read("SELECT repeat('x', 200), g FROM generate_series(1, 10000000) g"), limit=10_000_000, timeout_s=60)


@pytest.mark.slow
def test_a_cell_of_100_megabytes(shop: Database) -> None:
    with Worker(shop) as worker:
        with pytest.raises(CapacityError):
            worker.execute(read("SELECT repeat('x', 100000000)"), timeout_s=30)
        assert worker.execute(read("SELECT length(repeat('x', 100000000))"), timeout_s=30).rows == [(100_000_000,)]


def test_values_are_exact(shop: Database) -> None:
    exact = {
        "date '0001-01-01' - 366": "0001-01-01 BC", "date 'infinity'": "infinity", "date '2024-02-29'": "2024-02-29",
        "timestamp '0044-03-15 12:00 BC'": "0044-03-15 12:00:00 BC", "timestamptz '2024-01-02 03:04:05+00' AT TIME ZONE 'UTC'":
        "2024-01-02 03:04:05", "interval '14 months 3 days'": "1 year 2 mons 3 days", "time '24:00'": "24:00:00",
        "'NaN'::numeric": "NaN", "'Infinity'::numeric": "Infinity", "'-Infinity'::float8": "-inf", "1e300::numeric": 10**300,
        "true": True, "NULL": None, "'\\xff00'::bytea": "ff00", "ARRAY[1, NULL]": [1, None],
        "'{\"a\": [1]}'::jsonb": '{"a": [1]}',
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "int4range(1, 5)": "[1,5)",
        "ARRAY[date '0044-03-15 BC']": ["0044-03-15 BC"], "'192.168.1.1'::inet": "192.168.1.1", "12.50::numeric(9,2)": 12.5,
        "9223372036854775807": 9223372036854775807, "'💶 ok'": "💶 ok",
    }  # fmt: skip
    result = execute(shop, read("SELECT " + ", ".join(exact)))
    assert dict(zip(exact, result.rows[0], strict=True)) == exact


def test_a_table_dropped_after_its_schema_was_read(postgres: Server, shop: Database) -> None:
    postgres.run("CREATE TABLE sales.brief (a integer, b integer)", "GRANT SELECT ON sales.brief TO reader", name="shop")
    schema = read_schema(shop)
    with Worker(shop) as worker:
        postgres.run("ALTER TABLE sales.brief DROP COLUMN b", name="shop")
        with pytest.raises(MissingError, match=r"column .*b.* does not exist") as caught:
            worker.execute(check("SELECT b FROM brief", "postgres", schema))
        assert "have changed since" in str(caught.value.hint)
        postgres.run("DROP TABLE sales.brief", name="shop")
        with pytest.raises(MissingError, match="brief"):
            worker.execute(check("SELECT a FROM brief", "postgres", schema))
        assert worker.execute(read("SELECT 1")).rows == [(1,)]


def while_running(worker: Worker, harm: Callable[[], None]) -> Result:
    timer = threading.Timer(0.7, harm)
    timer.start()
    try:
        return worker.execute(
            read("SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b"), timeout_s=20
        )
    finally:
        timer.join()


def test_a_session_ended_while_it_runs(postgres: Server, shop: Database) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'"
    with Worker(shop) as worker:
        assert worker.execute(read("SELECT 1")).rows == [(1,)]
        with pytest.raises(CapacityError, match=r"connection to postgresql://reader@.* was lost") as caught:
            while_running(worker, lambda: postgres.run(end))
        assert PASSWORD not in str(caught.value)
        assert worker.execute(read("SELECT 2")).rows == [(2,)]


def test_a_server_that_stops_and_comes_back(postgres: Server, shop: Database) -> None:
    with Worker(shop) as worker:
        assert worker.execute(read("SELECT 1")).rows == [(1,)]
        with pytest.raises(CapacityError, match="was lost"):
            while_running(worker, postgres.stop)
        with pytest.raises(CapacityError, match="cannot connect to"):
            worker.execute(read("SELECT 1"))
        with pytest.raises(CapacityError, match="cannot connect to"):
            read_schema(shop)
        postgres.start()
        assert worker.execute(read("SELECT 2")).rows == [(2,)]


def test_a_server_that_freezes_is_left_in_time(postgres: Server, shop: Database) -> None:
    import psycopg

    with Worker(shop) as worker, psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        worker.execute(read("SELECT 1"))
        pids = [pid for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'reader'")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(CapacityError, match="longer than 1 s"):
                worker.execute(read("SELECT 1"), timeout_s=1)
            assert time.monotonic() - started < 4
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert worker.execute(read("SELECT 2")).rows == [(2,)]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda url: url.replace(PASSWORD, "wr0ng-s3cret"), UserError, "cannot log in"),
        (lambda url: url.replace("reader", "nobody"), UserError, "cannot log in"),
        (lambda url: url.replace("/shop", "/nowhere"), MissingError, "nowhere"),
        (lambda url: url.replace("=sales", "=nowhere"), MissingError, "no schema nowhere"),
        (lambda url: url.replace("schema=", "sslmod="), UserError, "sslmod"),
        (lambda url: url.replace("schema=sales", "allow_writing_role=perhaps"), UserError, "perhaps"),
        (lambda url: url.replace("@127.0.0.1:", "@127.0.0.1:x"), UserError, "no number"),
    ],
)
def test_wrong_urls(shop: Database, postgres: Server, change: Callable[[str], str], error: type[Exception], text: str) -> None:
    url = change(postgres.url("reader", PASSWORD, "shop") + "?schema=sales")
    for attempt in (read_schema, lambda database: rows(database, "SELECT 1")):
        with pytest.raises(error, match=text) as caught:
            attempt(open_database(url))
        assert "s3cret" not in f"{caught.value} {caught.value.hint}"  # type: ignore[attr-defined]


def test_the_usual_variables_say_where(postgres: Server, shop: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{postgres.port}:shop:reader:{PASSWORD}\n")
    passwords.chmod(0o600)
    for name, value in {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "reader", "PGDATABASE": "shop"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    database = open_database("postgresql://?schema=sales")
    assert (database.name, database.url) == ("shop", f"postgresql://reader@127.0.0.1:{postgres.port}/shop?schema=sales")
    assert len(read_schema(database, values=False).tables) == 4
    assert rows(database, "SELECT count(*) FROM shops") == [(2,)]


def test_credentials_are_seen_nowhere(shop: Database, tmp_path: Path) -> None:
    assert PASSWORD not in f"{shop!r} {shop} {shop.url} {shop.settings!r} {vars(shop.settings).keys()}"
    with Worker(shop) as worker:
        worker.execute(read("SELECT 1"))
        assert worker._process is not None
        proc = Path(f"/proc/{worker._process.pid}")
        assert PASSWORD.encode() not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()


NAMES = [
    'with "quotes"',
    "emoji 💶",
    "new\nline",
    "select",
    "MixedCase",
    "tab\there",
    "semi;colon--",
    "per%cent",
    "back\\slash",
    "é",
]


def test_any_name_can_be_read(postgres: Server, shop: Database) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    for i, name in enumerate(NAMES):
        postgres.run(
            f"CREATE TABLE sales.{quoted(name)} ({quoted(name)} integer, {quoted(name + '2')} text)",
            f"INSERT INTO sales.{quoted(name)} VALUES ({i}, 'v')",
            f"GRANT SELECT ON sales.{quoted(name)} TO reader",
            name="shop",
        )
    try:
        schema = read_schema(shop)
        with Worker(shop) as worker:
            for i, name in enumerate(NAMES):
                assert table_of(schema, name).columns[1].values == ("v",)
                checked = check(f"SELECT {quoted(name)} FROM {quoted(name)} WHERE {quoted(name)} >= 0", "postgres", schema)
                result = worker.execute(checked)
                assert (result.columns, result.rows) == ([name], [(i,)])
            mixed = worker.execute(check("SELECT m.mixedcase FROM MIXEDCASE AS m WHERE MixedCase2 = 'v'", "postgres", schema))
            assert mixed.rows == [(NAMES.index("MixedCase"),)]
    finally:
        for name in NAMES:
            postgres.run(f"DROP TABLE sales.{quoted(name)}", name="shop")


def test_of_tables_that_differ_in_case_one_is_read(postgres: Server, shop: Database) -> None:
    postgres.run(
        'CREATE TABLE sales."Twin" (a text)', "CREATE TABLE sales.twin (a text)", "INSERT INTO sales.\"Twin\" VALUES ('hidden')",
        "INSERT INTO sales.twin VALUES ('seen')", 'GRANT SELECT ON sales."Twin", sales.twin TO reader', name="shop",
    )  # fmt: skip
    try:
        schema = read_schema(shop)
        assert [t.name for t in schema.tables if t.name.lower() == "twin"] == ["twin"]
        with Worker(shop) as worker:
            for name in ("twin", "TWIN", '"Twin"', '"TWIN"', 'sales."Twin"', '"twin"'):
                for sql in (
                    f"SELECT a FROM {name}",
                    f"WITH x AS (SELECT a FROM {name}) SELECT * FROM x",
                    f"SELECT t.* FROM {name} AS t",
                ):
                    assert worker.execute(check(sql, "postgres", schema)).rows == [("seen",)]
            for cte, name in {'"Twin"': "twin", "twin": '"Twin"', '"TWIN"': "twin"}.items():
                sql = f"WITH {cte} AS (SELECT 'made' AS a) SELECT a FROM {name}"
                checked = check(sql, "postgres", schema)
                assert (checked.tables, worker.execute(checked).rows) == ((), [("made",)])
    finally:
        postgres.run('DROP TABLE sales."Twin", sales.twin', name="shop")
