-- Events: that a row came or went, which no status change tells. Watchers read them with the history, in the order of
-- the same numbers. Argument of both functions: the entity. Both run as their owner, so that a tenant writes no event.
-- All rows of an owner at once: row by row takes three times as long.

CREATE FUNCTION platform.record_creation() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_owner uuid;
    ids uuid[];
    statuses text[];
    revisions integer[];
BEGIN
    IF platform.is_import() THEN
        RETURN NULL;
    END IF;
    FOR the_owner, ids, statuses, revisions IN
        SELECT owner_id, array_agg(id_), array_agg(status), array_agg(revision) FROM created GROUP BY owner_id
    LOOP
        INSERT INTO platform.row_event
            (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
        SELECT platform.next_number('platform.history_number'), the_owner, TG_ARGV[0], id_, 'created', status,
               revision, clock_timestamp(), pg_current_xact_id()::text::bigint
        FROM unnest(ids, statuses, revisions) AS row (id_, status, revision);
    END LOOP;
    RETURN NULL;
END
$$;

-- The history goes with the row; this is what is left of it.
CREATE FUNCTION platform.record_deletion() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_owner uuid;
    ids uuid[];
    statuses text[];
    revisions integer[];
BEGIN
    IF platform.is_import() THEN
        RETURN NULL;
    END IF;
    FOR the_owner, ids, statuses, revisions IN
        SELECT owner_id, array_agg(id_), array_agg(status), array_agg(revision) FROM deleted GROUP BY owner_id
    LOOP
        INSERT INTO platform.row_event
            (number, owner_id, entity, entity_id, kind, status, revision, at, transaction_id)
        SELECT platform.next_number('platform.history_number'), the_owner, TG_ARGV[0], id_, 'deleted', status,
               revision, clock_timestamp(), pg_current_xact_id()::text::bigint
        FROM unnest(ids, statuses, revisions) AS row (id_, status, revision);
    END LOOP;
    RETURN NULL;
END
$$;

-- The phase of a job is the engine's own word; each is kept as a note.
CREATE FUNCTION platform.record_phase() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT platform.is_import() THEN
        INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
        VALUES (gen_random_uuid(), NEW.owner_id, 'job', NEW.id_, 'phase', coalesce(NEW.phase, ''),
                jsonb_build_object('from', OLD.phase, 'status', NEW.status));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER record_phase AFTER UPDATE OF phase ON platform.job
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase)
    EXECUTE FUNCTION platform.record_phase();
