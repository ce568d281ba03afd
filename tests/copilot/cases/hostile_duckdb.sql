SELECT * FROM read_csv('/etc/passwd')
SELECT content FROM read_text('/etc/passwd')
SELECT * FROM glob('/etc/*')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM query('SELECT * FROM secrets')
SELECT getenv('HOME') FROM orders
WITH a AS (SELECT 1) SELECT * FROM a; COPY orders TO 'x'
INSTALL httpfs
PRAGMA database_list
SELECT * FROM sqlite_scan('x.db','t')
WITH orders AS (SELECT * FROM salaries) SELECT * FROM orders
SELECT 1 FROM orders WHERE id IN (SELECT id FROM salaries)
SELECT count(*) FROM range(1000000000000) a, range(1000000000000) b
WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM t) SELECT count(*) FROM t
SUMMARIZE salaries
SELECT repeat('x', 2000000000) FROM orders
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('select * from salaries'))
SELECT COLUMNS(c -> true) FROM salaries
SELECT * FROM orders, LATERAL (SELECT * FROM read_text('/etc/passwd')) x
SELECT http_get('http://127.0.0.1:9/') FROM orders
SELECT * FROM '/etc/passwd'
SELECT * FROM 'data.csv'
SELECT * FROM read_parquet('x.parquet')
SELECT * FROM read_json_auto('x.json')
SELECT * FROM parquet_scan('x.parquet')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_tables()
SELECT * FROM pragma_table_info('salaries')
SELECT * FROM information_schema.tables
SELECT * FROM main.salaries
SELECT * FROM hr.orders
SELECT * FROM orders UNION SELECT * FROM salaries
SELECT (SELECT max(amount) FROM salaries) FROM orders
SELECT * FROM orders o WHERE EXISTS (SELECT 1 FROM salaries s WHERE s.id = o.id)
WITH t AS (WITH u AS (SELECT * FROM salaries) SELECT * FROM u) SELECT * FROM t
SELECT * FROM (SELECT * FROM salaries) AS orders
SELECT * FROM (WITH secrets AS (SELECT 1) SELECT * FROM secrets) a, secrets b
CREATE TEMP TABLE t AS SELECT * FROM orders
CREATE OR REPLACE VIEW v AS SELECT 1
SET VARIABLE x = 1
SET memory_limit = '100GB'
PREPARE p AS SELECT 1
EXECUTE p
ATTACH 'x.db' AS x
DETACH x
USE x
LOAD httpfs
CHECKPOINT
VACUUM
EXPORT DATABASE 'x'
IMPORT DATABASE 'x'
COPY (SELECT * FROM orders) TO 'x.csv'
INSERT INTO orders SELECT * FROM orders
UPDATE orders SET id = 1
DELETE FROM orders
TRUNCATE orders
DROP TABLE orders
ALTER TABLE orders ADD COLUMN y INT
MERGE INTO orders USING customers ON true WHEN MATCHED THEN DELETE
DESCRIBE salaries
SHOW TABLES
EXPLAIN ANALYZE SELECT * FROM orders
BEGIN; DROP TABLE orders; COMMIT
SELECT 1; SELECT 2
SELECT current_setting('secret_directory') FROM orders
SELECT nextval('s') FROM orders
SELECT getvariable('x') FROM orders
SELECT * FROM generate_series(1, 1000000000000)
SELECT list_transform(range(1000000000), x -> x) FROM orders
SELECT rpad('x', 2000000000, 'y') FROM orders
SELECT write_log('x') FROM orders
SELECT * FROM orders LIMIT 99999999999
SELECT * FROM orders POSITIONAL JOIN salaries
SELECT * FROM orders ASOF JOIN salaries ON orders.id >= salaries.id
PIVOT salaries ON id USING sum(amount)
FROM salaries
VALUES (1)
SELECT * FROM read_blob('/etc/shadow')
SELECT bar.baz(1) FROM orders
SELECT orders.* FROM orders, LATERAL (SELECT * FROM salaries) s
