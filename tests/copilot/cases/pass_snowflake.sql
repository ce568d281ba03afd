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
