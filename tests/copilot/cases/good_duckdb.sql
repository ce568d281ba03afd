SELECT count(*) FROM orders
WITH t AS (SELECT * FROM orders) SELECT region, sum(x) FROM t GROUP BY ALL
SELECT * EXCLUDE (x) FROM orders QUALIFY row_number() OVER (PARTITION BY id ORDER BY d)=1
SELECT o.id, c.name FROM orders o JOIN customers c ON o.cid=c.id UNION ALL SELECT 1,'x' FROM orders
SELECT name AS "update" FROM customers
SELECT * FROM orders WHERE note = 'drop table; delete'
PIVOT orders ON region USING sum(x)
SELECT unnest(tags) FROM orders
