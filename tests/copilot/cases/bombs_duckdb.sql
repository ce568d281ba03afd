-- Harmless to secrets but endless or huge: the guard may pass them, the executor must end them.
WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM t) SELECT count(*) FROM t;
SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f, orders g, orders h;
WITH RECURSIVE t(x) AS (SELECT 'xxxxxxxxxxxxxxxx' UNION ALL SELECT x || x FROM t) SELECT count(*), max(length(x)) FROM t;
SELECT string_agg(a.note || b.note || c.note || d.note, '') FROM orders a, orders b, orders c, orders d;
SELECT a.id FROM orders a, orders b, orders c, orders d, orders e ORDER BY a.x * b.x, c.x;
SELECT replace(replace(replace(replace(replace(replace(replace(note, 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') FROM orders;
