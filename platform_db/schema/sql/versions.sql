-- Versions of what a run is asked to do. Writing workflow.version takes a new one, and keeps the one before, whoever
-- writes it. The run's revision counts it, so that a plan made for the version before is refused as one for a status before is, and the history has it.
-- Its name lets it fire after the guard, which keeps the revision where the status stays the same.
CREATE FUNCTION platform.take_version() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.workflow_version (owner_id, workflow_id, version, specification, labels, priority)
    VALUES (OLD.owner_id, OLD.id_, OLD.version, OLD.specification, OLD.labels, OLD.priority);
    NEW.version := OLD.version + 1;
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END
$$;

CREATE TRIGGER take_version BEFORE UPDATE OF version ON platform.workflow
    FOR EACH ROW WHEN (OLD.version IS DISTINCT FROM NEW.version)
    EXECUTE FUNCTION platform.take_version();

CREATE TRIGGER record_version AFTER UPDATE OF version ON platform.workflow
    FOR EACH ROW WHEN (OLD.version IS DISTINCT FROM NEW.version AND OLD.status = NEW.status)
    EXECUTE FUNCTION platform.record_status('workflow');
