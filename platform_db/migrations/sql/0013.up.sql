-- What was the log keeps its rows under a new name: those without a seal too, which the sealer takes first.
ALTER TABLE platform.audit_log
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT ck_audit_log_details_bounded,
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT ck_audit_log_details_readable,
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT ck_audit_log_texts_bounded;

-- squawk-ignore renaming-object
ALTER TABLE platform.audit_log RENAME CONSTRAINT pk_audit_log TO pk_audit_sealed;

-- squawk-ignore renaming-object
ALTER TABLE platform.audit_log RENAME CONSTRAINT uq_audit_log_id_ TO uq_audit_sealed_id_;

-- squawk-ignore renaming-object
ALTER TABLE platform.audit_log RENAME CONSTRAINT uq_audit_log_number TO uq_audit_sealed_number;

-- squawk-ignore renaming-object
ALTER INDEX platform.ix_audit_log_owner_id_created_number RENAME TO ix_audit_sealed_owner_id_created_number;

-- squawk-ignore renaming-object
ALTER INDEX platform.ix_audit_log_actor_id_created_number RENAME TO ix_audit_sealed_actor_id_created_number;

-- squawk-ignore renaming-object
ALTER INDEX platform.ix_audit_log_action_created_number RENAME TO ix_audit_sealed_action_created_number;

-- squawk-ignore renaming-object
ALTER INDEX platform.ix_audit_log_created_number RENAME TO ix_audit_sealed_created_number;

DROP TRIGGER stamp_audit_row ON platform.audit_log;

-- A view takes its name, through which the release before reads and writes.
-- squawk-ignore renaming-table
ALTER TABLE platform.audit_log RENAME TO audit_sealed;

CREATE TABLE platform.audit_inbox (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    actor_id UUID DEFAULT (nullif(current_setting('platform.actor_id', true), ''))::uuid,
    action TEXT NOT NULL,
    details JSONB,
    request_id TEXT DEFAULT (nullif(current_setting('platform.request_id', true), ''))::text,
    address INET DEFAULT (nullif(current_setting('platform.address', true), ''))::inet,
    service TEXT DEFAULT (nullif(current_setting('platform.service', true), ''))::text,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_audit_inbox PRIMARY KEY (owner_id, id_),
    CONSTRAINT ck_audit_inbox_details_bounded CHECK (octet_length(details::text) <= 65536),
    CONSTRAINT ck_audit_inbox_details_readable CHECK (jsonb_typeof(details) = 'object' AND NOT details @? '$.**{32}' AND NOT details @? '$.** ? (@ > 1e308 || @ < -1e308)'),
    CONSTRAINT ck_audit_inbox_texts_bounded CHECK (octet_length(action) <= 256 AND octet_length(request_id) <= 1024 AND octet_length(service) <= 1024)
);

ALTER TABLE platform.audit_inbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX ix_audit_inbox_created_id_ ON platform.audit_inbox (created, id_);

ALTER TABLE platform.audit_inbox ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.audit_inbox
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

CREATE OR REPLACE FUNCTION platform.stamp_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.created IS NULL OR NOT platform.is_import() THEN
        NEW.created := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_audit_row BEFORE INSERT ON platform.audit_inbox
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_audit_row();

-- The log as its readers see it: each row once, since it goes from one table to the other in one transaction.
CREATE VIEW platform.audit_log WITH (security_invoker = true) AS
    SELECT id_, NULL::bigint AS number, owner_id, actor_id, action, details, request_id, address, service, created
    FROM platform.audit_inbox
    UNION ALL
    SELECT id_, number, owner_id, actor_id, action, details, request_id, address, service, created
    FROM platform.audit_sealed;

ALTER VIEW platform.audit_log ALTER actor_id SET DEFAULT nullif(current_setting('platform.actor_id', true), '')::uuid;

ALTER VIEW platform.audit_log ALTER request_id SET DEFAULT nullif(current_setting('platform.request_id', true), '');

ALTER VIEW platform.audit_log ALTER address SET DEFAULT nullif(current_setting('platform.address', true), '')::inet;

ALTER VIEW platform.audit_log ALTER service SET DEFAULT nullif(current_setting('platform.service', true), '');

CREATE FUNCTION platform.append_audit_row() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_inbox
        (id_, owner_id, actor_id, action, details, request_id, address, service, created)
    VALUES (NEW.id_, NEW.owner_id, NEW.actor_id, NEW.action, NEW.details, NEW.request_id, NEW.address, NEW.service,
            NEW.created)
    RETURNING created INTO NEW.created;
    NEW.number := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER append_audit_row INSTEAD OF INSERT ON platform.audit_log
    FOR EACH ROW EXECUTE FUNCTION platform.append_audit_row();

CREATE OR REPLACE FUNCTION platform.record_guard_override() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
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
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
    SELECT gen_random_uuid(), 'ffffffff-ffff-ffff-ffff-ffffffffffff', done.action, done.details
    FROM (VALUES ('forbid_transition', to_jsonb(OLD)), ('allow_transition', to_jsonb(NEW))) AS done (action, details)
    WHERE done.details IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_user() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
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
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
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
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
    VALUES (gen_random_uuid(), share.owner_id, TG_ARGV[0], details);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_queue_limits() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
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

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_inbox
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change INSTEAD OF UPDATE OR DELETE ON platform.audit_log
    FOR EACH ROW EXECUTE FUNCTION platform.refuse_change();

