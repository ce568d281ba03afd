WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d
SELECT * FROM orders FOR UPDATE
SELECT pg_read_file('/etc/passwd') FROM orders
SELECT set_config('role','postgres',false) FROM orders
SELECT pg_terminate_backend(1) FROM orders
SELECT * FROM dblink('dbname=x','select 1') AS t(a int)
DO $$ BEGIN DELETE FROM orders; END $$
SELECT pg_advisory_lock(1) FROM orders
SELECT * FROM pg_shadow
SELECT * FROM pg_catalog.pg_user
SELECT * INTO copy FROM orders
SELECT lo_export(1, '/tmp/x') FROM orders
SELECT lo_import('/etc/passwd') FROM orders
SELECT pg_ls_dir('/') FROM orders
SELECT pg_sleep(100) FROM orders
SELECT query_to_xml('select * from salaries', true, true, '') FROM orders
SELECT current_setting('data_directory') FROM orders
SELECT * FROM orders FOR SHARE
COPY orders TO PROGRAM 'sh'
TABLE salaries
LISTEN x
NOTIFY x
SELECT nextval('s') FROM orders
SELECT * FROM information_schema.columns
GRANT ALL ON orders TO public
WITH u AS (UPDATE orders SET x = 1 RETURNING *) SELECT * FROM u
WITH i AS (INSERT INTO orders VALUES (1) RETURNING *) SELECT * FROM i
SELECT pg_read_binary_file('/etc/passwd') FROM orders
SELECT pg_stat_file('/etc/passwd') FROM orders
SELECT pg_cancel_backend(1) FROM orders
SELECT pg_reload_conf() FROM orders
SELECT pg_rotate_logfile() FROM orders
SELECT pg_switch_wal() FROM orders
SELECT pg_create_restore_point('x') FROM orders
SELECT pg_promote() FROM orders
SELECT pg_sleep_for('1 hour') FROM orders
SELECT pg_try_advisory_lock(1) FROM orders
SELECT pg_notify('x', 'y') FROM orders
SELECT pg_logical_emit_message(true, 'x', 'y') FROM orders
SELECT lo_create(1) FROM orders
SELECT lo_unlink(1) FROM orders
SELECT lo_from_bytea(0, 'x') FROM orders
SELECT setval('s', 1) FROM orders
SELECT currval('s') FROM orders
SELECT table_to_xml('salaries', true, true, '') FROM orders
SELECT database_to_xml(true, true, '') FROM orders
SELECT cursor_to_xml('c', 1, true, true, '') FROM orders
SELECT xpath('/x', query_to_xml('select 1', true, true, '')) FROM orders
SELECT dblink_exec('dbname=x', 'drop table orders') FROM orders
SELECT dblink_connect('x') FROM orders
SELECT current_setting('is_superuser') FROM orders
SELECT current_user FROM orders
SELECT session_user FROM orders
SELECT version() FROM orders
SELECT inet_server_addr() FROM orders
SELECT has_table_privilege('salaries', 'select') FROM orders
SELECT to_regclass('salaries') FROM orders
SELECT pg_get_functiondef(1) FROM orders
SELECT pg_relation_filepath('orders') FROM orders
SELECT col_description(1, 1) FROM orders
SELECT pg_ls_waldir() FROM orders
SELECT repeat('x', 1000000000) FROM orders
SELECT lpad('x', 1000000000) FROM orders
SELECT format('%1000000000s', 'x') FROM orders
SELECT ts_stat('select word from salaries') FROM orders
SELECT * FROM ts_stat('select word from salaries')
SELECT * FROM pg_stat_activity
SELECT * FROM pg_settings
SELECT * FROM pg_authid
SELECT * FROM pg_hba_file_rules
SELECT * FROM pg_ls_logdir()
SELECT * FROM pg_read_file('/etc/passwd')
SELECT * FROM information_schema.role_table_grants
SELECT * FROM crosstab('select 1, 2, 3') AS t(a int, b int)
SELECT * FROM json_populate_recordset(null::salaries, '[]')
SELECT * FROM generate_series(1, 1000000000000)
SELECT * FROM generate_series('0001-01-01'::timestamp, '9999-01-01'::timestamp, interval '1 second')
SELECT * FROM orders o, LATERAL (SELECT * FROM salaries s WHERE s.id = o.id) z
SELECT * FROM ROWS FROM (pg_ls_dir('/'), generate_series(1, 2)) AS t
SELECT * FROM ONLY salaries
SELECT * FROM hr.salaries
SELECT * FROM orders FOR NO KEY UPDATE SKIP LOCKED
SELECT * FROM orders FOR KEY SHARE
SELECT (SELECT s FROM salaries s LIMIT 1) FROM orders
SELECT id FROM orders WHERE id = ANY (ARRAY(SELECT id FROM salaries))
COPY (SELECT * FROM orders) TO '/tmp/x'
COPY orders FROM '/tmp/x'
CREATE TABLE x AS SELECT * FROM orders
CREATE EXTENSION dblink
CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE c
REFRESH MATERIALIZED VIEW v
LOCK TABLE orders
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
RESET ALL
DISCARD ALL
PREPARE p AS SELECT 1
DECLARE c CURSOR FOR SELECT * FROM salaries
FETCH ALL FROM c
EXPLAIN ANALYZE DELETE FROM orders
VACUUM FULL
REASSIGN OWNED BY a TO b
ALTER ROLE postgres SUPERUSER
BEGIN; DELETE FROM orders; COMMIT
