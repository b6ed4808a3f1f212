DROP TRIGGER record_version ON platform.workflow;

DROP TRIGGER take_version ON platform.workflow;

DROP TRIGGER add_owner_limit ON platform.user_;

DROP TRIGGER record_phase ON platform.job;

DROP TRIGGER record_creation ON platform.workflow;

DROP TRIGGER record_deletion ON platform.workflow;

DROP TRIGGER record_creation ON platform.job;

DROP TRIGGER record_deletion ON platform.job;

DROP TRIGGER record_creation ON platform.interactive_session;

DROP TRIGGER record_deletion ON platform.interactive_session;

DROP TRIGGER record_creation ON platform.service;

DROP TRIGGER record_deletion ON platform.service;

DROP FUNCTION platform.take_version;

DROP FUNCTION platform.add_owner_limit;

DROP FUNCTION platform.record_phase;

DROP FUNCTION platform.record_creation;

DROP FUNCTION platform.record_deletion;

DROP TABLE platform.event_failure;

DROP TABLE platform.event_checkpoint;

DROP TABLE platform.row_event;

DROP TABLE platform.workflow_version;

DROP TABLE platform.idempotency_key;

DROP TABLE platform.owner_limit;

DROP FUNCTION platform.record_queue_limits;

ALTER TABLE platform.job DROP COLUMN phase;

ALTER TABLE platform.workflow DROP COLUMN version, DROP COLUMN start_after, DROP COLUMN stop_requested_at;

CREATE OR REPLACE FUNCTION platform.lock_owner(owner uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('platform owner ' || owner, 0));
END
$$;

CREATE OR REPLACE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
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
