"""Snowflake: the settings that are read, the SQL that is sent (a recording connector), and whole questions in fakesnow."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openarctic.copilot.databases import Database, open_database, read_schema
from openarctic.copilot.databases import snowflake as kind
from openarctic.copilot.engines import snowflake as engine
from openarctic.copilot.execute import Worker
from openarctic.copilot.guard import Checked, check
from openarctic.copilot.schema import ForeignKey
from openarctic.errors import CorruptError, MissingError, OpenArcticError, RefusedError, UserError

SECRET = "p4ss-w0rd"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing but what a test sets."""
    for name in [n for n in os.environ if n.startswith("SNOWFLAKE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))
    return tmp_path


def write_toml(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def settings_of(database: Database) -> dict[str, Any]:
    return {name: value for name, value in database.settings.items() if name != "may_write"}


def test_everything_in_the_url() -> None:
    database = open_database(f"snowflake://ada:{SECRET}@org-acme/shop/Sales?warehouse=small&role=READER&login_timeout=5")
    assert (database.dialect, database.name, database.schema) == ("snowflake", "shop", "Sales")
    assert settings_of(database) == {
        "account": "org-acme", "user": "ada", "password": SECRET, "database": "shop", "schema": "Sales",
        "warehouse": "small", "role": "READER", "login_timeout": 5,
    }  # fmt: skip
    assert SECRET not in repr(database) + database.url + repr(database.settings)
    assert SECRET not in database.redacted(f"cannot use {SECRET}")


def test_variables_complete_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCOUNT": "acme", "USER": "ada", "PRIVATE_KEY_PATH": "/k.p8", "SCHEMA": "PUBLIC", "ROLE": "R"}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)
    database = open_database("snowflake:///shop?role=OTHER")
    assert settings_of(database) == {
        "account": "acme", "user": "ada", "private_key_file": "/k.p8", "database": "shop", "schema": "PUBLIC", "role": "OTHER",
    }  # fmt: skip


CONNECTIONS = """
[default]
account = "first"
user = "ada"
database = "shop"
schema = "sales"
[dev]
account = "second"
user = "bob"
authenticator = "externalbrowser"
database = "dev"
schema = "public"
session_parameters = { TIMEZONE = "UTC" }
"""


def test_connections_of_the_usual_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toml(home / "connections.toml", CONNECTIONS)
    monkeypatch.setenv("SNOWFLAKE_USER", "eve")
    dev = open_database("snowflake://?connection_name=dev&role=R")
    assert (dev.url, dev.settings["role"]) == ("snowflake://bob@second/dev/public", "R")  # variables leave a named one alone
    assert open_database("snowflake://").url == "snowflake://eve@first/shop/sales"
    monkeypatch.setenv("SNOWFLAKE_DEFAULT_CONNECTION_NAME", "dev")
    assert open_database("snowflake://").url == "snowflake://eve@second/dev/public"
    assert open_database("snowflake://ada@third/a/b").url == "snowflake://ada@third/a/b"
    write_toml(home / "connections.toml", "")
    write_toml(home / "config.toml", 'default_connection_name = "x"\n[connections.x]\naccount="c"\ndatabase="d"\nschema="s"')
    monkeypatch.delenv("SNOWFLAKE_DEFAULT_CONNECTION_NAME")
    assert open_database("snowflake://").url == "snowflake://eve@c/d/s"


@pytest.mark.parametrize(
    ("url", "toml", "mode", "error", "text"),
    [
        ("snowflake://", None, 0o600, UserError, "no Snowflake account"),
        ("snowflake://u@a", None, 0o600, UserError, "no Snowflake database"),
        ("snowflake://u@a/d", None, 0o600, UserError, "no Snowflake schema"),
        ("snowflake://u@a/d/s/t", None, 0o600, UserError, "3 parts"),
        ("snowflake://u@a/d/s?warehous=x", None, 0o600, UserError, "warehous"),
        ("snowflake://u@a/d/s?port=x", None, 0o600, UserError, "port is 'x'"),
        ("snowflake://?connection_name=dev", "[other]", 0o600, MissingError, "no Snowflake connection 'dev'"),
        ("snowflake://?connection_name=dev", "[dev\n" + f'password = "{SECRET}"', 0o600, CorruptError, "not TOML"),
        ("snowflake://?connection_name=dev", "[dev]", 0o666, UserError, "written by others"),
    ],
)
def test_wrong_settings(home: Path, url: str, toml: str | None, mode: int, error: type[OpenArcticError], text: str) -> None:
    if toml is not None:
        write_toml(home / "connections.toml", toml, mode)
    with pytest.raises(error, match=text) as caught:
        open_database(url)
    assert caught.value.hint or error is CorruptError
    assert SECRET not in str(caught.value)


# --- a connector that records what it is told ---


class Recorder:
    """Answers a statement by the first key that it starts with; everything that was said is in `said`."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.said, self.parameters = answers, [], {}  # type: ignore[var-annotated]

    def connect(self, **parameters: Any) -> Recorder:
        self.parameters = parameters
        return self

    def cursor(self) -> Recorder:
        return self

    def close(self) -> None:
        pass

    def execute(self, sql: str, timeout: int | None = None) -> None:
        self.said.append(sql if timeout is None else (sql, timeout))
        answer = next((a for start, a in self.answers.items() if sql.startswith(start)), [])
        if isinstance(answer, Exception):
            raise answer
        self.rows = list(answer)
        self.description = [("A",)]

    def fetchall(self) -> list[Any]:
        return self.rows

    def fetchmany(self, count: int) -> list[Any]:
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


class FakeError(Exception):
    """Stands for `snowflake.connector.errors.Error`."""

    def __init__(self, message: str, errno: int = -1) -> None:
        super().__init__(message)
        self.errno = errno


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Recorder]:
    def install(answers: dict[str, Any]) -> Recorder:
        recorder = Recorder(answers)
        errors = types.SimpleNamespace(
            Error=FakeError,
            OperationalError=type("OperationalError", (FakeError,), {}),
            InterfaceError=type("I", (FakeError,), {}),
        )
        connector = types.ModuleType("snowflake.connector")
        connector.connect, connector.errors = recorder.connect, errors  # type: ignore[attr-defined]
        package = types.ModuleType("snowflake")
        package.connector = connector  # type: ignore[attr-defined]
        for name, module in {
            "snowflake": package,
            "snowflake.connector": connector,
            "snowflake.connector.errors": errors,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)
        return recorder

    return install


def grant(privilege: str, kind: str, name: str) -> tuple[Any, ...]:
    return ("2026-01-01", privilege, kind, name, "ROLE", "X")


READER = {
    "SELECT CURRENT_ROLE": [("READER",)],
    'SHOW GRANTS TO ROLE "READER"': [
        grant("USAGE", "DATABASE", "SHOP"), grant("SELECT", "TABLE", "T"), grant("USAGE", "ROLE", 'B"ASE'),
        grant("OWNERSHIP", "WAREHOUSE", "W"),
    ],
    'SHOW GRANTS TO ROLE "B""ASE"': [grant("USAGE", "ROLE", "READER"), grant("REFERENCES", "VIEW", "V")],
}  # fmt: skip
URL = f"snowflake://ada:{SECRET}@acme/SHOP/SALES"


def test_the_statements_of_a_session(recording: Callable[[dict[str, Any]], Recorder]) -> None:
    recorder = recording({**READER, "SELECT 1": [(1,), (2,), (3,)]})
    target, _ = kind.target(open_database(URL))
    session = engine.Engine(target, 0)
    assert recorder.parameters["session_parameters"] == {
        "QUERY_TAG": "openarctic", "STATEMENT_TIMEOUT_IN_SECONDS": 60, "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": 60,
        "ABORT_DETACHED_QUERY": True, "MULTI_STATEMENT_COUNT": 1, "AUTOCOMMIT": False,
    }  # fmt: skip
    for timeout in (2.5, 2.5, 7):
        assert session.start({"sql": "SELECT 1", "limit": 10, "timeout": timeout}) == ["A"]
        assert session.fetch(2) == [(1,), (2,)]
        session.finish()
    limits = "ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = {} ROWS_PER_RESULTSET = 11"
    assert recorder.said == [
        "USE SECONDARY ROLES NONE",
        "SELECT CURRENT_ROLE()",
        'SHOW GRANTS TO ROLE "READER"',
        'SHOW GRANTS TO ROLE "B""ASE"',
        limits.format(3),
        ("SELECT 1", 3),
        ("SELECT 1", 3),
        limits.format(7),
        ("SELECT 1", 7),
    ]


@pytest.mark.parametrize(
    ("grants", "why"),
    [
        ([grant("INSERT", "TABLE", "SHOP.SALES.T")], "INSERT on TABLE SHOP.SALES.T"),
        ([grant("OWNERSHIP", "SCHEMA", "SHOP.SALES")], "OWNERSHIP on SCHEMA"),
        ([grant("CREATE TABLE", "SCHEMA", "SHOP.SALES")], "CREATE TABLE on SCHEMA"),
        ([grant("USAGE", "ROLE", "SYSADMIN")], "inherits from, SYSADMIN"),
        ([grant("SOMETHING NEW", "TABLE", "T")], "SOMETHING NEW"),
    ],
)
def test_a_role_that_may_write_is_refused_unless_told(
    recording: Callable[[dict[str, Any]], Recorder], grants: list[Any], why: str
) -> None:
    recording({"SELECT CURRENT_ROLE": [("READER",)], "SHOW GRANTS": grants})
    with pytest.raises(RefusedError, match=why) as caught:
        read_schema(open_database(URL))
    assert "allow_writing_role" in str(caught.value.hint)
    recorder = recording({"SHOW GRANTS": grants, "SELECT CURRENT_DATABASE": [("SHOP", "SALES")]})
    with pytest.raises(UserError, match="no tables"):
        read_schema(open_database(f"{URL}?allow_writing_role=yes"))
    assert not any(str(sql).startswith("SHOW GRANTS") for sql in recorder.said)


def test_the_catalog_is_read(recording: Callable[[dict[str, Any]], Recorder]) -> None:
    recorder = recording(
        {
            **READER,
            "SELECT CURRENT_DATABASE": [("SHOP", "SALES")],
            kind.TABLES: [("CHEAP", "VIEW", None), ("ORDERS", "BASE TABLE", "what was bought"), ("Shops", "BASE TABLE", None)],
            kind.COUNTS: [("CHEAP", None), ("ORDERS", 3), ("Shops", 2)],
            kind.COLUMNS: [
                ("CHEAP", "ID", "NUMBER", None), ("ORDERS", "ID", "NUMBER", "number"), ("ORDERS", "SHOP", "NUMBER", None),
                ("Shops", "ID", "NUMBER", None), ("Shops", "City", "TEXT", None),
            ],
            kind.VIEWS: [("CHEAP", "CREATE VIEW cheap AS SELECT id FROM orders")],
            "SHOW PRIMARY KEYS": [("t", "SHOP", "SALES", "ORDERS", "ID", 1, "pk"),
                ("t", "SHOP", "SALES", "Shops", "ID", 1, "pk")],
            "SHOW IMPORTED KEYS": [
                ("t", "SHOP", "SALES", "Shops", "ID", "SHOP", "SALES", "ORDERS", "SHOP", 1),
                ("t", "SHOP", "OTHER", "Shops", "ID", "SHOP", "SALES", "ORDERS", "SHOP", 1),
            ],
            "SELECT CASE": [("Oslo",), (None,), ("Rome",), ("Oslo",)],
        }
    )  # fmt: skip
    schema = read_schema(open_database(URL))
    cheap, orders, shops = schema.tables
    assert (schema.namespace, cheap.is_view, orders.comment, orders.row_estimate) == ("SALES", True, "what was bought", 3)
    assert orders.foreign_keys == (ForeignKey(column="SHOP", table="Shops", to_column="ID"),)
    assert orders.columns[0].comment == "number" and orders.primary_key == ("ID",)
    assert shops.columns[1].values == ("Oslo", "Rome")
    assert recorder.said[-1] == 'SELECT CASE WHEN LENGTH("City") <= 60 THEN "City" END FROM "Shops" LIMIT 10000'
    checked = check("SELECT city FROM sales.shops WHERE ID IN (SELECT shop FROM Orders)", "snowflake", schema)
    assert checked.sql == 'SELECT "City" FROM "Shops" WHERE ID IN (SELECT shop FROM Orders)'


@pytest.mark.parametrize(
    ("errno", "message", "expected"),
    [
        (2003, "Object 'T' does not exist or not authorized.", "missing"),
        (904, "invalid identifier 'B'", "missing"),
        (630, "Statement reached its statement or warehouse timeout", "timeout"),
        (3001, "Insufficient privileges to operate", "denied"),
        (250001, "Failed to connect to DB: Incorrect username or password was specified.", "login"),
        (250001, "Could not connect to Snowflake backend", "lost"),
        (1003, "SQL compilation error", "failed"),
    ],
)
def test_what_errors_mean(recording: Callable[[dict[str, Any]], Recorder], errno: int, message: str, expected: str) -> None:
    recording({})
    assert engine.kind_of(FakeError(message, errno)) == expected


def test_a_missing_connector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snowflake", None)
    with pytest.raises(MissingError, match="connector") as caught:
        read_schema(open_database(URL))
    assert "openarctic[snowflake]" in str(caught.value.hint)


# --- fakesnow ---

UNKNOWN_TO_FAKESNOW = ["USE SECONDARY ROLES.*", "ALTER SESSION.*"]
SHOP = [
    "CREATE TABLE shops (shop_id int PRIMARY KEY, city varchar)",
    "CREATE TABLE orders (order_id int PRIMARY KEY, shop_id int, price number(10, 2), placed timestamp_ntz)",
    'CREATE TABLE "Mixed ""Case"" 💶" ("select" int, "new\nline" varchar)',
    'INSERT INTO "Mixed ""Case"" 💶" VALUES (7, \'x\')',
    "INSERT INTO shops VALUES (1, 'Oslo'), (2, 'Rome')",
    "INSERT INTO orders VALUES (1, 1, 5, '2024-01-02 03:04:05'), (2, 1, 20.5, NULL), (3, 2, 7, NULL)",
    "CREATE VIEW cheap AS SELECT * FROM orders WHERE price < 10",
    "COMMENT ON TABLE orders IS 'what was bought'",
]


@pytest.fixture(scope="module")
def fake_server() -> Iterator[tuple[dict[str, Any], Any]]:
    if importlib.util.find_spec("fakesnow") is None:
        pytest.fail("fakesnow is not installed: make the environment with scripts/snowflake_environment.sh")
    import fakesnow
    import snowflake.connector

    with fakesnow.server(session_parameters={"nop_regexes": UNKNOWN_TO_FAKESNOW}) as told:
        connection = snowflake.connector.connect(**told, database="SHOP", schema="SALES")
        cursor = connection.cursor()
        for statement in SHOP:
            cursor.execute(statement)
        yield told, cursor
        connection.close()


@pytest.fixture
def fake(home: Path, fake_server: tuple[dict[str, Any], Any]) -> tuple[Database, Any]:
    told, cursor = fake_server
    plain = {name: value for name, value in told.items() if name != "session_parameters"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**plain, "database": "SHOP", "schema": "SALES"}.items()]
    lines += ["[fake.session_parameters]", f"nop_regexes = {json.dumps(UNKNOWN_TO_FAKESNOW)}"]
    write_toml(home / "connections.toml", "\n".join(["[fake]", *lines]))
    return open_database("snowflake://?connection_name=fake&allow_writing_role=yes"), cursor


@pytest.mark.snowflake
def test_a_question_in_fakesnow(fake: tuple[Database, Any]) -> None:
    database, cursor = fake
    schema = read_schema(database)
    orders, cheap = schema.table("orders"), schema.table("cheap")
    assert orders is not None and orders.comment == "what was bought"
    assert (orders.primary_key, orders.row_estimate) == (("ORDER_ID",), 3)
    assert cheap is not None and cheap.is_view and "price" in cheap.definition.lower()
    assert [c.name for c in orders.columns if c.is_numeric] == ["ORDER_ID", "SHOP_ID", "PRICE"]
    with Worker(database) as worker:

        def run(sql: str, limit: int = 100) -> Any:
            return worker.execute(check(sql, "snowflake", schema), limit=limit)

        by_city = run("SELECT city, sum(price) AS total FROM sales.shops JOIN orders USING (shop_id) GROUP BY city ORDER BY city")
        assert (by_city.columns, by_city.rows) == (["CITY", "TOTAL"], [("Oslo", 25.5), ("Rome", 7)])
        assert run('SELECT "select", "new\nline" FROM "Mixed ""Case"" 💶"').rows == [(7, "x")]
        cut = run("SELECT order_id FROM orders ORDER BY 1", limit=2)
        assert (cut.rows, cut.truncated) == ([(1,), (2,)], True)
        cursor.execute("DROP TABLE shops")
        with pytest.raises(MissingError, match="does not exist"):
            run("SELECT city FROM shops")
        with pytest.raises(OpenArcticError, match="convert"):
            worker.execute(Checked("SELECT '0000-01-01'::date", (), ()))


@pytest.mark.snowflake
def test_a_change_is_noticed(fake: tuple[Database, Any]) -> None:
    database, cursor = fake
    before = kind.fingerprint(database)
    assert kind.fingerprint(database) == before
    cursor.execute("ALTER TABLE orders ADD COLUMN opened date")
    assert kind.fingerprint(database) != before
