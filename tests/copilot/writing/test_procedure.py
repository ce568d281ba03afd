"""Procedures: good ones pass whole, each bad line is found, and a real server takes what passed."""

from __future__ import annotations

import re

import pytest

from openarctic.copilot.writing.draft import Problem
from openarctic.copilot.writing.procedure import Procedure
from openarctic.errors import UserError

from ..postgres_server import Server
from .world import PLPGSQL, SHOP_SQL, SNOWFLAKE, shop

TARGETS = ("monthly_revenue",)


def problems(sql: str, dialect: str = "postgres", targets: tuple[str, ...] = TARGETS) -> list[Problem]:
    task = Procedure("refresh", shop(dialect), targets)
    return task.check({"p.sql": sql})


@pytest.mark.parametrize(("dialect", "sql"), [("postgres", PLPGSQL), ("snowflake", SNOWFLAKE)])
def test_a_whole_procedure_passes(dialect: str, sql: str) -> None:
    task = Procedure("refresh", shop(dialect), TARGETS, "refresh_revenue")
    files = task.read(f"Of course.\n\n```sql\n{sql}```\nIt refreshes.")
    assert files == {"refresh_revenue.sql": sql}
    assert task.check(files) == []


def body(line: str, declared: str = "", dialect: str = "postgres") -> str:
    head = "LANGUAGE plpgsql" if dialect == "postgres" else "RETURNS VARCHAR LANGUAGE SQL EXECUTE AS CALLER"
    before = f"CREATE OR REPLACE PROCEDURE p(p_from date)\n{head} AS $$\nDECLARE\n  v_n integer;\n"
    return f"{before}  {declared}\nBEGIN\n  {line}\nEND;\n$$;\n"


@pytest.mark.parametrize(
    "line",
    [
        "EXECUTE 'DROP TABLE orders';",
        "EXECUTE format('DELETE FROM %I', p_from);",
        "EXECUTE 'SELECT 1' INTO v_n;",
        "FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP;",
        "RETURN QUERY EXECUTE 'SELECT 1';",
        "v_n := (SELECT pg_sleep(9));",
        "PERFORM dblink('host=evil', 'SELECT 1');",
        "PERFORM pg_read_file('/etc/passwd');",
        "PERFORM lo_export(1, '/tmp/x');",
        "PERFORM set_config('role', 'postgres', false);",
        "DELETE FROM orders;",
        "UPDATE orders SET amount = 0 WHERE id = 1;",
        "TRUNCATE customers;",
        "INSERT INTO customers (id) VALUES (1);",
        "DROP TABLE orders;",
        "CALL other();",
        "DO $x$ BEGIN NULL; END $x$;",
        "COPY orders TO PROGRAM 'sh';",
        "COPY orders FROM '/etc/passwd';",
        "LOCK TABLE orders;",
        "GRANT ALL ON orders TO public;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
        "CREATE TRIGGER t BEFORE INSERT ON orders EXECUTE FUNCTION f();",
        "ALTER TABLE orders DROP COLUMN amount;",
        "SET ROLE postgres;",
        "SET SESSION AUTHORIZATION postgres;",
        "SELECT nome INTO v_n FROM customers;",
        "SELECT name INTO v_m FROM customers;",
        "SELECT id, name INTO v_n FROM customers;",
        "SELECT name FROM customers;",
        "SELECT 1 INTO v_n FROM nowhere;",
        "v_m := 1;",
        "v_n := v_m + 1;",
        "v_n := nothing(1);",
        "IF v_m > 1 THEN NULL; END IF;",
        "IF v_n > 1 THEN NULL;",
        "LOOP v_n := 1;",
        "RAISE NOTICE 'a % b %', v_n;",
        "FOR r IN SELECT id FROM customers LOOP NULL; END LOOP;",
        "PREPARE q AS SELECT 1;",
        "NOTIFY x;",
        "OPEN c FOR EXECUTE 'SELECT 1';",
        "INSERT INTO monthly_revenue SELECT 1;",
        "v_n := length(date'\\'); DELETE FROM orders; --');",
        "RAISE NOTICE 'a' /* /* */ ; DELETE FROM orders; -- */ ;",
        "v_n.a[(SELECT 1 FROM pg_sleep(9))] := 1;",
        "END; $$; DROP TABLE orders; DO $$ BEGIN NULL;",
        "'",
    ],
)
def test_each_bad_line_is_found(line: str) -> None:
    assert problems(body(line)), line


