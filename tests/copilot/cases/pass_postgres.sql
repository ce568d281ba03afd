-- One good statement a line; the first ones are the survey's.
SELECT date_trunc('month', d), sum(x) FILTER (WHERE y) FROM orders GROUP BY 1
SELECT replace(name,'a','b') FROM customers
SELECT g FROM generate_series(1,10) g, orders
-- more
SELECT * FROM public.orders
SELECT DISTINCT ON (region) region, x FROM orders ORDER BY region, x DESC
SELECT o.id, z.name FROM orders o CROSS JOIN LATERAL (SELECT name FROM customers c WHERE c.id = o.cid) z
SELECT extract(year FROM d), to_char(d, 'YYYY-MM'), age(d), d + interval '1 day', now() FROM orders
SELECT string_agg(name, ', ' ORDER BY name), array_agg(id) FROM customers
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM orders
SELECT count FROM (SELECT count(*) FROM orders) t
SELECT * FROM orders WHERE note ILIKE '%a%' AND note ~ '^a' AND x = ANY (ARRAY[1, 2])
SELECT id FROM orders FETCH FIRST 5 ROWS ONLY
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t
