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
