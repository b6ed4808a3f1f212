-- An import from another system only moves rows: SET LOCAL platform.import = 'on'. They keep the times and statuses
-- that they bring, and leave no history, no events, no audit rows; no rule follows from them.
-- Anyone can set it, but it works for a login with the rights of the tables' owner alone, outside any tenant's scope:
-- no other role may truncate them. The current user alone says nothing, since functions that run as their owner ask.
CREATE OR REPLACE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege(session_user, 'platform.user_'::regclass, 'TRUNCATE')
       AND has_table_privilege('platform.user_'::regclass, 'TRUNCATE');

-- What the guard lets through is about no user in particular. An update ends one permission and gives another.
CREATE FUNCTION platform.record_extra_transition() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    SELECT gen_random_uuid(), 'ffffffff-ffff-ffff-ffff-ffffffffffff', done.action, done.details
    FROM (VALUES ('forbid_transition', to_jsonb(OLD)), ('allow_transition', to_jsonb(NEW))) AS done (action, details)
    WHERE done.details IS NOT NULL;
    RETURN NULL;
END
$$;

-- Events: that a row came or went, which no status change tells. Watchers read them with the history, in the order of
-- the same numbers. Argument of both functions: the entity. Both run as their owner, so that a tenant writes no event.
-- All rows of a statement at once: row by row takes three times as long.

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

-- The history goes with the row; this is what is left of it.
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

-- The phase of a job is the engine's own word; each is kept as a note.
CREATE OR REPLACE FUNCTION platform.record_phase() RETURNS trigger LANGUAGE plpgsql
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

-- The guard: what every status change meets, by Python, bulk SQL or psql.
--
-- Settings of the transaction that it reads:
--   platform.actor, platform.reason    who and why, for status_change.
--   platform.statement_reason          why, for one statement: its statement_timestamp(), a space and the reason.
--                                      It wins over platform.reason and says nothing to a later statement.
--   platform.guard                     'override', a space and the transaction's id let through what would be
--                                      refused, where there is a platform.reason. So an override outlives no
--                                      transaction, and none goes without a word.

CREATE OR REPLACE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '') <> '' -- Nearly every change ends here.
       AND current_setting('platform.guard', true)
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

-- Before a row is written: refuses what may not follow, keeps the times of its status, and counts its revision. It
-- stamps the row, too: a trigger of its own for that costs a change of a status 4 %.
-- Arguments: the entity, the times that it keeps (run, job or none), and each legal transition as from>to.
-- Times come from clock_timestamp(): a row's changes happen one after another under its lock, in transactions
-- that may have begun in another order. Its functions are named with their schema, since every change of a status
-- would pay for a search_path of its own.
CREATE OR REPLACE FUNCTION platform.guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSIF platform.is_import() THEN
        NEW.revision := OLD.revision; -- It counts the history, which an import leaves as it is.
        RETURN NEW;
    ELSE
        IF OLD.status::text || '>' || NEW.status::text <> ALL (TG_ARGV) THEN
            IF NOT platform.guard_permits(TG_ARGV[0], OLD.status::text, NEW.status::text) THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'PD001',
                    MESSAGE = format('%s %s cannot go from %s to %s', TG_ARGV[0], OLD.id_, OLD.status, NEW.status),
                    DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
                    SCHEMA = 'platform', TABLE = TG_ARGV[0], COLUMN = 'status';
            END IF;
            -- What lives again has the times of its new life alone. The states do that with a run that goes on
            -- running, and let nothing else live again.
            IF TG_ARGV[1] = 'run' THEN
                IF OLD.status IN ('finished', 'failed', 'stopped', 'deleted')
                    AND NEW.status IN ('created', 'queued', 'pending')
                THEN
                    NEW.run_started_at := nullif(NEW.run_started_at, OLD.run_started_at);
                    NEW.run_finished_at := NULL;
                    NEW.run_stopped_at := NULL;
                END IF;
            ELSIF TG_ARGV[1] = 'job' THEN
                IF OLD.status IN ('finished', 'failed', 'stopped')
                    AND NEW.status IN ('created', 'queued', 'running')
                THEN
                    NEW.started_at := nullif(NEW.started_at, OLD.started_at);
                    NEW.finished_at := NULL;
                END IF;
            END IF;
        END IF;
        NEW.revision := OLD.revision + 1;
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
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

