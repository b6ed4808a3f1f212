-- Progress: how many jobs a run has in which status. A change of a job counts them, and a reader counts nothing.

-- The counts of a run are the sum of its parts. A writer takes a part that is free, or adds one: so no transaction
-- waits for another, and two that change jobs of the same runs in opposite orders do not deadlock. There are at most
-- as many parts as there were writers at once. A run that is deleted in this transaction gets no part. Returns whether
-- a part was free.
CREATE FUNCTION platform.add_progress(
    the_owner uuid, the_run uuid, jobs bigint, more_running bigint, more_finished bigint, more_failed bigint,
    more_stopped bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE platform.workflow_progress
    SET total = total + jobs, running = running + more_running, finished = finished + more_finished,
        failed = failed + more_failed, stopped = stopped + more_stopped
    WHERE owner_id = the_owner AND workflow_id = the_run AND part = (
        SELECT part FROM platform.workflow_progress
        WHERE owner_id = the_owner AND workflow_id = the_run
        LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED);
    IF FOUND THEN
        RETURN true;
    END IF;
    INSERT INTO platform.workflow_progress (owner_id, workflow_id, part, total, running, finished, failed, stopped)
    SELECT the_owner, the_run, gen_random_uuid(), jobs, more_running, more_finished, more_failed, more_stopped
    FROM platform.workflow WHERE owner_id = the_owner AND id_ = the_run;
    RETURN false;
END
$$;

-- All rows of a statement at once: row by row, each update of a part would walk through those before it. It runs as
-- its owner, so that a tenant writes no progress. An assignment calls a function for less than PERFORM.
CREATE FUNCTION platform.count_jobs() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sign integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
    jobs record;
    free boolean;
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        FOR jobs IN
            SELECT owner_id, workflow_id, sign * count(*) AS total,
                   sign * count(*) FILTER (WHERE status = 'running') AS running,
                   sign * count(*) FILTER (WHERE status = 'finished') AS finished,
                   sign * count(*) FILTER (WHERE status = 'failed') AS failed,
                   sign * count(*) FILTER (WHERE status = 'stopped') AS stopped
            FROM changed GROUP BY owner_id, workflow_id
        LOOP
            free := platform.add_progress(
                jobs.owner_id, jobs.workflow_id, jobs.total, jobs.running, jobs.finished, jobs.failed, jobs.stopped);
        END LOOP;
    ELSE
        FOR jobs IN
            SELECT owner_id, workflow_id,
                   coalesce(sum(changed.jobs) FILTER (WHERE status = 'running'), 0) AS running,
                   coalesce(sum(changed.jobs) FILTER (WHERE status = 'finished'), 0) AS finished,
                   coalesce(sum(changed.jobs) FILTER (WHERE status = 'failed'), 0) AS failed,
                   coalesce(sum(changed.jobs) FILTER (WHERE status = 'stopped'), 0) AS stopped
            FROM (
                SELECT owner_id, workflow_id, status, 1 AS jobs FROM after
                UNION ALL SELECT owner_id, workflow_id, status, -1 FROM before
            ) AS changed
            GROUP BY owner_id, workflow_id
        LOOP
            IF jobs.running <> 0 OR jobs.finished <> 0 OR jobs.failed <> 0 OR jobs.stopped <> 0 THEN
                free := platform.add_progress(
                    jobs.owner_id, jobs.workflow_id, 0, jobs.running, jobs.finished, jobs.failed, jobs.stopped);
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER count_new_jobs AFTER INSERT ON platform.job
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_jobs();

CREATE TRIGGER count_jobs AFTER UPDATE ON platform.job
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_jobs();

CREATE TRIGGER count_deleted_jobs AFTER DELETE ON platform.job
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_jobs();

-- A job's run is a part of its identity: progress, graph and results rest on it.
CREATE FUNCTION platform.keep_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD003',
        MESSAGE = format('job %s keeps its run', OLD.id_),
        SCHEMA = 'platform', TABLE = 'job';
END
$$;

CREATE TRIGGER guard_run BEFORE UPDATE OF workflow_id ON platform.job
    FOR EACH ROW WHEN (OLD.workflow_id <> NEW.workflow_id)
    EXECUTE FUNCTION platform.keep_run();
