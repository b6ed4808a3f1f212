DROP TRIGGER record_extra_transition ON platform.extra_transition;

DROP FUNCTION platform.record_extra_transition;

CREATE OR REPLACE FUNCTION platform.record_creation() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.row_event
        (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
    SELECT nextval('platform.history_number'), owner_id, TG_ARGV[0], id_, 'created', status, revision,
           clock_timestamp(), pg_current_xact_id()::text::bigint
    FROM created;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_deletion() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.row_event
        (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
    SELECT nextval('platform.history_number'), owner_id, TG_ARGV[0], id_, 'deleted', status, revision,
           clock_timestamp(), pg_current_xact_id()::text::bigint
    FROM deleted;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_phase() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
    VALUES (gen_random_uuid(), NEW.owner_id, 'job', NEW.id_, 'phase', coalesce(NEW.phase, ''),
            jsonb_build_object('from', OLD.phase, 'status', NEW.status));
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '')
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

CREATE OR REPLACE FUNCTION platform.guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSIF OLD.status::text || '>' || NEW.status::text = ANY (TG_ARGV)
        OR platform.guard_permits(TG_ARGV[0], OLD.status::text, NEW.status::text)
    THEN
        NEW.revision := OLD.revision + 1;
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSE
        RAISE EXCEPTION USING
            ERRCODE = 'PD001',
            MESSAGE = format('%s %s cannot go from %s to %s', TG_ARGV[0], OLD.id_, OLD.status, NEW.status),
            DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
            SCHEMA = 'platform', TABLE = TG_ARGV[0], COLUMN = 'status';
    END IF;
    IF TG_ARGV[1] = 'run' THEN
        IF NEW.status = 'running' THEN
            IF TG_OP = 'INSERT' THEN
                NEW.run_started_at := coalesce(NEW.run_started_at, pg_catalog.clock_timestamp());
            ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
                NEW.run_started_at := pg_catalog.clock_timestamp();
            END IF;
            NEW.run_finished_at := NULL;
            NEW.run_stopped_at := NULL;
        ELSIF NEW.status IN ('finished', 'failed') THEN
            NEW.run_finished_at := coalesce(NEW.run_finished_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status = 'stopped' THEN
            NEW.run_stopped_at := coalesce(NEW.run_stopped_at, pg_catalog.clock_timestamp());
        END IF;
    ELSIF TG_ARGV[1] = 'job' THEN
        IF NEW.status = 'running' THEN
            NEW.started_at := coalesce(NEW.started_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status IN ('finished', 'failed', 'stopped') THEN
            NEW.finished_at := coalesce(NEW.finished_at, pg_catalog.clock_timestamp());
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION platform.record_status() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change_reason text := nullif(current_setting('platform.reason', true), '');
    statement_reason text := nullif(current_setting('platform.statement_reason', true), '');
    this_statement text;
BEGIN
    IF statement_reason IS NOT NULL THEN
        this_statement := statement_timestamp()::text || ' ';
        IF starts_with(statement_reason, this_statement) THEN
            change_reason := substr(statement_reason, length(this_statement) + 1);
        END IF;
    END IF;
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, number, from_status, to_status, at, actor, reason, overridden,
         transaction_id)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, TG_ARGV[0], nextval('platform.history_number'),
        OLD.status, NEW.status, clock_timestamp(), nullif(current_setting('platform.actor', true), ''),
        change_reason, platform.guard_is_overridden(), pg_current_xact_id()::text::bigint
    );
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege('platform.user_', 'TRUNCATE');

CREATE OR REPLACE FUNCTION platform.stamp_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSIF platform.is_import() THEN
        NEW.created := coalesce(NEW.created, pg_catalog.clock_timestamp());
        NEW.updated := coalesce(NEW.updated, NEW.created);
    ELSE
        NEW.created := pg_catalog.clock_timestamp();
        NEW.updated := NEW.created;
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM platform.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM platform.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM platform.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (NEW.status = 'running' AND OLD.status IN ('finished', 'failed'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();

ALTER TABLE platform.status_change DROP COLUMN extra;

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workflow');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('job');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('interactive_session');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('service');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('user_token');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workspace_retention_rule');

DROP TRIGGER replace_cached_result ON platform.job_cache;

DROP FUNCTION platform.replace_cached_result;

DELETE FROM platform.job_cache WHERE digest IS NULL;

ALTER TABLE platform.job_cache
    DROP CONSTRAINT ck_job_cache_result_has_path,
    ALTER COLUMN parameters SET NOT NULL,
    ALTER COLUMN workspace_hash SET NOT NULL,
    ALTER COLUMN result_path SET NOT NULL,
    ALTER COLUMN digest SET NOT NULL;
