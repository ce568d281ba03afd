-- Harmless, and refused all the same: what the allow-list does not know yet. None of these is promised.
SELECT [t || '!' FOR t IN tags IF t <> 'a'] FROM orders
SELECT name.lower() FROM customers
VALUES (1, 2)
SELECT lpad(name, 10, ' '), printf('%05d', id) FROM customers
