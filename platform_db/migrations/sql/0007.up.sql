ALTER TABLE platform.workflow
    ADD COLUMN version INTEGER DEFAULT 1 NOT NULL,
    ADD COLUMN start_after TIMESTAMP WITH TIME ZONE,
    ADD COLUMN stop_requested_at TIMESTAMP WITH TIME ZONE,
    ADD CONSTRAINT ck_workflow_version_positive CHECK (version >= 1) NOT VALID;

ALTER TABLE platform.job
    ADD COLUMN phase TEXT,
    ADD CONSTRAINT ck_job_phase_length CHECK (octet_length(phase) BETWEEN 1 AND 255) NOT VALID;

CREATE TABLE platform.owner_limit (
    owner_id UUID NOT NULL,
    concurrent_runs INTEGER,
    starts_per_minute INTEGER,
    claims BIGINT DEFAULT '0' NOT NULL,
    served_at TIMESTAMP WITH TIME ZONE DEFAULT '-infinity' NOT NULL,
    jobs_served_at TIMESTAMP WITH TIME ZONE DEFAULT '-infinity' NOT NULL,
    starts_until TIMESTAMP WITH TIME ZONE DEFAULT '-infinity' NOT NULL,
    CONSTRAINT pk_owner_limit PRIMARY KEY (owner_id),
    CONSTRAINT ck_owner_limit_concurrent_runs_not_negative CHECK (concurrent_runs >= 0),
    CONSTRAINT ck_owner_limit_starts_per_minute_not_negative CHECK (starts_per_minute >= 0),
    CONSTRAINT fk_owner_limit_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE TABLE platform.idempotency_key (
    id_ UUID NOT NULL,
    key TEXT NOT NULL,
    digest BYTEA NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_idempotency_key PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_idempotency_key_id_ UNIQUE (id_),
    CONSTRAINT uq_idempotency_key_owner_id_key UNIQUE (owner_id, key),
    CONSTRAINT fk_idempotency_key_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_idempotency_key_key_length CHECK (octet_length(key) BETWEEN 1 AND 255),
    CONSTRAINT ck_idempotency_key_digest_length CHECK (octet_length(digest) = 32)
);

CREATE INDEX ix_idempotency_key_owner_id_workflow_id ON platform.idempotency_key (owner_id, workflow_id);

CREATE TABLE platform.workflow_version (
    version INTEGER NOT NULL,
    specification JSONB,
    labels JSONB NOT NULL,
    priority INTEGER,
    replaced_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_workflow_version PRIMARY KEY (owner_id, workflow_id, version),
    CONSTRAINT fk_workflow_version_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_workflow_version_version_positive CHECK (version >= 1)
);

CREATE TABLE platform.row_event (
    number BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_row_event PRIMARY KEY (owner_id, number),
    CONSTRAINT ck_row_event_known_kind CHECK (kind IN ('created', 'deleted'))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_row_event_number ON platform.row_event (number);

CREATE INDEX ix_row_event_transaction_id ON platform.row_event (transaction_id);

CREATE TABLE platform.event_checkpoint (
    name TEXT NOT NULL,
    cursor TEXT NOT NULL,
    number BIGINT NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    moved_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    version BIGINT DEFAULT '1' NOT NULL,
    failed BIGINT DEFAULT '0' NOT NULL,
    CONSTRAINT pk_event_checkpoint PRIMARY KEY (name),
    CONSTRAINT ck_event_checkpoint_name_length CHECK (octet_length(name) BETWEEN 1 AND 255)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE TABLE platform.event_failure (
    name TEXT NOT NULL,
    number BIGINT NOT NULL,
    event JSONB NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_event_failure PRIMARY KEY (name, number),
    CONSTRAINT fk_event_failure_name FOREIGN KEY(name) REFERENCES platform.event_checkpoint (name) ON DELETE CASCADE
);

ALTER TABLE platform.idempotency_key ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.idempotency_key
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.owner_limit ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.owner_limit
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.row_event ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.row_event
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_version ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_version
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

-- Events: that a row came or went, which no status change tells. Watchers read them with the history, in the order of
-- the same numbers. Argument of both functions: the entity. Both run as their owner, so that a tenant writes no event.
-- All rows of a statement at once: row by row takes three times as long.

CREATE FUNCTION platform.record_creation() RETURNS trigger LANGUAGE plpgsql
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

-- The history goes with the row; this is what is left of it.
CREATE FUNCTION platform.record_deletion() RETURNS trigger LANGUAGE plpgsql
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

-- The phase of a job is the engine's own word; each is kept as a note.
CREATE FUNCTION platform.record_phase() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.note (id_, owner_id, entity, entity_id, topic, message, details)
    VALUES (gen_random_uuid(), NEW.owner_id, 'job', NEW.id_, 'phase', coalesce(NEW.phase, ''),
            jsonb_build_object('from', OLD.phase, 'status', NEW.status));
    RETURN NULL;
END
$$;

CREATE TRIGGER record_phase AFTER UPDATE OF phase ON platform.job
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase)
    EXECUTE FUNCTION platform.record_phase();

CREATE TRIGGER record_creation AFTER INSERT ON platform.workflow
    REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_creation('workflow');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.workflow
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_deletion('workflow');

CREATE TRIGGER record_creation AFTER INSERT ON platform.job
    REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_creation('job');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.job
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_deletion('job');

CREATE TRIGGER record_creation AFTER INSERT ON platform.interactive_session
    REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_creation('interactive_session');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.interactive_session
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_deletion('interactive_session');

CREATE TRIGGER record_creation AFTER INSERT ON platform.service
    REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_creation('service');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.service
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.record_deletion('service');

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.idempotency_key
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.idempotency_key
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

-- An owner's turn in the queue comes with the user, so that a claim never waits for another to write it.
CREATE FUNCTION platform.add_owner_limit() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.owner_limit (owner_id) VALUES (NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_owner_limit AFTER INSERT ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.add_owner_limit();

-- Who may take how much of the queue is the platform's to say, and each change is recorded.
CREATE FUNCTION platform.record_queue_limits() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
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

INSERT INTO platform.owner_limit (owner_id) SELECT id_ FROM platform.user_;

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

-- A new run's number, with fewer calls.
CREATE OR REPLACE FUNCTION platform.lock_owner(owner uuid) RETURNS void LANGUAGE sql
    RETURN pg_advisory_xact_lock(hashtextextended('platform owner ' || owner, 0));

CREATE OR REPLACE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' OR NEW.run_number_minor IS NOT NULL
        OR (NOT NEW.restart AND NEW.run_number_major IS NOT NULL)
    THEN
        NEW.run_number_minor := coalesce(NEW.run_number_minor, 0);
        PERFORM platform.note_run_number(
            NEW.owner_id, NEW.name, NEW.run_number_major, NEW.run_number_minor);
    ELSIF NEW.restart THEN
        SELECT major, minor INTO NEW.run_number_major, NEW.run_number_minor
        FROM platform.take_run_number(NEW.owner_id, NEW.name, true, NEW.run_number_major);
    ELSE
        PERFORM platform.lock_owner(NEW.owner_id);
        INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
        VALUES (NEW.owner_id, NEW.name, 0, 1)
        ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
        RETURNING last INTO NEW.run_number_major;
        NEW.run_number_minor := 0;
    END IF;
    RETURN NEW;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
