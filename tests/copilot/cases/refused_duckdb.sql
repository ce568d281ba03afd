-- Harmless, and refused all the same: what the allow-list does not know yet. None of these is promised.
SELECT list_transform(tags, t -> t || '!') FROM orders
SELECT [t || '!' FOR t IN tags IF t <> 'a'] FROM orders
SELECT name.lower() FROM customers
SELECT COLUMNS('x|id') FROM orders
SELECT COLUMNS(c -> c LIKE 'x%') FROM orders
SELECT {'a': id, 'b': x}.a FROM orders
SELECT * FROM generate_series(DATE '2024-01-01', DATE '2024-12-31', INTERVAL 1 DAY) AS g(day)
UNPIVOT orders ON x, cid INTO NAME n VALUE v
VALUES (1, 2)
SELECT lpad(name, 10, ' '), printf('%05d', id) FROM customers
