-- Harmless, and refused all the same: what the allow-list does not know yet. None of these is promised.
SELECT d::date FROM generate_series('2024-01-01'::date, '2024-12-31'::date, interval '1 day') AS d
SELECT (o).id, row_to_json(o) FROM orders o
