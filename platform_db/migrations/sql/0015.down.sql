CREATE OR REPLACE TRIGGER add_owner_limit AFTER INSERT ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.add_owner_limit();

CREATE OR REPLACE FUNCTION platform.record_deletion() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT platform.is_import() THEN
        INSERT INTO platform.row_event
            (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
        SELECT nextval('platform.history_number'), owner_id, TG_ARGV[0], id_, 'deleted', status, revision,
               clock_timestamp(), pg_current_xact_id()::text::bigint
        FROM deleted;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_creation() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT platform.is_import() THEN
        INSERT INTO platform.row_event
            (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
        SELECT nextval('platform.history_number'), owner_id, TG_ARGV[0], id_, 'created', status, revision,
               clock_timestamp(), pg_current_xact_id()::text::bigint
        FROM created;
    END IF;
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

CREATE OR REPLACE TRIGGER record_deletion AFTER DELETE ON platform.user_
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_user('delete_user');

CREATE OR REPLACE TRIGGER record_creation AFTER INSERT ON platform.user_
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_user('create_user');

CREATE OR REPLACE TRIGGER record_extra_transition AFTER INSERT OR UPDATE OR DELETE ON platform.extra_transition
    FOR EACH ROW EXECUTE FUNCTION platform.record_extra_transition();

CREATE OR REPLACE TRIGGER release_digests AFTER DELETE ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.release_digests('interactive_session');

CREATE OR REPLACE FUNCTION platform.claim_interactive_session() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.claim_digests(
        'interactive_session', NEW.id_, NEW.other_secret_digests || NEW.secret_digest);
    NEW.other_secret_digests := NULL;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION platform.count_storage(the_owner uuid, change bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    total record;
BEGIN
    PERFORM FROM platform.user_resource WHERE owner_id = the_owner
    ORDER BY owner_id, resource_id FOR NO KEY UPDATE;
    UPDATE platform.user_resource AS stored
    SET quota_used = least(4611686018427387904, greatest(0, stored.quota_used + change)),
        measured_at = clock_timestamp()
    FROM platform.resource
    WHERE stored.owner_id = the_owner AND resource.id_ = stored.resource_id AND resource.name = 'database storage'
    RETURNING stored.quota_used, stored.quota_reserved, stored.quota_limit INTO total;
    -- Numeric, since a sum of what is allowed may be more than a bigint holds.
    IF change > 0 AND total.quota_used::numeric + total.quota_reserved > total.quota_limit THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD005',
            MESSAGE = format('user %s cannot have %s more bytes of database storage', the_owner, change),
            DETAIL = format('%s %s %s %s %s', the_owner, change, total.quota_used - change, total.quota_reserved,
                            total.quota_limit),
            SCHEMA = 'platform', TABLE = 'user_resource';
    END IF;
END
$$;

CREATE OR REPLACE TRIGGER forget_user AFTER DELETE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.forget_user();

CREATE OR REPLACE FUNCTION platform.record_status() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change_reason text := nullif(current_setting('platform.reason', true), '');
    statement_reason text := nullif(current_setting('platform.statement_reason', true), '');
    this_statement text;
    -- Up here, since what stands in the INSERT is prepared again for each row.
    change_actor text := nullif(current_setting('platform.actor', true), '');
    is_overridden boolean := platform.guard_is_overridden();
    is_extra boolean;
BEGIN
    IF NEW.revision = OLD.revision THEN -- An import's change.
        RETURN NULL;
    END IF;
    IF statement_reason IS NOT NULL THEN
        this_statement := statement_timestamp()::text || ' ';
        IF starts_with(statement_reason, this_statement) THEN
            change_reason := substr(statement_reason, length(this_statement) + 1);
        END IF;
    END IF;
    -- What neither the states nor an override let through, an extra transition did.
    IF OLD.status <> NEW.status AND NOT is_overridden
        AND position(' ' || OLD.status || '>' || NEW.status || ' ' IN TG_ARGV[1]) = 0
    THEN
        is_extra := true;
    END IF;
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, number, from_status, to_status, at, actor, reason, overridden, extra,
         transaction_id)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, TG_ARGV[0], nextval('platform.history_number'),
        OLD.status, NEW.status, clock_timestamp(), change_actor, change_reason, is_overridden, is_extra,
        pg_current_xact_id()::text::bigint
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '') <> '' -- Nearly every change ends here.
       AND current_setting('platform.guard', true)
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

CREATE OR REPLACE FUNCTION platform.stamp_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := pg_catalog.nextval(TG_ARGV[0]);
    NEW.transaction_id := pg_catalog.pg_current_xact_id()::text::bigint;
    IF NEW.at IS NULL OR NOT platform.is_import() THEN
        NEW.at := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege(session_user, 'platform.user_'::regclass, 'TRUNCATE')
       AND has_table_privilege('platform.user_'::regclass, 'TRUNCATE');

DROP FUNCTION platform.transaction_mark;

DROP FUNCTION platform.settled_number;

DROP FUNCTION platform.last_number;

DROP FUNCTION platform.next_number;

DROP FUNCTION platform.is_coordinator;
