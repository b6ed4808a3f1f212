-- The audit log: an inbox that writers append to, the rows that triggers write, how rows get their places in the log,
-- and what keeps it append-only.

-- The time is the database's, whatever was sent (an import's excepted), and whatever functions the writer's search_path
-- finds.
CREATE FUNCTION platform.stamp_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- What the database can see, it records: Python, bulk SQL and psql all leave the same rows. Who and from where comes
-- from the transaction, as for every audit row. Its setting platform.details is what else there is to say of a user.
-- Names mean PostgreSQL's own, whatever the search_path: a session that causes a row has no say in its facts.

CREATE FUNCTION platform.record_guard_override() RETURNS trigger LANGUAGE plpgsql
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

CREATE TRIGGER record_guard_override AFTER INSERT ON platform.status_change
    FOR EACH ROW WHEN (NEW.overridden) EXECUTE FUNCTION platform.record_guard_override();

-- What the guard lets through is about no user in particular. An update ends one permission and gives another.
CREATE FUNCTION platform.record_extra_transition() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_inbox (id_, owner_id, action, details)
    SELECT gen_random_uuid(), 'ffffffff-ffff-ffff-ffff-ffffffffffff', done.action, done.details
    FROM (VALUES ('forbid_transition', to_jsonb(OLD)), ('allow_transition', to_jsonb(NEW))) AS done (action, details)
    WHERE done.details IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE TRIGGER record_extra_transition AFTER INSERT OR UPDATE OR DELETE ON platform.extra_transition
    FOR EACH ROW WHEN (platform.is_coordinator()) EXECUTE FUNCTION platform.record_extra_transition();

-- Argument: the action.
CREATE FUNCTION platform.record_user() RETURNS trigger LANGUAGE plpgsql
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

CREATE TRIGGER record_creation AFTER INSERT ON platform.user_
    FOR EACH ROW WHEN (platform.is_coordinator() AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_user('create_user');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.user_
    FOR EACH ROW WHEN (platform.is_coordinator() AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_user('delete_user');

CREATE FUNCTION platform.record_quota_limit() RETURNS trigger LANGUAGE plpgsql
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

CREATE TRIGGER record_quota_limit AFTER UPDATE OF quota_limit ON platform.user_resource
    FOR EACH ROW WHEN (OLD.quota_limit IS DISTINCT FROM NEW.quota_limit AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_quota_limit();

-- Argument: the action. A time in JSON is written in the session's time zone; in an audit row it is UTC.
CREATE FUNCTION platform.record_sharing() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    share record := coalesce(NEW, OLD);
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

CREATE TRIGGER record_share AFTER INSERT OR UPDATE ON platform.user_workflow
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_sharing('share_workflow');

-- A share that goes with its run or its user, by a foreign key and so inside a trigger, is not recorded.
CREATE TRIGGER record_unshare AFTER DELETE ON platform.user_workflow
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_sharing('unshare_workflow');

-- Append-only: this protects from accidents and bugs, whatever connects. A superuser can switch triggers off; that is
-- what seals are for.
CREATE FUNCTION platform.refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD002',
        MESSAGE = format('%s refused: %s is append-only', TG_OP, TG_TABLE_NAME),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END
$$;

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_inbox
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_sealed
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change INSTEAD OF UPDATE OR DELETE ON platform.audit_log
    FOR EACH ROW EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON platform.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_seal_digests
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

-- Rows leave the inbox once they are in the log: not by their id, which another row can have and which is then replaced,
-- but by owner, time and action. They leave the log once a seal says that they are no longer kept: retention makes that
-- seal first, and with a signing key no other writer can make one that verifies.
CREATE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql
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

CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.audit_sealed
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();

CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.audit_seal_digests
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();
