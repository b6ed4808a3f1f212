-- An owner's turn in the queue comes with the user, so that a claim never waits for another to write it.
CREATE FUNCTION platform.add_owner_limit() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.owner_limit (owner_id) VALUES (NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_owner_limit AFTER INSERT ON platform.user_
    FOR EACH ROW WHEN (platform.is_coordinator()) EXECUTE FUNCTION platform.add_owner_limit();

-- Who may take how much of the queue is the platform's to say, and each change is recorded.
CREATE FUNCTION platform.record_queue_limits() RETURNS trigger LANGUAGE plpgsql
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

CREATE TRIGGER record_queue_limits AFTER UPDATE OF concurrent_runs, starts_per_minute ON platform.owner_limit
    FOR EACH ROW WHEN (
        (OLD.concurrent_runs, OLD.starts_per_minute) IS DISTINCT FROM (NEW.concurrent_runs, NEW.starts_per_minute)
        AND NOT platform.is_import()
    )
    EXECUTE FUNCTION platform.record_queue_limits();
