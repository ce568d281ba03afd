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
-- what analysts write
SELECT d::date FROM generate_series('2024-01-01'::date, '2024-12-31'::date, interval '1 day') AS d
SELECT (o).id, row_to_json(o) FROM orders o
SELECT date_trunc('quarter', d) AS quarter, count(*) FROM orders GROUP BY 1 ORDER BY 1
SELECT region, json_agg(id), jsonb_agg(x) FROM orders GROUP BY region
SELECT split_part(name, ' ', 1), initcap(name), left(name, 3), lpad(name, 10) FROM customers
SELECT note::jsonb -> 'a' ->> 'b', note::jsonb #>> '{a,b}' FROM orders
SELECT width_bucket(x, 0, 100, 10) AS bucket, count(*) FROM orders GROUP BY bucket
SELECT regr_r2(x, id), stddev_samp(x), var_pop(x), mode() WITHIN GROUP (ORDER BY region) FROM orders
SELECT region, sum(x) FROM orders GROUP BY ROLLUP (region)
SELECT id FROM orders WHERE d >= now() - interval '30 days' AND region <> ALL (ARRAY['east'])
SELECT make_date(2024, 1, 1), to_timestamp('2024-01-01', 'YYYY-MM-DD'), age(d) FROM orders
SELECT coalesce(nullif(trim(note), ''), 'none'), greatest(x, 1), least(x, 9) FROM orders
SELECT x, lag(x, 1, 0) OVER w, lead(x) OVER w FROM orders WINDOW w AS (PARTITION BY region ORDER BY d)
SELECT c.name, z.total FROM customers c LEFT JOIN LATERAL (SELECT sum(x) AS total FROM orders o WHERE o.cid = c.id) z ON TRUE
SELECT region FROM orders WHERE note SIMILAR TO '(a|b)%' OR note !~* 'x'
WITH a AS (SELECT * FROM orders), b AS NOT MATERIALIZED (SELECT * FROM a) SELECT count(*) FROM b
