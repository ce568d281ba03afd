"""A shop in every dialect, and what a capable model would write for it."""

from __future__ import annotations

from openarctic.copilot.schema import Column, ForeignKey, Schema, Table

SHOP_SQL = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR, country VARCHAR);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id), amount DECIMAL(10, 2), ordered_on DATE
);
INSERT INTO customers VALUES (1, 'Ann', 'NO'), (2, 'Bo', 'SE');
INSERT INTO orders VALUES (1, 1, 9.5, '2024-01-03'), (2, 1, 3, '2024-02-01'), (3, 2, 4, '2024-02-09');
"""


def shop(dialect: str) -> Schema:
    """The schema of `SHOP_SQL` as a database of that dialect keeps it."""
    spell = str.upper if dialect == "snowflake" else str

    def columns(*names: str) -> tuple[Column, ...]:
        return tuple(Column(name=spell(name)) for name in names)

    customers = Table(name=spell("customers"), columns=columns("id", "name", "country"), primary_key=(spell("id"),))
    key = ForeignKey(column=spell("customer_id"), table=spell("customers"), to_column=spell("id"))
    orders = Table(
        name=spell("orders"),
        columns=columns("id", "customer_id", "amount", "ordered_on"),
        primary_key=(spell("id"),),
        foreign_keys=(key,),
    )
    return Schema(dialect=dialect, tables=(customers, orders))


PLPGSQL = """\
CREATE TABLE IF NOT EXISTS monthly_revenue (month date PRIMARY KEY, total numeric(12, 2) NOT NULL DEFAULT 0);

CREATE OR REPLACE PROCEDURE refresh_revenue(p_from date DEFAULT '2020-01-01', INOUT p_count integer DEFAULT 0)
LANGUAGE plpgsql
SECURITY INVOKER
SET search_path = public
AS $body$
DECLARE
  v_total numeric(12, 2) := 0;
  v_first orders%ROWTYPE;
  v_name customers.name%TYPE;
  r record;
BEGIN
  -- a comment; with a semicolon, and /* another */
  IF p_from IS NULL THEN
    RAISE EXCEPTION 'p_from is missing: %', p_from USING HINT = 'give a date';
  ELSIF p_from > now()::date THEN
    RETURN;
  END IF;
  DELETE FROM monthly_revenue WHERE month >= p_from;
  INSERT INTO monthly_revenue (month, total)
  SELECT date_trunc('month', o.ordered_on)::date, sum(o.amount)
  FROM orders AS o WHERE o.ordered_on >= p_from GROUP BY 1
  ON CONFLICT (month) DO UPDATE SET total = EXCLUDED.total;
  GET DIAGNOSTICS p_count = ROW_COUNT;
  SELECT sum(amount) INTO STRICT v_total FROM orders;
  SELECT * INTO v_first FROM orders ORDER BY id LIMIT 1;
  FOR r IN SELECT c.id, c.name FROM customers AS c ORDER BY c.id LOOP
    v_total := v_total + CASE WHEN r.name = 'END LOOP;' THEN 1 ELSE 0 END;
    CONTINUE WHEN r.id > 3;
    RAISE NOTICE 'customer % of %%, % in all', r.name, v_total;
  END LOOP;
  FOR i IN 1..3 LOOP
    v_total := v_total + i;
    EXIT WHEN v_total > 100;
  END LOOP;
  WHILE v_total < 3 LOOP
    v_total := v_total + 1;
  END LOOP;
  CASE WHEN v_total > 5 THEN NULL; ELSE v_total := 5; END CASE;
  UPDATE monthly_revenue SET total = total + 0 WHERE month = v_first.ordered_on;
  PERFORM count(*) FROM customers WHERE id = v_first.customer_id;
EXCEPTION WHEN division_by_zero OR others THEN
  RAISE NOTICE 'failed: %', SQLERRM;
END;
$body$;

CREATE OR REPLACE FUNCTION orders_of(p_customer integer)
RETURNS TABLE (order_id integer, order_amount numeric)
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  RETURN QUERY SELECT o.id, o.amount FROM orders AS o WHERE o.customer_id = p_customer ORDER BY o.id;
END;
$$;
"""

SNOWFLAKE = """\
CREATE TABLE IF NOT EXISTS monthly_revenue (month DATE, total NUMBER(12, 2));

