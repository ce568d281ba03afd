-- One good statement a line; the first ones are the survey's.
SELECT count(*) FROM orders
WITH t AS (SELECT * FROM orders) SELECT region, sum(x) FROM t GROUP BY ALL
SELECT * EXCLUDE (x) FROM orders QUALIFY row_number() OVER (PARTITION BY id ORDER BY d)=1
SELECT o.id, c.name FROM orders o JOIN customers c ON o.cid=c.id UNION ALL SELECT 1,'x' FROM orders
SELECT name AS "update" FROM customers
SELECT * FROM orders WHERE note = 'drop table; delete'
PIVOT orders ON region USING sum(x)
SELECT unnest(tags) FROM orders
-- more
FROM orders
FROM orders SELECT id, x WHERE x > 3
SELECT * FROM main.orders
SELECT main.orders.id FROM main.orders
SELECT orders.* FROM orders
SELECT id, x AS double_x FROM orders WHERE double_x > 3 ORDER BY double_x
WITH orders AS (SELECT * FROM orders WHERE x > 3) SELECT count(*) FROM orders
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t
WITH a AS (SELECT id FROM orders), b AS (SELECT id FROM a) SELECT * FROM b
SELECT region, count(*) AS n FROM orders GROUP BY region HAVING n > 1 ORDER BY n DESC LIMIT 3
SELECT * FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = o.cid)
SELECT * FROM orders o WHERE x > (SELECT avg(x) FROM orders i WHERE i.region = o.region)
SELECT o.id, z.name FROM orders o, LATERAL (SELECT name FROM customers c WHERE c.id = o.cid) z
SELECT upper(name), length(name), substr(name, 1, 2), name || 'x', name LIKE 'A%' FROM customers
SELECT strftime(d, '%Y-%m'), year(d), date_trunc('month', d), extract(day FROM d), d + INTERVAL 1 DAY FROM orders
SELECT sum(x) OVER (PARTITION BY region ORDER BY d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s FROM orders
SELECT sum(x) OVER w FROM orders WINDOW w AS (PARTITION BY region)
SELECT region, sum(x) FILTER (WHERE x > 2) FROM orders GROUP BY ROLLUP (region)
SELECT string_agg(name, ', ' ORDER BY name) FROM customers
SELECT quantile_cont(x, 0.5), median(x), mode(x), stddev(x), approx_count_distinct(x) FROM orders
SELECT * REPLACE (x * 2 AS x) FROM orders
SELECT arg_max(id, x), max_by(id, x) FROM orders
SELECT tags[1], tags[1:2] FROM orders
SELECT o FROM orders o
SELECT id FROM orders UNION SELECT id FROM customers ORDER BY id LIMIT 2
(SELECT id FROM orders LIMIT 1) UNION ALL (SELECT id FROM customers LIMIT 1)
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(n, s)
SELECT i FROM range(5) t(i)
SELECT * FROM generate_series(1, 10)
SELECT unnest(range(3))
PIVOT (SELECT region, x, id FROM orders) ON region IN ('north', 'south') USING sum(x) AS s GROUP BY id
SELECT * FROM orders PIVOT (sum(x) FOR region IN ('north', 'south'))
WITH p AS (PIVOT orders ON region USING sum(x)) SELECT * FROM p
SELECT * FROM orders USING SAMPLE 10
SELECT * FROM orders TABLESAMPLE 10%
SELECT DISTINCT ON (region) region, x FROM orders ORDER BY region, x
SELECT CASE WHEN x > 3 THEN 'big' ELSE 'small' END AS size, count(*) FROM orders GROUP BY size
SELECT CAST(x AS VARCHAR), x::INT, try_cast(note AS INTEGER) FROM orders
SELECT coalesce(note, 'none'), nullif(region, ''), ifnull(note, '') FROM orders
SELECT regexp_matches(name, '^A'), regexp_replace(name, 'a', 'b'), name SIMILAR TO 'A.*' FROM customers
SELECT count(DISTINCT region), count_star() FROM orders
SELECT * FROM orders JOIN customers USING (id)
SELECT * FROM orders NATURAL JOIN customers
SELECT * FROM orders LEFT JOIN customers ON orders.cid = customers.id WHERE customers.id IS NULL
SELECT * FROM (orders JOIN customers ON orders.cid = customers.id)
SELECT rowid, id FROM orders
SELECT x: id FROM orders
SELECT ID, "Region" FROM ORDERS
SELECT '; DROP TABLE orders; --' FROM orders -- a comment
SELECT x FROM (SELECT x FROM (SELECT x FROM orders))
SELECT (SELECT max(x) FROM orders) - (SELECT min(x) FROM orders)
SELECT 1
-- what analysts write
SELECT list_transform(tags, t -> t || '!') FROM orders
SELECT COLUMNS('x|id') FROM orders
SELECT COLUMNS(c -> c LIKE 'x%') FROM orders
SELECT {'a': id, 'b': x}.a FROM orders
SELECT * FROM generate_series(DATE '2024-01-01', DATE '2024-12-31', INTERVAL 1 DAY) AS g(day)
UNPIVOT orders ON x, cid INTO NAME n VALUE v
SELECT region, sum(x) AS total FROM orders GROUP BY ALL ORDER BY ALL
SELECT o.*, c.name FROM orders AS o LEFT JOIN customers AS c ON o.cid = c.id WHERE c.name IS NOT DISTINCT FROM 'Ann'
SELECT lpad(CAST(id AS VARCHAR), 5, '0'), rpad(name, 10, ' ') FROM customers
SELECT split_part(name, ' ', 1) AS first_name, count(*) FROM customers GROUP BY 1
SELECT date_diff('day', min(d), max(d)), time_bucket(INTERVAL '1 month', d) FROM orders GROUP BY 2
SELECT id FROM orders ANTI JOIN customers ON orders.cid = customers.id
SELECT id FROM orders SEMI JOIN customers ON orders.cid = customers.id
SELECT * FROM orders ASOF JOIN customers ON orders.id >= customers.id
SELECT region, list(x ORDER BY x) AS xs, len(list(x)) FROM orders GROUP BY region
SELECT x, ntile(4) OVER (ORDER BY x) AS quarter FROM orders
SELECT d, sum(x) OVER (ORDER BY d RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW) AS week FROM orders
SELECT region, grouping(region), sum(x) FROM orders GROUP BY CUBE (region)
SELECT region, cid, sum(x) FROM orders GROUP BY GROUPING SETS ((region), (region, cid), ())
SELECT regr_slope(x, id), corr(x, id), skewness(x), kurtosis(x) FROM orders
SELECT json_extract_string(note, '$.a'), note->>'$.b' FROM orders
SELECT list_filter([1, 2, 3], v -> v > 1), list_contains([1, 2], 2)
SELECT levenshtein(name, 'Ann') AS distance, name FROM customers ORDER BY distance LIMIT 3
SELECT id FROM orders WHERE d BETWEEN DATE '2024-01-01' AND current_date AND region NOT IN ('east')
SELECT (SELECT count(*) FROM orders AS o WHERE o.cid = c.id) AS n, c.name FROM customers AS c ORDER BY n DESC
WITH m AS MATERIALIZED (SELECT region, avg(x) AS a FROM orders GROUP BY region) SELECT * FROM m WHERE a > (SELECT avg(a) FROM m)
