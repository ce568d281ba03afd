SELECT date_trunc('month', d), sum(x) FILTER (WHERE y) FROM orders GROUP BY 1
SELECT replace(name,'a','b') FROM customers
SELECT g FROM generate_series(1,10) g, orders