@pytest.mark.parametrize(
    "line",
    [
        "EXECUTE IMMEDIATE 'DROP TABLE orders';",
        "EXECUTE IMMEDIATE :p_from;",
        "LET r RESULTSET := (EXECUTE IMMEDIATE 'SELECT 1');",
        "LET q VARCHAR := 'DELETE FROM orders'; EXECUTE IMMEDIATE :q;",
        "CALL other();",
        "DELETE FROM orders;",
        "DELETE FROM IDENTIFIER(:p_from);",
        "INSERT INTO IDENTIFIER('orders') SELECT 1;",
        "SELECT COUNT(*) INTO :v_n FROM IDENTIFIER(:p_from);",
        "SELECT COUNT(*) INTO :v_n FROM TABLE(:p_from);",
        "SELECT COUNT(*) INTO :v_n FROM orders WHERE id = :v_m;",
        "SELECT COUNT(*) INTO :v_m FROM orders;",
        "SELECT SYSTEM$CANCEL_ALL_QUERIES(1) INTO :v_n;",
        "COPY INTO @stage FROM orders;",
        "PUT file:///etc/passwd @stage;",
        "GRANT ROLE ACCOUNTADMIN TO USER x;",
        "USE ROLE ACCOUNTADMIN;",
        "CREATE STAGE s URL = 's3://evil';",
        "CREATE TASK t AS SELECT 1;",
        "ALTER TABLE orders DROP COLUMN amount;",
        "UNDROP TABLE orders;",
        "INSERT OVERWRITE INTO orders SELECT * FROM orders;",
        "FOR r IN orders DO NULL; END FOR;",
        "v_n := v_m;",
        "RETURN TABLE(v_n);",
        "ASYNC (DELETE FROM orders);",
    ],
)
def test_each_bad_line_of_snowflake_is_found(line: str) -> None:
    assert problems(body(line, dialect="snowflake"), "snowflake"), line


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpython3u AS $$ import os $$;"),
        ("postgres", "CREATE FUNCTION p() RETURNS int LANGUAGE c AS 'evil.so', 'p';"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql SET search_path = evil AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql SET role = postgres AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE PROCEDURE other.p() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE PROCEDURE p(x int DEFAULT pg_sleep(9)) LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE FUNCTION p() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;"),
        ("postgres", "CREATE FUNCTION p() RETURNS int LANGUAGE plpgsql AS $$ BEGIN COMMIT; RETURN 1; END $$;"),
        ("postgres", "CREATE FUNCTION p() RETURNS int LANGUAGE sql AS $$ DELETE FROM orders $$;"),
        ("postgres", "CREATE FUNCTION p() RETURNS TABLE (a int) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT 1, 2; END $$;"),
        (
            "postgres",
            "CREATE FUNCTION p() RETURNS TABLE (id int) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT id FROM orders; END $$;",
        ),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$; DELETE FROM monthly_revenue;"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$; GRANT EXECUTE ON PROCEDURE p TO public;"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$; SELECT pg_sleep(9);"),
        ("postgres", "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN NULL; END "),
        ("postgres", "SELECT 1;"),
        ("postgres", ""),
        (
            "snowflake",
            "CREATE PROCEDURE p() RETURNS INT LANGUAGE JAVASCRIPT AS $$ snowflake.execute({sqlText: 'DROP TABLE x'}) $$;",
        ),
        ("snowflake", "CREATE PROCEDURE p() RETURNS INT LANGUAGE PYTHON RUNTIME_VERSION = '3.11' HANDLER = 'f' AS $$ x $$;"),
        ("snowflake", "CREATE PROCEDURE p() RETURNS INT LANGUAGE SQL AS $$ BEGIN RETURN 1; END $$;"),
        ("snowflake", "CREATE PROCEDURE p() RETURNS INT LANGUAGE SQL EXECUTE AS OWNER AS $$ BEGIN RETURN 1; END $$;"),
        (
            "snowflake",
            "CREATE PROCEDURE p() RETURNS INT LANGUAGE SQL EXECUTE AS CALLER AS BEGIN DELETE FROM orders; RETURN 1; END;",
        ),
    ],
)
def test_what_surrounds_the_body_is_checked(dialect: str, sql: str) -> None:
    assert problems(sql, dialect), sql