CREATE OR REPLACE PROCEDURE refresh_revenue(p_from DATE)
RETURNS VARCHAR
LANGUAGE SQL
EXECUTE AS CALLER
AS
$$
DECLARE
  v_count INTEGER DEFAULT 0;
  v_total NUMBER(12, 2);
  c1 CURSOR FOR SELECT id, name FROM customers;
  res RESULTSET;
  no_rows EXCEPTION (-20001, 'no rows');
BEGIN
  LET v_limit INTEGER := 10;
  BEGIN TRANSACTION;
  DELETE FROM monthly_revenue WHERE month >= :p_from;
  MERGE INTO monthly_revenue AS t
  USING (SELECT DATE_TRUNC('month', ordered_on) AS m, SUM(amount) AS s FROM orders WHERE ordered_on >= :p_from GROUP BY 1) AS s
  ON t.month = s.m
  WHEN MATCHED THEN UPDATE SET total = s.s
  WHEN NOT MATCHED THEN INSERT (month, total) VALUES (s.m, s.s);
  v_count := SQLROWCOUNT;
  COMMIT;
  SELECT SUM(amount) INTO :v_total FROM orders WHERE ordered_on >= :p_from LIMIT :v_limit;
  IF (v_total IS NULL) THEN
    RAISE no_rows;
  ELSEIF (v_count > 3) THEN
    v_count := v_count + 1;
  END IF;
  FOR r IN c1 DO
    v_count := v_count + r.id;
  END FOR;
  FOR i IN 1 TO 3 DO
    v_count := v_count + i;
  END FOR;
  WHILE (v_count < 3) DO
    v_count := v_count + 1;
  END WHILE;
  REPEAT
    v_count := v_count - 1;
  UNTIL (v_count < 100)
  END REPEAT;
  res := (SELECT month, total FROM monthly_revenue);
  RETURN 'ok ' || v_count;
EXCEPTION
  WHEN OTHER THEN
    ROLLBACK;
    RETURN SQLERRM;
END;
$$;
"""

ETL = '''\
"""Revenue by month."""
import argparse
import os

import duckdb

CREATE = """
CREATE TABLE IF NOT EXISTS monthly_revenue (month DATE, total DECIMAL(12, 2))
"""
STEPS = [
    "DELETE FROM monthly_revenue",
    "INSERT INTO monthly_revenue SELECT date_trunc('month', ordered_on), sum(amount) FROM orders GROUP BY 1",
]


def load(path: str, since: str) -> int:
    with duckdb.connect(path) as connection:
        connection.execute(CREATE)
        for step in STEPS:
            connection.execute(step)
        rows = connection.execute("SELECT count(*) FROM monthly_revenue WHERE month >= ?", [since]).fetchall()
    return rows[0][0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--since", default="2020-01-01")
    args = parser.parse_args()
    print(load(os.environ["SHOP_DB"], args.since))


if __name__ == "__main__":
    main()
'''

DBT = """\
Here are the models.

```sql models/revenue_by_month.sql
{{ config(materialized='incremental', unique_key='month') }}
-- one row a month
select
    date_trunc('month', o.ordered_on) as month,
    sum(o.amount) as total
from {{ source('shop', 'orders') }} as o
{% if is_incremental() %}
where o.ordered_on > (select max(month) from {{ this }})
{% endif %}
group by 1
```

And a second one, which reads the first:

```sql
-- models/good_months.sql
select * from {{ ref('revenue_by_month') }} where revenue_by_month.total > 10
```

```yaml
version: 2
models:
  - name: revenue_by_month
    description: Revenue of every month
    columns:
      - name: month
        description: First day of the month
        data_tests: [not_null, unique]
      - name: total
        description: Sum of the amounts
  - name: good_months
    description: Months with more than 10
    columns:
      - name: month
        data_tests:
          - relationships: {arguments: {to: ref('revenue_by_month'), field: month}}
```
"""
