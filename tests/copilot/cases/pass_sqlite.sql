-- One good statement a line; the first is the survey's.
SELECT strftime('%Y', d), count(*) FROM orders GROUP BY 1
-- more
SELECT date(d), datetime('now', '-1 day'), julianday(d), unixepoch(d) FROM orders
SELECT count(*), sum(x), total(x), avg(x), group_concat(region, ',') FROM orders
SELECT substr(name, 1, 2), upper(name), trim(name), name || 'x', length(name), typeof(name) FROM customers
SELECT rowid, * FROM orders WHERE rowid < 3
SELECT T1.id FROM orders AS T1 JOIN customers AS T2 ON T1.cid = T2.id WHERE T2.name LIKE '%a%' ORDER BY T1.x DESC LIMIT 1
SELECT name FROM customers EXCEPT SELECT T2.name FROM orders AS T1 JOIN customers AS T2 ON T1.cid = T2.id
SELECT name FROM customers WHERE id NOT IN (SELECT cid FROM orders)
SELECT region, avg(x) FROM orders GROUP BY region HAVING count(*) >= 2
SELECT * FROM orders WHERE x BETWEEN 1 AND 4 AND region IN ('north', 'south')
SELECT `id`, [x], "region" FROM orders
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t
WITH orders AS (SELECT * FROM orders WHERE x > 2) SELECT count(*) FROM orders
SELECT row_number() OVER (ORDER BY x), lag(x) OVER (ORDER BY d) FROM orders
SELECT json_extract('{"a": 1}', '$.a'), '{"a": 1}' ->> '$.a'
SELECT name GLOB 'A*', name COLLATE NOCASE FROM customers
SELECT max(x), min(d), round(avg(x), 2), abs(x), random() IS NOT NULL FROM orders
SELECT CAST(x AS INTEGER), x % 2, x / 2, -x FROM orders
SELECT * FROM orders LIMIT 2 OFFSET 1
SELECT * FROM orders LIMIT 1, 2
SELECT * FROM (SELECT count(*) AS n FROM orders) WHERE n > 0
SELECT EXISTS (SELECT 1 FROM orders)
SELECT current_date, current_timestamp
-- what analysts write
SELECT iif(x > 3, 'a', 'b'), instr(note, 'a'), replace(note, 'a', 'b') FROM orders
SELECT json_array_length(note), json_type(note), json_valid(note) FROM orders WHERE note LIKE '[%'
SELECT strftime('%Y-%m', d) AS month, sum(x) AS total FROM orders GROUP BY month ORDER BY month
SELECT date(d, 'start of month', '+1 month', '-1 day') FROM orders
SELECT region, group_concat(DISTINCT cid) FROM orders GROUP BY region
SELECT o.id, c.name FROM orders o NATURAL JOIN customers c
SELECT id, x, sum(x) OVER (PARTITION BY region ORDER BY d, id) AS running FROM orders
SELECT id, CASE region WHEN 'north' THEN 1 WHEN 'south' THEN 2 ELSE 3 END AS code FROM orders
SELECT count(*) FILTER (WHERE x > 3) AS many, count(DISTINCT region) FROM orders
SELECT name FROM customers WHERE lower(name) = 'ann' OR name IS NULL ORDER BY name COLLATE NOCASE
SELECT cid, x, rank() OVER (PARTITION BY cid ORDER BY x DESC) AS place FROM orders
SELECT * FROM orders WHERE (cid, region) IN (SELECT cid, region FROM orders WHERE x > 3)