def _with(sql: str, hostile: str) -> list[str]:
    """The text with a statement behind each of its body's statements and block words."""
    start = sql.index("BEGIN\n")
    ends = [m.end() for m in re.finditer(r"(?:;|BEGIN|THEN|ELSE|LOOP|DO|REPEAT)\n", sql) if m.end() > start]
    last = [place for place in ends if "END" in sql[place:] and "BEGIN" not in sql[place:]]
    return [f"{sql[:place]}{hostile}\n{sql[place:]}" for place in last]


BODIES = [("postgres", PLPGSQL.partition("CREATE OR REPLACE FUNCTION")[0]), ("snowflake", SNOWFLAKE)]


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("hostile", ["DELETE FROM orders;", "EXECUTE IMMEDIATE 'x';"])
@pytest.mark.parametrize(("dialect", "sql"), BODIES)
def test_no_place_of_a_body_is_overlooked(dialect: str, sql: str, hostile: str, step: int) -> None:
    """What may not stand there is found wherever it stands."""
    changed = _with(sql, hostile)
    assert len(changed) > 20
    for text in changed[::step]:
        found = problems(text, dialect)
        assert found and any(word in str(found[0]) for word in ("source", "EXECUTE", "expected")), text


def test_problems_name_line_and_nearest_name() -> None:
    [problem] = problems(body("SELECT count(*) INTO v_n FROM orders WHERE amout > 1;"))
    assert (problem.line, problem.hint) == (7, "did you mean amount?")
    [problem] = problems(body("v_m := 1;"))
    assert problem.hint == "did you mean v_n?"
    [problem] = problems(body("SELECT count(*) INTO v_n FROM orders WHERE amount > amount;", declared="amount numeric;"))
    assert "variable and a column" in problem.message


def test_rows_have_the_fields_of_their_queries() -> None:
    good = "FOR r IN SELECT id AS a, name FROM customers LOOP v_n := r.a; END LOOP;"
    assert problems(body(good, declared="r record;")) == []
    assert problems(body(good.replace("r.a", "r.b"), declared="r record;"))
    assert problems(body("v_n := r.a;", declared="r record;"))
    assert problems(body("SELECT * INTO r FROM orders; v_n := r.amount;", declared="r orders%ROWTYPE;")) == []
    assert problems(body("v_n := r.name;", declared="r orders%ROWTYPE;"))


def test_commas_in_an_array_part_no_parameters() -> None:
    sql = "CREATE PROCEDURE p(p_ids integer[] DEFAULT ARRAY[1, {}], p_n integer DEFAULT 1) LANGUAGE plpgsql AS $$\n{}\n$$;"
    assert problems(sql.format("2", "BEGIN RAISE NOTICE '% %', p_ids, p_n; END;")) == []
    [problem] = problems(sql.format("(SELECT max(id) FROM nowhere)", "BEGIN NULL; END;"))
    assert "nowhere" in problem.message


def test_deep_nesting_ends_in_a_problem() -> None:
    assert problems(body("BEGIN " * 60 + "NULL; " + "END; " * 60))
    assert problems(body("IF v_n > 1 THEN " * 800 + "NULL; " + "END IF; " * 800))


def test_only_two_engines_have_procedures() -> None:
    with pytest.raises(UserError, match="SQLite has no stored procedures"):
        Procedure("refresh", shop("sqlite"))


def test_the_prompt_names_schema_targets_and_rules() -> None:
    prompt = Procedure("refresh it", shop("snowflake"), TARGETS, "refresh_revenue").prompt()
    for told in ("CREATE TABLE ORDERS", "refresh it", "refresh_revenue", "EXECUTE AS CALLER", "monthly_revenue and nothing else"):
        assert told in prompt


def test_a_server_takes_what_passed(postgres: Server) -> None:
    import psycopg

    postgres.run("CREATE DATABASE written")
    postgres.run(*[statement for statement in SHOP_SQL.split(";") if statement.strip()], name="written")
    postgres.run(PLPGSQL, name="written")
    with psycopg.connect(postgres.admin_url.replace("/postgres", "/written"), autocommit=True) as connection:
        connection.execute("CALL refresh_revenue()")
        rows = connection.execute("SELECT month::text, total FROM monthly_revenue ORDER BY month").fetchall()
        assert [(month, float(total)) for month, total in rows] == [("2024-01-01", 9.5), ("2024-02-01", 7.0)]
        assert len(connection.execute("SELECT * FROM orders_of(1)").fetchall()) == 2
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
