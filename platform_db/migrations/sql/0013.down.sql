-- What waits gets its numbers, and is sealed by the release before: most of it while writers go on, the rest once the
-- lock, which is on the view's tables, too, has waited for those that still write.
SELECT platform.collect_audit_rows(2147483647);

LOCK TABLE platform.audit_log IN ACCESS EXCLUSIVE MODE;

SELECT platform.collect_audit_rows(2147483647);

CREATE SEQUENCE platform.audit_number AS BIGINT;

SELECT setval('platform.audit_number', last + 1, false)
FROM (SELECT greatest(
    (SELECT max(number) FROM platform.audit_sealed),
    (SELECT last_row FROM platform.audit_seal ORDER BY number DESC LIMIT 1),
    0)) AS numbers (last);

DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('GRANT INSERT ON platform.audit_sealed TO %1$I; GRANT USAGE ON SEQUENCE platform.audit_number TO %1$I',
                      rolname)
        FROM pg_class CROSS JOIN aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_class.oid = 'platform.audit_inbox'::regclass AND grantee <> relowner AND privilege_type = 'INSERT'
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

DROP VIEW platform.audit_log;

DROP TABLE platform.audit_inbox;

DROP FUNCTION platform.append_audit_row, platform.collect_audit_rows;

ALTER TABLE platform.audit_sealed RENAME CONSTRAINT pk_audit_sealed TO pk_audit_log;

ALTER TABLE platform.audit_sealed RENAME CONSTRAINT uq_audit_sealed_id_ TO uq_audit_log_id_;

ALTER TABLE platform.audit_sealed RENAME CONSTRAINT uq_audit_sealed_number TO uq_audit_log_number;

ALTER INDEX platform.ix_audit_sealed_owner_id_created_number RENAME TO ix_audit_log_owner_id_created_number;

ALTER INDEX platform.ix_audit_sealed_actor_id_created_number RENAME TO ix_audit_log_actor_id_created_number;

ALTER INDEX platform.ix_audit_sealed_action_created_number RENAME TO ix_audit_log_action_created_number;

ALTER INDEX platform.ix_audit_sealed_created_number RENAME TO ix_audit_log_created_number;

ALTER TABLE platform.audit_sealed RENAME TO audit_log;

ALTER TABLE platform.audit_log
    ADD CONSTRAINT ck_audit_log_details_bounded CHECK (octet_length(details::text) <= 65536) NOT VALID,
    ADD CONSTRAINT ck_audit_log_details_readable CHECK (jsonb_typeof(details) = 'object' AND NOT details @? '$.**{32}' AND NOT details @? '$.** ? (@ > 1e308 || @ < -1e308)') NOT VALID,
    ADD CONSTRAINT ck_audit_log_texts_bounded CHECK (octet_length(action) <= 256 AND octet_length(request_id) <= 1024 AND octet_length(service) <= 1024) NOT VALID;

ALTER TABLE platform.audit_log
    VALIDATE CONSTRAINT ck_audit_log_details_bounded,
    VALIDATE CONSTRAINT ck_audit_log_details_readable,
    VALIDATE CONSTRAINT ck_audit_log_texts_bounded;

CREATE OR REPLACE FUNCTION platform.stamp_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_current_xact_id();
    NEW.number := pg_catalog.nextval('platform.audit_number');
    IF NEW.created IS NULL OR NOT platform.is_import() THEN
        NEW.created := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_audit_row BEFORE INSERT ON platform.audit_log
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_audit_row();

CREATE OR REPLACE FUNCTION platform.record_guard_override() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'override_guard',
        jsonb_build_object(
            'entity', NEW.entity, 'entity_id', NEW.entity_id, 'revision', NEW.revision,
            'from_status', NEW.from_status, 'to_status', NEW.to_status, 'reason', NEW.reason
        )
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_extra_transition() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    SELECT gen_random_uuid(), 'ffffffff-ffff-ffff-ffff-ffffffffffff', done.action, done.details
    FROM (VALUES ('forbid_transition', to_jsonb(OLD)), ('allow_transition', to_jsonb(NEW))) AS done (action, details)
    WHERE done.details IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_user() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), coalesce(NEW.id_, OLD.id_), TG_ARGV[0],
        nullif(current_setting('platform.details', true), '')::jsonb
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_quota_limit() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'set_quota_limit',
        jsonb_build_object(
            'resource_id', NEW.resource_id, 'before', OLD.quota_limit, 'limit', NEW.quota_limit
        )
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_sharing() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    share platform.user_workflow := coalesce(NEW, OLD);
    details jsonb := jsonb_build_object('workflow_id', share.workflow_id, 'user_id', share.user_id);
BEGIN
    IF TG_OP <> 'DELETE' THEN
        details := details || jsonb_build_object('valid_until', share.valid_until);
    END IF;
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (gen_random_uuid(), share.owner_id, TG_ARGV[0], details);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_queue_limits() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'set_queue_limits',
        jsonb_build_object(
            'before', jsonb_build_object(
                'concurrent_runs', OLD.concurrent_runs, 'starts_per_minute', OLD.starts_per_minute),
            'limits', jsonb_build_object(
                'concurrent_runs', NEW.concurrent_runs, 'starts_per_minute', NEW.starts_per_minute)
        )
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept_from bigint := coalesce(
        (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1), 1);
    removed bigint;
    removable bigint;
BEGIN
    IF TG_TABLE_NAME = 'audit_log' THEN
        SELECT max(number) INTO removed FROM deleted;
        SELECT last_row INTO removable FROM platform.audit_seal WHERE number = kept_from - 1;
    ELSE
        SELECT max(seal_number) INTO removed FROM deleted;
        removable := kept_from - 1;
    END IF;
    IF removed > coalesce(removable, 0) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD002',
            MESSAGE = format('DELETE refused: %s is append-only', TG_TABLE_NAME),
            HINT = 'What is old is removed by: platform-db audit prune.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

DROP TABLE platform.audit_chain;

CREATE TABLE platform.audit_fence (
    singleton BOOLEAN DEFAULT 'true' NOT NULL,
    last_row BIGINT NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_audit_fence PRIMARY KEY (singleton),
    CONSTRAINT ck_audit_fence_singleton CHECK (singleton)
);
