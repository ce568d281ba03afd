-- One good statement a line; the first is the survey's.
SELECT * FROM orders SAMPLE (10)
-- more
SELECT region, sum(x) FROM ORDERS GROUP BY ALL
SELECT * EXCLUDE (x) FROM orders QUALIFY row_number() OVER (PARTITION BY id ORDER BY d) = 1
SELECT f.value FROM orders, LATERAL FLATTEN(input => tags) f
SELECT TOP 5 id FROM orders
SELECT iff(x > 3, 'a', 'b'), nvl(note, ''), zeroifnull(x), div0(x, y), dateadd(day, 1, d), datediff('day', d, d) FROM orders
SELECT listagg(name, ', ') WITHIN GROUP (ORDER BY name) FROM customers
SELECT note:a.b::int, to_date(note), to_varchar(x), date_trunc('month', d) FROM orders
SELECT * FROM orders WHERE note ILIKE ANY ('a%', 'b%')
SELECT "ID" FROM "ORDERS"
-- what analysts write
SELECT split_part(name, ' ', 1), lpad(name, 10, ' '), regexp_substr(name, 'a.'), charindex('a', name) FROM customers
SELECT add_months(d, 1), months_between(d, d), last_day(d), dayname(d), time_slice(d, 1, 'MONTH') FROM orders
SELECT parse_json(note):a.b::string AS b, object_construct('a', x), array_agg(region) FROM orders GROUP BY 1, 2
SELECT region, count_if(x > 3), approx_percentile(x, 0.5), median(x), any_value(note) FROM orders GROUP BY region
SELECT * FROM orders PIVOT (sum(x) FOR region IN ('north', 'south')) AS p
SELECT decode(region, 'north', 1, 'south', 2, 0), nvl2(note, 1, 0), equal_null(note, 'a') FROM orders
SELECT try_to_number(note), try_to_date(note), try_cast(note AS INT) FROM orders
SELECT o.id, c.name FROM orders o JOIN customers c ON o.cid = c.id WHERE c.name LIKE ANY ('A%', 'B%')
SELECT ratio_to_report(x) OVER (PARTITION BY region) FROM orders
SELECT region, sum(x) AS total FROM orders GROUP BY CUBE (region) ORDER BY total DESC NULLS LAST LIMIT 5
SELECT convert_timezone('UTC', 'Europe/Oslo', d), date_from_parts(2024, 1, 1), to_timestamp(note) FROM orders
SELECT id FROM orders WHERE d >= dateadd(month, -3, current_date())
SELECT seq.n, o.id FROM (VALUES (1), (2)) AS seq(n) CROSS JOIN orders AS o
