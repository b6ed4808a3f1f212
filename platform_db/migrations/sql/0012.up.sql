CREATE FUNCTION platform.change_workflow_status(
    the_owner uuid, the_id uuid, wanted platform.run_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer, run_started_at timestamptz, run_finished_at timestamptz, run_stopped_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.workflow WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.workflow AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('workflow', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision, target.run_started_at, target.run_finished_at, target.run_stopped_at;
END
$$;

CREATE FUNCTION platform.change_job_status(
    the_owner uuid, the_id uuid, wanted platform.job_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer, started_at timestamptz, finished_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.job WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.job AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('job', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision, target.started_at, target.finished_at;
END
$$;

CREATE FUNCTION platform.change_interactive_session_status(
    the_owner uuid, the_id uuid, wanted platform.run_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer, run_started_at timestamptz, run_finished_at timestamptz, run_stopped_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.interactive_session WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.interactive_session AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('interactive_session', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision, target.run_started_at, target.run_finished_at, target.run_stopped_at;
END
$$;

CREATE FUNCTION platform.change_service_status(
    the_owner uuid, the_id uuid, wanted platform.run_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer, run_started_at timestamptz, run_finished_at timestamptz, run_stopped_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.service WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.service AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('service', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision, target.run_started_at, target.run_finished_at, target.run_stopped_at;
END
$$;

CREATE FUNCTION platform.change_user_token_status(
    the_owner uuid, the_id uuid, wanted platform.user_token_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.user_token WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.user_token AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('user_token', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision;
END
$$;

CREATE FUNCTION platform.change_workspace_retention_rule_status(
    the_owner uuid, the_id uuid, wanted platform.workspace_retention_rule_status, sources text[], the_reason text, expected text[],
    unexpected text[], expected_revision integer
) RETURNS TABLE (revision integer) LANGUAGE plpgsql AS $$
BEGIN
    IF the_reason IS NOT NULL THEN
        PERFORM set_config(
            'platform.statement_reason', statement_timestamp()::text || ' ' || the_reason, true);
    END IF;
    IF the_owner IS NULL THEN
        SELECT owner_id INTO the_owner FROM platform.workspace_retention_rule WHERE id_ = the_id;
    END IF;
    RETURN QUERY UPDATE platform.workspace_retention_rule AS target SET status = wanted
    WHERE target.owner_id = the_owner AND target.id_ = the_id
        AND CASE WHEN target.status::text = ANY (sources) THEN true
            ELSE target.status <> wanted
                AND platform.guard_permits('workspace_retention_rule', target.status::text, wanted::text) END
        AND CASE WHEN expected IS NULL THEN true ELSE target.status::text = ANY (expected) END
        AND CASE WHEN unexpected IS NULL THEN true ELSE target.status::text <> ALL (unexpected) END
        AND CASE WHEN expected_revision IS NULL THEN true ELSE target.revision = expected_revision END
    RETURNING target.revision;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
