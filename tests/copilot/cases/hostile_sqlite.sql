SELECT load_extension('x.so') FROM orders
ATTACH DATABASE 'x' AS y
SELECT sql FROM sqlite_master
SELECT zeroblob(1000000000) FROM orders
PRAGMA table_info(salaries)
SELECT * FROM pragma_table_info('salaries')
SELECT * FROM sqlite_schema
SELECT * FROM sqlite_temp_master
SELECT name FROM main.sqlite_master
SELECT randomblob(1000000000) FROM orders
SELECT printf('%.*c', 1000000000, 'x') FROM orders
SELECT readfile('/etc/passwd') FROM orders
SELECT writefile('x', 'y') FROM orders
SELECT * FROM salaries
SELECT * FROM orders WHERE id = (SELECT id FROM salaries LIMIT 1)
WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c
REPLACE INTO orders VALUES (1)
INSERT INTO orders DEFAULT VALUES
DELETE FROM orders WHERE 1
UPDATE orders SET id = 2
VACUUM INTO 'x'
REINDEX
ANALYZE
DETACH DATABASE main
SELECT * FROM json_each('[1]'), salaries
SELECT fts3_tokenizer('x') FROM orders
SELECT * FROM orders WHERE id IN salaries
SELECT * FROM orders WHERE id NOT IN sqlite_master
SELECT * FROM orders WHERE id IN (SELECT id FROM salaries)
SELECT * FROM temp.sqlite_master
SELECT * FROM main.salaries
SELECT * FROM "salaries"
SELECT * FROM [salaries]
SELECT * FROM `salaries`
SELECT * FROM SALARIES
SELECT * FROM orders, salaries
SELECT * FROM orders LEFT JOIN salaries ON 1
SELECT * FROM orders CROSS JOIN salaries
SELECT max(amount) FROM (SELECT amount FROM salaries)
SELECT (SELECT amount FROM salaries) AS x
SELECT id FROM orders UNION ALL SELECT amount FROM salaries
SELECT id FROM orders EXCEPT SELECT id FROM salaries
SELECT id FROM orders GROUP BY id HAVING (SELECT count(*) FROM salaries) > 0
SELECT id FROM orders ORDER BY (SELECT amount FROM salaries)
SELECT id FROM orders LIMIT (SELECT amount FROM salaries)
SELECT EXISTS (SELECT 1 FROM salaries WHERE amount > 900000)
WITH orders AS (SELECT amount AS id FROM salaries) SELECT id FROM orders
WITH a AS (SELECT 1) SELECT * FROM a, salaries
SELECT * FROM (WITH salaries AS (SELECT 1 AS amount) SELECT * FROM salaries) a, salaries b
SELECT * FROM sqlite_dbpage
SELECT * FROM dbstat
SELECT * FROM sqlite_stat1
SELECT * FROM pragma_database_list
SELECT * FROM pragma_function_list()
SELECT * FROM pragma_table_list
SELECT * FROM generate_series(1, 1000000000000)
SELECT * FROM fts5vocab('orders', 'row')
SELECT * FROM json_each('[1]')
SELECT * FROM fsdir('/etc')
SELECT * FROM zipfile('x.zip')
SELECT * FROM csv('x.csv')
SELECT edit('x') FROM orders
SELECT eval('select 1') FROM orders
SELECT printf('%1000000000d', 1) FROM orders
SELECT format('%*d', 1000000000, 1) FROM orders
SELECT replicate('x', 1000000000) FROM orders
SELECT sqlite_compileoption_get(1) FROM orders
SELECT sqlite_source_id() FROM orders
SELECT changes() FROM orders
SELECT last_insert_rowid() FROM orders
SELECT writefile('/tmp/x', note) FROM orders
SELECT * FROM orders; DROP TABLE orders
SELECT 1; ATTACH 'x' AS y
PRAGMA writable_schema = ON
PRAGMA journal_mode = DELETE
PRAGMA key = 'x'
BEGIN
SAVEPOINT x
ALTER TABLE orders RENAME TO o
CREATE TEMP VIEW v AS SELECT * FROM salaries
CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM orders; END
INSERT INTO orders SELECT * FROM orders RETURNING *
DELETE FROM orders RETURNING *
UPDATE orders SET id = 1 RETURNING id
WITH d AS (SELECT 1) DELETE FROM orders
EXPLAIN QUERY PLAN SELECT * FROM salaries
DROP VIEW v
CREATE VIRTUAL TABLE t USING fts5(x)