CREATE OR REPLACE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept_from bigint := coalesce(
        (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1), 1);
    removable bigint := coalesce((SELECT last_row FROM platform.audit_seal WHERE number = kept_from - 1), 0);
    refused boolean;
BEGIN
    IF TG_TABLE_NAME = 'audit_inbox' THEN
        refused := EXISTS (
            SELECT FROM deleted WHERE NOT EXISTS (
                SELECT FROM platform.audit_sealed AS sealed
                WHERE sealed.owner_id = deleted.owner_id AND sealed.created = deleted.created
                  AND sealed.action = deleted.action));
    ELSIF TG_TABLE_NAME = 'audit_sealed' THEN
        refused := EXISTS (SELECT FROM deleted WHERE number > removable);
    ELSE
        refused := EXISTS (SELECT FROM deleted WHERE seal_number >= kept_from);
    END IF;
    IF refused THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD002',
            MESSAGE = format('DELETE refused: %s is append-only', TG_TABLE_NAME),
            HINT = 'What is old is removed by: platform-db audit prune.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.audit_inbox
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();

-- squawk-ignore ban-drop-sequence
DROP SEQUENCE platform.audit_number;

-- Nothing is known of open transactions any more: a lock is left.
-- squawk-ignore ban-drop-table
DROP TABLE platform.audit_fence;

CREATE TABLE platform.audit_chain (
    singleton BOOLEAN DEFAULT 'true' NOT NULL,
    CONSTRAINT pk_audit_chain PRIMARY KEY (singleton),
    CONSTRAINT ck_audit_chain_singleton CHECK (singleton)
);

-- Gives the oldest rows of the inbox, so many at most, their places at the end of the log. It runs as its owner, so that
-- services need no right to remove rows; and it takes the chain's lock itself. What commits later is
-- collected later: nothing has to be known of transactions that are open.
-- Statistics say nothing of an inbox that is now empty and now full: the time bounds what is read, whatever the plan.
-- A row whose id another row has gets a new one: the inbox cannot refuse it, and it must not stop the others.
CREATE FUNCTION platform.collect_audit_rows(most integer) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
    newest timestamptz;
    owners uuid[];
    ids uuid[];
    taken uuid[];
    new_ids uuid[];
BEGIN
    INSERT INTO platform.audit_chain DEFAULT VALUES ON CONFLICT DO NOTHING;
    PERFORM FROM platform.audit_chain FOR UPDATE;
    last := greatest(
        (SELECT max(number) FROM platform.audit_sealed),
        (SELECT last_row FROM platform.audit_seal ORDER BY number DESC LIMIT 1),
        0);
    SELECT max(created), array_agg(owner_id), array_agg(id_) INTO newest, owners, ids
    FROM (SELECT owner_id, id_, created FROM platform.audit_inbox ORDER BY created, id_ LIMIT greatest(most, 0)) AS oldest;
    taken := ARRAY(SELECT id_ FROM platform.audit_sealed WHERE id_ = ANY (ids));
    new_ids := ARRAY(
        SELECT CASE WHEN id_ = ANY (taken) OR row_number() OVER (PARTITION BY id_ ORDER BY place) > 1
                    THEN gen_random_uuid() ELSE id_ END
        FROM unnest(ids) WITH ORDINALITY AS oldest (id_, place) ORDER BY place);
    INSERT INTO platform.audit_sealed
        (number, id_, owner_id, actor_id, action, details, request_id, address, service, created)
    SELECT last + place, new_id, owner_id, actor_id, action, details, request_id, address, service, created
    FROM platform.audit_inbox
    JOIN unnest(owners, ids, new_ids) WITH ORDINALITY AS oldest (owner_id, id_, new_id, place) USING (owner_id, id_)
    WHERE created <= newest;
    DELETE FROM platform.audit_inbox
    WHERE created <= newest AND (owner_id, id_) IN (SELECT * FROM unnest(owners, ids));
END
$$;

REVOKE ALL ON FUNCTION platform.append_audit_row, platform.collect_audit_rows FROM PUBLIC;

-- Services write on at once, with the privileges and policies that they had on the log.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('GRANT %s ON platform.audit_inbox, platform.audit_log TO %I', privilege_type, rolname)
               || CASE privilege_type WHEN 'INSERT' THEN format('; REVOKE INSERT ON platform.audit_sealed FROM %I', rolname)
                  ELSE '' END
        FROM pg_class CROSS JOIN aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_class.oid = 'platform.audit_sealed'::regclass AND grantee <> relowner
        UNION ALL
        SELECT format('CREATE POLICY %I ON platform.audit_inbox AS %s FOR %s TO %s', policyname, permissive, cmd,
                      (SELECT string_agg(quote_ident(role), ', ') FROM unnest(roles) AS role))
               || coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '')
        FROM pg_policies
        WHERE schemaname = 'platform' AND tablename = 'audit_sealed' AND policyname <> 'tenant'
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
