ALTER TABLE platform.job SET (fillfactor = 80);

ALTER TABLE platform.job_cache_use SET (fillfactor = 70);

ALTER TABLE platform.lease SET (fillfactor = 50);

ALTER TABLE platform.run_counter SET (fillfactor = 50);

ALTER TABLE platform.user_resource SET (fillfactor = 70);

ALTER TABLE platform.user_token_last_use SET (fillfactor = 70);

ALTER TABLE platform.workflow SET (fillfactor = 80);

ALTER TABLE platform.workflow_resource SET (fillfactor = 80);

CREATE FUNCTION platform.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated := now();
    RETURN NEW;
END
$$;

CREATE TRIGGER touch_interactive_session BEFORE UPDATE ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_job BEFORE UPDATE ON platform.job
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_job_cache BEFORE UPDATE ON platform.job_cache
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_quota_reservation BEFORE UPDATE ON platform.quota_reservation
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_resource BEFORE UPDATE ON platform.resource
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_service BEFORE UPDATE ON platform.service
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_user_ BEFORE UPDATE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_user_token BEFORE UPDATE ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_workflow BEFORE UPDATE ON platform.workflow
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE TRIGGER touch_workspace_retention_rule BEFORE UPDATE ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.touch();

CREATE FUNCTION platform.lock_run_counters(owner uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.user_ WHERE id_ = owner FOR NO KEY UPDATE;
END
$$;

CREATE FUNCTION platform.take_run_number(
    owner uuid, run_name text, is_restart boolean, INOUT major integer, OUT minor integer
) LANGUAGE plpgsql AS $$
DECLARE
    latest integer;
    taken integer;
BEGIN
    PERFORM platform.lock_run_counters(owner);
    IF is_restart THEN
        SELECT last INTO latest FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0;
        IF latest IS NULL OR major > latest THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD004',
                MESSAGE = format('there is no run %sof %L to restart', major || ' ', run_name),
                SCHEMA = 'platform', TABLE = 'workflow';
        END IF;
        major := coalesce(major, latest);
    END IF;
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    VALUES (owner, run_name, CASE WHEN is_restart THEN major ELSE 0 END, 1)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
    RETURNING last INTO taken;
    IF is_restart THEN
        minor := taken;
    ELSE
        major := taken;
        minor := 0;
    END IF;
END
$$;

CREATE FUNCTION platform.note_run_number(owner uuid, run_name text, major integer, minor integer)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0 AND last >= major
    ) AND (minor = 0 OR EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = major AND last >= minor
    )) THEN
        RETURN;
    END IF;
    PERFORM platform.lock_run_counters(owner);
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    SELECT owner, run_name, given.major, given.last
    FROM (VALUES (0, major), (major, minor)) AS given (major, last)
    WHERE given.last > 0
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = greatest(counter.last, excluded.last);
END
$$;

CREATE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.run_number_minor IS NULL
        AND (NEW.restart OR NEW.run_number_major IS NULL)
    THEN
        SELECT major, minor INTO NEW.run_number_major, NEW.run_number_minor
        FROM platform.take_run_number(NEW.owner_id, NEW.name, NEW.restart, NEW.run_number_major);
    ELSE
        NEW.run_number_minor := coalesce(NEW.run_number_minor, 0);
        PERFORM platform.note_run_number(
            NEW.owner_id, NEW.name, NEW.run_number_major, NEW.run_number_minor);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER number_new_run BEFORE INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.owner_id IS NOT NULL AND NEW.name IS NOT NULL)
    EXECUTE FUNCTION platform.number_run();

CREATE TRIGGER number_renamed_run
    BEFORE UPDATE OF name, run_number_major, run_number_minor ON platform.workflow
    FOR EACH ROW WHEN (
        NEW.name IS NOT NULL AND NEW.run_number_major IS NOT NULL
        AND (OLD.name, OLD.run_number_major, OLD.run_number_minor)
            IS DISTINCT FROM (NEW.name, NEW.run_number_major, NEW.run_number_minor))
    EXECUTE FUNCTION platform.number_run();

