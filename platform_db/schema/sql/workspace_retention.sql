-- Retention rules of workspaces follow their run: its end activates them, a restart inactivates those of all runs
-- that share the workspace. In PL/pgSQL, which keeps the plans of its statements.

-- A rule applies from the end of the day on which its run ended, so many days later.
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

-- Most owners have no rule: looking costs a third of an UPDATE that finds nothing.
CREATE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM platform.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL;
    ELSIF platform.is_import() THEN
        RETURN NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM platform.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM platform.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (OLD.status IN ('finished', 'failed') AND NEW.status IN ('created', 'queued', 'pending', 'running'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();

CREATE TRIGGER retention_on_restart AFTER INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.restart AND NEW.status NOT IN ('finished', 'failed'))
    EXECUTE FUNCTION platform.follow_run_with_retention();

-- A rule whose days change is moved by the difference.
CREATE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT platform.is_import() THEN
        NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER move_retention_date BEFORE UPDATE OF retention_days ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (
        OLD.retention_days <> NEW.retention_days AND OLD.apply_on = NEW.apply_on
        AND NEW.retention_days BETWEEN 0 AND 36500)
    EXECUTE FUNCTION platform.move_retention_date();

-- Each change of a rule leaves a row, which only the database writes.
CREATE FUNCTION platform.record_workspace_retention() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.workspace_retention_audit_log
        (owner_id, workspace_retention_rule_id, status, retention_days, apply_on)
    VALUES (NEW.owner_id, NEW.id_, NEW.status, NEW.retention_days, NEW.apply_on);
    RETURN NULL;
END
$$;

CREATE TRIGGER record_workspace_retention
    AFTER INSERT OR UPDATE OF status, retention_days, apply_on ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (NOT platform.is_import())
    EXECUTE FUNCTION platform.record_workspace_retention();
