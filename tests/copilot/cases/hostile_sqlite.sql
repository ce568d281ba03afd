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