-- History: one row for each status change, and none for a row that is gone. Argument of both functions: the entity.
-- Both run as their owner, so that a tenant can write no history and delete none.

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

-- Keeps created and updated. clock_timestamp() and not now(): rows of one transaction have an order, too. Functions
-- are named with their schema, as whatever the writer's search_path finds first would have a say in the times.
CREATE OR REPLACE FUNCTION platform.stamp_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF platform.is_import() THEN
        NEW.created := coalesce(NEW.created, pg_catalog.clock_timestamp());
        NEW.updated := coalesce(NEW.updated, NEW.created);
    ELSIF TG_OP = 'UPDATE' THEN
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSE
        NEW.created := pg_catalog.clock_timestamp();
        NEW.updated := NEW.created;
    END IF;
    RETURN NEW;
END
$$;

-- Most owners have no rule: looking costs a third of an UPDATE that finds nothing.
CREATE OR REPLACE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- A rule whose days change is moved by the difference.
CREATE OR REPLACE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT platform.is_import() THEN
        NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER record_extra_transition AFTER INSERT OR UPDATE OR DELETE ON platform.extra_transition
    FOR EACH ROW EXECUTE FUNCTION platform.record_extra_transition();

CREATE OR REPLACE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (OLD.status IN ('finished', 'failed') AND NEW.status IN ('created', 'queued', 'pending', 'running'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workflow', ' created>queued created>pending created>failed created>stopped created>deleted queued>pending queued>running queued>failed queued>stopped queued>deleted pending>queued pending>running pending>failed pending>stopped pending>deleted running>finished running>failed running>stopped finished>running finished>deleted failed>running failed>deleted stopped>deleted ');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('job', ' created>queued created>running created>finished created>failed created>stopped queued>running queued>finished queued>failed queued>stopped running>finished running>failed running>stopped ');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('interactive_session', ' created>queued created>pending created>running created>failed created>stopped created>deleted queued>pending queued>running queued>failed queued>stopped queued>deleted pending>running pending>failed pending>stopped pending>deleted running>finished running>failed running>stopped running>deleted finished>deleted failed>deleted stopped>deleted ');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('service', ' created>queued created>pending created>running created>failed created>stopped created>deleted queued>pending queued>running queued>failed queued>stopped queued>deleted pending>running pending>failed pending>stopped pending>deleted running>finished running>failed running>stopped running>deleted finished>deleted failed>deleted stopped>deleted ');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('user_token', ' requested>active requested>revoked active>revoked ');

CREATE OR REPLACE TRIGGER record_status AFTER UPDATE OF status ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workspace_retention_rule', ' created>active created>inactive active>inactive active>pending inactive>active pending>active pending>inactive pending>applied ');

-- A job may be cached before its result is known. A result that is completed takes the place of the one that is there
-- for the same parameters and workspace. The second of two that complete the same at once waits for the first one's
-- commit, and then finds it.
CREATE FUNCTION platform.replace_cached_result() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    completed bytea := platform.job_cache_digest(NEW.parameters, NEW.workspace_hash);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(format('cached result %s %s', NEW.owner_id, completed), 0));
    DELETE FROM platform.job_cache WHERE owner_id = NEW.owner_id AND digest = completed;
    RETURN NEW;
END
$$;

CREATE TRIGGER replace_cached_result BEFORE UPDATE ON platform.job_cache
    FOR EACH ROW WHEN (OLD.digest IS NULL AND NEW.parameters IS NOT NULL AND NEW.workspace_hash IS NOT NULL)
    EXECUTE FUNCTION platform.replace_cached_result();

-- Last, as writers of a run lock its table first.
ALTER TABLE platform.status_change ADD COLUMN extra BOOLEAN;

ALTER TABLE platform.job_cache
    ALTER COLUMN parameters DROP NOT NULL,
    ALTER COLUMN workspace_hash DROP NOT NULL,
    ALTER COLUMN result_path DROP NOT NULL,
    ALTER COLUMN digest DROP NOT NULL,
    ADD CONSTRAINT ck_job_cache_result_has_path CHECK (digest IS NULL OR result_path IS NOT NULL) NOT VALID;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
