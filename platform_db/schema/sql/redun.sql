-- The tables of redun 0.44 (version 3.5 of its database), for its own ORM: console, log, queries. Each view shows the
-- rows of the transaction's tenant alone, with redun's names and columns, and none where there is no tenant; that
-- holds for the tables' owner, too, which policies do not. New rows are the tenant's: the tables' default says so.
-- They are simple enough to be written through. No security_barrier: between tenants the policies are one, and a
-- login above the policies reads the tables.
-- A login that may not create schemas finds the one that an administrator has made for it.
DO $$ BEGIN IF to_regnamespace('redun') IS NULL THEN CREATE SCHEMA redun; END IF; END $$;

CREATE VIEW redun.value WITH (security_invoker = true) AS
    SELECT value_hash, type, format, value
    FROM platform.value
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.subvalue WITH (security_invoker = true) AS
    SELECT value_hash, parent_value_hash
    FROM platform.subvalue
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.file WITH (security_invoker = true) AS
    SELECT value_hash, path
    FROM platform.value_file
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.task WITH (security_invoker = true) AS
    SELECT hash, name, namespace, source
    FROM platform.call_task
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.evaluation WITH (security_invoker = true) AS
    SELECT eval_hash, task_hash, args_hash, value_hash
    FROM platform.evaluation
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_node WITH (security_invoker = true) AS
    SELECT call_hash, task_name, task_hash, args_hash, value_hash, timestamp
    FROM platform.call_node
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_subtree_task WITH (security_invoker = true) AS
    SELECT call_hash, task_hash
    FROM platform.call_subtree_task
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.argument WITH (security_invoker = true) AS
    SELECT arg_hash, call_hash, value_hash, arg_position, arg_key
    FROM platform.call_argument
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.argument_result WITH (security_invoker = true) AS
    SELECT arg_hash, result_call_hash
    FROM platform.call_argument_source
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_edge WITH (security_invoker = true) AS
    SELECT parent_id, child_id, call_order
    FROM platform.call_edge
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.execution WITH (security_invoker = true) AS
    SELECT id, args, updated_time, job_id
    FROM platform.call_execution
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.job WITH (security_invoker = true) AS
    SELECT id, start_time, end_time, task_hash, cached, call_hash, parent_id, execution_id
    FROM platform.call_job
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.tag WITH (security_invoker = true) AS
    SELECT tag_hash, entity_type, entity_id, key, value, is_current
    FROM platform.entity_tag
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.tag_edit WITH (security_invoker = true) AS
    SELECT parent_id, child_id
    FROM platform.entity_tag_edit
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.handle WITH (security_invoker = true) AS
    SELECT hash, fullname, value_hash, key, is_valid
    FROM platform.handle
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.handle_edge WITH (security_invoker = true) AS
    SELECT parent_id, child_id
    FROM platform.handle_edge
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.redun_version WITH (security_invoker = true) AS
    SELECT 'platform-db' AS id, 3 AS version, '2024-01-01 00:00:00+00'::timestamptz AS timestamp;

CREATE VIEW redun.alembic_version WITH (security_invoker = true) AS SELECT '0bee3d6dba76' AS version_num;