CREATE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '')
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

CREATE FUNCTION platform.keep_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD003',
        MESSAGE = format('%s %s keeps its id and its owner', TG_TABLE_NAME, OLD.id_),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END
$$;

CREATE FUNCTION platform.guard_workflow_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'created' THEN NEW.status IN ('queued', 'deleted')
            WHEN 'queued' THEN NEW.status IN ('pending', 'failed', 'deleted')
            WHEN 'pending' THEN NEW.status IN ('running', 'deleted')
            WHEN 'running' THEN NEW.status IN ('finished', 'failed', 'stopped')
            WHEN 'finished' THEN NEW.status IN ('running', 'deleted')
            WHEN 'failed' THEN NEW.status IN ('running', 'deleted')
            WHEN 'stopped' THEN NEW.status IN ('deleted')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('workflow %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'workflow', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    IF NEW.status = 'running' THEN
        IF TG_OP = 'INSERT' THEN
            NEW.run_started_at := coalesce(NEW.run_started_at, clock_timestamp());
        ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
            NEW.run_started_at := clock_timestamp();
        END IF;
        NEW.run_finished_at := NULL;
        NEW.run_stopped_at := NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        NEW.run_finished_at := coalesce(NEW.run_finished_at, clock_timestamp());
    ELSIF NEW.status = 'stopped' THEN
        NEW.run_stopped_at := coalesce(NEW.run_stopped_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_workflow_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, 'workflow', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_workflow_insert BEFORE INSERT ON platform.workflow
    FOR EACH ROW EXECUTE FUNCTION platform.guard_workflow_status();

CREATE TRIGGER guard_workflow_update BEFORE UPDATE OF status, revision ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_workflow_status();

CREATE TRIGGER guard_workflow_identity BEFORE UPDATE OF owner_id, id_ ON platform.workflow
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_workflow_status AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_workflow_status();

CREATE FUNCTION platform.guard_job_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'created' THEN NEW.status IN ('queued', 'running', 'finished', 'failed', 'stopped')
            WHEN 'queued' THEN NEW.status IN ('running', 'finished', 'failed', 'stopped')
            WHEN 'running' THEN NEW.status IN ('finished', 'failed', 'stopped')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('job %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'job', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    IF NEW.status = 'running' THEN
        NEW.started_at := coalesce(NEW.started_at, clock_timestamp());
    ELSIF NEW.status IN ('finished', 'failed', 'stopped') THEN
        NEW.finished_at := coalesce(NEW.finished_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_job_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, 'job', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_job_insert BEFORE INSERT ON platform.job
    FOR EACH ROW EXECUTE FUNCTION platform.guard_job_status();

CREATE TRIGGER guard_job_update BEFORE UPDATE OF status, revision ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_job_status();

CREATE TRIGGER guard_job_identity BEFORE UPDATE OF owner_id, id_ ON platform.job
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_job_status AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_job_status();

CREATE FUNCTION platform.guard_interactive_session_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'created' THEN NEW.status IN ('queued', 'pending', 'running', 'failed', 'stopped', 'deleted')
            WHEN 'queued' THEN NEW.status IN ('pending', 'running', 'failed', 'stopped', 'deleted')
            WHEN 'pending' THEN NEW.status IN ('running', 'failed', 'stopped', 'deleted')
            WHEN 'running' THEN NEW.status IN ('finished', 'failed', 'stopped', 'deleted')
            WHEN 'finished' THEN NEW.status IN ('deleted')
            WHEN 'failed' THEN NEW.status IN ('deleted')
            WHEN 'stopped' THEN NEW.status IN ('deleted')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('interactive_session %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'interactive_session', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    IF NEW.status = 'running' THEN
        IF TG_OP = 'INSERT' THEN
            NEW.run_started_at := coalesce(NEW.run_started_at, clock_timestamp());
        ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
            NEW.run_started_at := clock_timestamp();
        END IF;
        NEW.run_finished_at := NULL;
        NEW.run_stopped_at := NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        NEW.run_finished_at := coalesce(NEW.run_finished_at, clock_timestamp());
    ELSIF NEW.status = 'stopped' THEN
        NEW.run_stopped_at := coalesce(NEW.run_stopped_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_interactive_session_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, 'interactive_session', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_interactive_session_insert BEFORE INSERT ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.guard_interactive_session_status();

CREATE TRIGGER guard_interactive_session_update BEFORE UPDATE OF status, revision ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_interactive_session_status();

CREATE TRIGGER guard_interactive_session_identity BEFORE UPDATE OF owner_id, id_ ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_interactive_session_status AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_interactive_session_status();

CREATE FUNCTION platform.guard_service_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'created' THEN NEW.status IN ('queued', 'pending', 'running', 'failed', 'stopped', 'deleted')
            WHEN 'queued' THEN NEW.status IN ('pending', 'running', 'failed', 'stopped', 'deleted')
            WHEN 'pending' THEN NEW.status IN ('running', 'failed', 'stopped', 'deleted')
            WHEN 'running' THEN NEW.status IN ('finished', 'failed', 'stopped', 'deleted')
            WHEN 'finished' THEN NEW.status IN ('deleted')
            WHEN 'failed' THEN NEW.status IN ('deleted')
            WHEN 'stopped' THEN NEW.status IN ('deleted')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('service %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'service', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    IF NEW.status = 'running' THEN
        IF TG_OP = 'INSERT' THEN
            NEW.run_started_at := coalesce(NEW.run_started_at, clock_timestamp());
        ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
            NEW.run_started_at := clock_timestamp();
        END IF;
        NEW.run_finished_at := NULL;
        NEW.run_stopped_at := NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        NEW.run_finished_at := coalesce(NEW.run_finished_at, clock_timestamp());
    ELSIF NEW.status = 'stopped' THEN
        NEW.run_stopped_at := coalesce(NEW.run_stopped_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_service_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, 'service', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_service_insert BEFORE INSERT ON platform.service
    FOR EACH ROW EXECUTE FUNCTION platform.guard_service_status();

CREATE TRIGGER guard_service_update BEFORE UPDATE OF status, revision ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_service_status();

CREATE TRIGGER guard_service_identity BEFORE UPDATE OF owner_id, id_ ON platform.service
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_service_status AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_service_status();

CREATE FUNCTION platform.guard_user_token_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'requested' THEN NEW.status IN ('active', 'revoked')
            WHEN 'active' THEN NEW.status IN ('revoked')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('user_token %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'user_token', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_user_token_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.user_id, NEW.id_, NEW.revision, 'user_token', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_user_token_insert BEFORE INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.guard_user_token_status();

CREATE TRIGGER guard_user_token_update BEFORE UPDATE OF status, revision ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_user_token_status();

CREATE TRIGGER guard_user_token_identity BEFORE UPDATE OF user_id, id_ ON platform.user_token
    FOR EACH ROW WHEN (OLD.user_id <> NEW.user_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_user_token_status AFTER UPDATE OF status ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_user_token_status();

CREATE FUNCTION platform.guard_workspace_retention_rule_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSE
        IF NOT (CASE OLD.status
            WHEN 'created' THEN NEW.status IN ('active', 'inactive')
            WHEN 'active' THEN NEW.status IN ('inactive', 'pending')
            WHEN 'inactive' THEN NEW.status IN ('active')
            WHEN 'pending' THEN NEW.status IN ('active', 'inactive', 'applied')
            ELSE false
        END) AND NOT platform.guard_is_overridden() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD001',
                MESSAGE = format('workspace_retention_rule %s cannot go from %s to %s', OLD.id_, OLD.status, NEW.status),
                DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                SCHEMA = 'platform', TABLE = 'workspace_retention_rule', COLUMN = 'status';
        END IF;
        NEW.revision := OLD.revision + 1;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.record_workspace_retention_rule_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
        (owner_id, entity_id, revision, entity, from_status, to_status, actor, reason, overridden)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, 'workspace_retention_rule', OLD.status, NEW.status,
        nullif(current_setting('platform.actor', true), ''), change_reason,
        platform.guard_is_overridden()
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER guard_workspace_retention_rule_insert BEFORE INSERT ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.guard_workspace_retention_rule_status();

CREATE TRIGGER guard_workspace_retention_rule_update BEFORE UPDATE OF status, revision ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_workspace_retention_rule_status();

CREATE TRIGGER guard_workspace_retention_rule_identity BEFORE UPDATE OF owner_id, id_ ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity();

CREATE TRIGGER record_workspace_retention_rule_status AFTER UPDATE OF status ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_workspace_retention_rule_status();

CREATE FUNCTION platform.drop_former_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = NEW.owner_id AND entity_id = NEW.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease();

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'running') AND NEW.status IN ('created', 'queued', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease();

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease();

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease();

CREATE FUNCTION platform.activate_workspace_retention_rules(owner uuid, workflow uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created'
    ORDER BY id_ FOR UPDATE;
    UPDATE platform.workspace_retention_rule
    SET status = 'active',
        apply_on = (date_trunc('day', now() AT TIME ZONE 'UTC') + make_interval(days => retention_days + 1))
                   AT TIME ZONE 'UTC'
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created';
END
$$;

CREATE FUNCTION platform.inactivate_workspace_retention_rules(owner uuid, path text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow ON workflow.owner_id = rule.owner_id AND workflow.id_ = rule.workflow_id
    WHERE rule.owner_id = owner AND workflow.workspace_path = path
      AND rule.status IN ('created', 'active', 'pending')
    ORDER BY rule.id_ FOR UPDATE OF rule;
    UPDATE platform.workspace_retention_rule AS rule
    SET status = 'inactive'
    FROM platform.workflow
    WHERE workflow.owner_id = owner AND workflow.workspace_path = path
      AND rule.owner_id = owner AND rule.workflow_id = workflow.id_
      AND rule.status IN ('created', 'active', 'pending');
END
$$;

CREATE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    RETURN NEW;
END
$$;

CREATE TRIGGER move_retention_date BEFORE UPDATE OF retention_days ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (
        OLD.retention_days <> NEW.retention_days AND OLD.apply_on = NEW.apply_on
        AND NEW.retention_days BETWEEN 0 AND 36500)
    EXECUTE FUNCTION platform.move_retention_date();

CREATE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM platform.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL; -- Most owners have none: looking costs a third of an UPDATE that finds nothing.
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM platform.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM platform.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION platform.forget_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = OLD.id_;
    DELETE FROM platform.note WHERE owner_id = OLD.id_;
    DELETE FROM platform.status_change WHERE owner_id = OLD.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_user AFTER DELETE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.forget_user();

CREATE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (NEW.status = 'running' AND OLD.status IN ('finished', 'failed'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();

CREATE TRIGGER retention_on_restart AFTER INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.restart AND NEW.status NOT IN ('finished', 'failed'))
    EXECUTE FUNCTION platform.follow_run_with_retention();

CREATE FUNCTION platform.record_workspace_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO platform.workspace_retention_audit_log
        (owner_id, workspace_retention_rule_id, status, retention_days, apply_on)
    VALUES (NEW.owner_id, NEW.id_, NEW.status, NEW.retention_days, NEW.apply_on);
    RETURN NULL;
END
$$;

CREATE TRIGGER record_workspace_retention
    AFTER INSERT OR UPDATE OF status, retention_days, apply_on ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.record_workspace_retention();
