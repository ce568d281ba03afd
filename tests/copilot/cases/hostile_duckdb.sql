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
SELECT * FROM read_ndjson('/tmp/x.json')
SELECT * FROM read_json_objects('/etc/hostname')
SELECT * FROM parquet_metadata('x.parquet')
SELECT * FROM parquet_kv_metadata('x.parquet')
SELECT * FROM sqlite_attach('x.db')
SELECT * FROM postgres_scan('host=x', 'public', 't')
SELECT * FROM mysql_query('db', 'select 1')
SELECT * FROM iceberg_scan('s3://bucket/t')
SELECT * FROM delta_scan('s3://bucket/t')
SELECT * FROM 'https://example.org/data.parquet'
SELECT * FROM 's3://bucket/data.csv'
SELECT * FROM query_table('salaries')
SELECT * FROM query_table(['orders', 'salaries'])
SELECT * FROM duckdb_columns()
SELECT * FROM duckdb_secrets()
SELECT * FROM which_secret('s3://x', 's3')
SELECT * FROM pragma_storage_info('salaries')
SELECT * FROM pragma_database_size()
SELECT * FROM pragma_show('salaries')
SELECT * FROM show_tables
SELECT * FROM duckdb_logs
SELECT * FROM sqlite_master
SELECT * FROM pg_catalog.pg_tables
SELECT * FROM temp.main.salaries
SELECT * FROM memory.salaries
SELECT * FROM test_all_types()
SELECT * FROM repeat_row(1, 'x', num_rows = 1000000000)
SELECT * FROM range(1, 1000000000000, 1)
SELECT * FROM generate_series(DATE '0001-01-01', DATE '9999-12-31', INTERVAL 1 SECOND)
SELECT unnest(range(100000000000)) FROM orders
SELECT repeat(repeat(repeat('x', 1000), 1000), 1000) FROM orders
SELECT repeat('x', id * 1000000000) FROM orders
SELECT lpad(name, 1000000000, 'x') FROM customers
SELECT lpad(rpad('x', 999, 'y'), 999, repeat('z', 999)) FROM orders
SELECT list_resize([1], 1000000000, 0) FROM orders
SELECT equi_width_bins(0, 1, 1000000000, false) FROM orders
SELECT bar(id, 0, 10, 1000000000) FROM orders
SELECT printf('%1000000000d', id) FROM orders
SELECT format('{:1000000000}', id) FROM orders
SELECT add_parquet_key('k', 'v') FROM orders
SELECT current_database() FROM orders
SELECT current_schemas(true) FROM orders
SELECT pg_get_viewdef(1) FROM orders
SELECT txid_current() FROM orders
SELECT setseed(0.5) FROM orders
SELECT error('x') FROM orders
SELECT main.secret_macro(id) FROM orders
SELECT in_search_path('main', 'x') FROM orders
SELECT version() FROM orders
SELECT id FROM orders WHERE id = ANY (SELECT id FROM salaries)
SELECT id FROM orders WHERE (id, x) IN (SELECT id, amount FROM salaries)
SELECT CASE WHEN EXISTS (SELECT 1 FROM salaries WHERE amount > 1) THEN 1 ELSE 0 END FROM orders
SELECT id FROM orders ORDER BY (SELECT amount FROM salaries LIMIT 1)
SELECT id FROM orders LIMIT (SELECT max(amount) FROM salaries)
SELECT count(*) FILTER (WHERE id IN (SELECT id FROM salaries)) FROM orders
SELECT id FROM orders GROUP BY id HAVING max(x) > (SELECT max(amount) FROM salaries)
SELECT sum(x) OVER (ORDER BY (SELECT amount FROM salaries)) FROM orders
SELECT * FROM orders o JOIN salaries s USING (id)
SELECT * FROM orders NATURAL JOIN salaries
SELECT * FROM orders SEMI JOIN salaries ON orders.id = salaries.id
SELECT * FROM (FROM salaries)
WITH a AS (SELECT 1 AS id), b AS (SELECT * FROM salaries) SELECT * FROM a
WITH salaries2 AS (SELECT * FROM salaries) SELECT * FROM orders
WITH RECURSIVE r AS (SELECT id FROM salaries UNION ALL SELECT id FROM r WHERE id < 0) SELECT * FROM r
SELECT * FROM orders EXCEPT SELECT * FROM salaries
SELECT list_transform([1], x -> (SELECT max(amount) FROM salaries)) FROM orders
SELECT COLUMNS(salaries.*) FROM salaries
SELECT * REPLACE ((SELECT max(amount) FROM salaries) AS x) FROM orders
UNPIVOT salaries ON amount INTO NAME n VALUE v
PIVOT (SELECT * FROM orders JOIN salaries USING (id)) ON region USING sum(amount)
SUMMARIZE orders
SHOW ALL TABLES
CALL duckdb_settings()
INSERT OR REPLACE INTO orders VALUES (1)
CREATE MACRO f(x) AS (SELECT max(amount) FROM salaries)
CREATE SECRET s (TYPE s3, KEY_ID 'x')
COMMENT ON TABLE orders IS 'x'
FORCE CHECKPOINT
RESET threads
SELECT * FROM orders; SELECT * FROM salaries
SELECT * FROM orders /* */ UNION ALL /* */ SELECT * FROM salaries --
