ALTER TYPE platform.resource_type ADD VALUE 'database' AFTER 'disk';

CREATE TABLE platform.workflow_progress (
    part UUID NOT NULL,
    total BIGINT NOT NULL,
    running BIGINT NOT NULL,
    finished BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    stopped BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_workflow_progress PRIMARY KEY (owner_id, workflow_id, part),
    CONSTRAINT fk_workflow_progress_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE TABLE platform.job_dependency (
    parent_id UUID NOT NULL,
    child_id UUID NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    kind TEXT DEFAULT '' NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_job_dependency PRIMARY KEY (owner_id, workflow_id, parent_id, child_id, name),
    CONSTRAINT fk_job_dependency_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_job_dependency_owner_id_parent_id FOREIGN KEY(owner_id, parent_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_job_dependency_owner_id_child_id FOREIGN KEY(owner_id, child_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_job_dependency_name_length CHECK (octet_length(name) <= 1024)
);

CREATE INDEX ix_job_dependency_owner_id_child_id ON platform.job_dependency (owner_id, child_id);

CREATE INDEX ix_job_dependency_owner_id_parent_id ON platform.job_dependency (owner_id, parent_id);

CREATE TABLE platform.workflow_result (
    id_ UUID NOT NULL,
    job_id UUID,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    sha256 BYTEA NOT NULL,
    data BYTEA,
    file UUID,
    former_file UUID,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_workflow_result PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_workflow_result_id_ UNIQUE (id_),
    CONSTRAINT uq_workflow_result_owner_id_workflow_id_job_id_name UNIQUE NULLS NOT DISTINCT (owner_id, workflow_id, job_id, name),
    CONSTRAINT fk_workflow_result_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_workflow_result_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_workflow_result_name_length CHECK (octet_length(name) BETWEEN 1 AND 1024),
    CONSTRAINT ck_workflow_result_media_type_length CHECK (octet_length(media_type) BETWEEN 1 AND 255),
    CONSTRAINT ck_workflow_result_one_content CHECK (num_nonnulls(data, file) = 1),
    CONSTRAINT ck_workflow_result_size_of_data CHECK (size >= 0 AND octet_length(data) = size),
    CONSTRAINT ck_workflow_result_sha256_length CHECK (octet_length(sha256) = 32)
);

CREATE INDEX ix_workflow_result_owner_id_job_id ON platform.workflow_result (owner_id, job_id) WHERE job_id IS NOT NULL;

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

-- The graph of a run: edges between its own jobs, and no cycle.

-- Adders of edges wait for each other, run by run. Otherwise two that each add one half of a cycle would not see the
-- other's. The lock is an advisory one, which no change of a status waits for.
CREATE FUNCTION platform.lock_graph(the_run uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('platform graph ' || the_run, 0));
END
$$;

-- Returns a job on a cycle that can be reached from the given jobs, NULL where there is none. A new edge closes a
-- cycle only among what its child leads to. Jobs without an edge from a remaining one are taken out, again and again
-- (Kahn's algorithm): each job and each edge is looked at once. A query that follows paths looks at each path.
-- Without statistics the planner would read all edges of the owner for each job: LATERAL … OFFSET 0 makes it use the
-- index, and the setting keeps it from nested loops elsewhere.
CREATE FUNCTION platform.find_cycle(the_owner uuid, starts uuid[]) RETURNS uuid
    LANGUAGE plpgsql STABLE SET enable_nestloop = off AS $$
DECLARE
    jobs uuid[];
    -- By a job's number: how many edges lead to it from remaining jobs, and how many of "targets" are its own.
    incoming integer[];
    outgoing integer[];
    first_target integer[];
    targets integer[];
    ready integer[];
    source integer[];
    taken integer := 0;
    job integer;
    target integer;
BEGIN
    WITH RECURSIVE reached (id_) AS (
        SELECT unnest(starts)
        UNION
        SELECT edge.child_id FROM reached CROSS JOIN LATERAL (
            SELECT child_id FROM platform.job_dependency
            WHERE owner_id = the_owner AND parent_id = reached.id_ OFFSET 0
        ) AS edge
    ),
    numbered AS MATERIALIZED (SELECT id_, row_number() OVER ()::integer AS number FROM reached),
    stored AS MATERIALIZED (
        SELECT parent.number AS parent, edge.child_id
        FROM numbered AS parent CROSS JOIN LATERAL (
            SELECT child_id FROM platform.job_dependency
            WHERE owner_id = the_owner AND parent_id = parent.id_ OFFSET 0
        ) AS edge
    ),
    edge AS MATERIALIZED (
        SELECT stored.parent, child.number AS child FROM stored JOIN numbered AS child ON child.id_ = stored.child_id
    ),
    counted AS (
        SELECT numbered.id_, numbered.number, coalesce(arriving.edges, 0) AS incoming,
               coalesce(leaving.edges, 0) AS outgoing
        FROM numbered
        LEFT JOIN (SELECT child, count(*)::integer AS edges FROM edge GROUP BY child) AS arriving
            ON arriving.child = numbered.number
        LEFT JOIN (SELECT parent, count(*)::integer AS edges FROM edge GROUP BY parent) AS leaving
            ON leaving.parent = numbered.number
    ),
    placed AS (
        SELECT *, 1 + sum(counted.outgoing) OVER (ORDER BY number) - counted.outgoing AS place FROM counted
    )
    SELECT array_agg(placed.id_ ORDER BY number), array_agg(placed.incoming ORDER BY number),
           array_agg(placed.outgoing ORDER BY number), array_agg(placed.place::integer ORDER BY number),
           coalesce(array_agg(number) FILTER (WHERE placed.incoming = 0), '{}'),
           coalesce((SELECT array_agg(child ORDER BY parent) FROM edge), '{}')
    INTO jobs, incoming, outgoing, first_target, ready, targets
    FROM placed;
    WHILE taken < cardinality(ready) LOOP
        taken := taken + 1;
        job := ready[taken];
        FOR place IN first_target[job] .. first_target[job] + outgoing[job] - 1 LOOP
            target := targets[place];
            incoming[target] := incoming[target] - 1;
            IF incoming[target] = 0 THEN
                ready[cardinality(ready) + 1] := target;
            END IF;
        END LOOP;
    END LOOP;
    IF taken = coalesce(cardinality(jobs), 0) THEN
        RETURN NULL;
    END IF;
    -- Each job that remains has an edge from another one: so many steps back end on a cycle.
    FOR parent IN 1 .. cardinality(jobs) LOOP
        IF incoming[parent] > 0 THEN
            job := parent;
            FOR place IN first_target[parent] .. first_target[parent] + outgoing[parent] - 1 LOOP
                source[targets[place]] := parent;
            END LOOP;
        END IF;
    END LOOP;
    FOR step IN 1 .. cardinality(jobs) LOOP
        job := source[job];
    END LOOP;
    RETURN jobs[job];
END
$$;

-- Run by run, and by arrays: a statement about one owner's rows stays on one node where tables are distributed, which
-- a join with the transition table does not.
CREATE FUNCTION platform.check_dependencies() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    the_owner uuid;
    the_run uuid;
    parents uuid[];
    children uuid[];
    culprit uuid;
BEGIN
    FOR the_owner, the_run, parents, children IN
        SELECT owner_id, workflow_id, array_agg(parent_id), array_agg(child_id) FROM added
        GROUP BY owner_id, workflow_id ORDER BY owner_id, workflow_id
    LOOP
        PERFORM platform.lock_graph(the_run);
        SELECT given INTO culprit FROM unnest(parents || children) AS given
        WHERE (SELECT workflow_id FROM platform.job WHERE owner_id = the_owner AND id_ = given)
              IS DISTINCT FROM the_run
        LIMIT 1;
        IF culprit IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD003',
                MESSAGE = format('job %s is none of run %s', culprit, the_run),
                SCHEMA = 'platform', TABLE = 'job_dependency';
        END IF;
        culprit := platform.find_cycle(the_owner, children);
        IF culprit IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD006',
                MESSAGE = format('the dependencies of run %s would form a cycle through job %s', the_run, culprit),
                SCHEMA = 'platform', TABLE = 'job_dependency';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_new_dependencies AFTER INSERT ON platform.job_dependency
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION platform.check_dependencies();

CREATE TRIGGER check_dependencies AFTER UPDATE ON platform.job_dependency
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION platform.check_dependencies();

-- Database storage: what the database itself stores for an owner counts with the write that changes it. So no update
-- is lost, and nothing measures it later.

-- Changes the owner's total of "database storage", and refuses more than its limit. It locks the owner's totals first,
-- all of them and in key order, as every writer of one does. Without the resource nothing is counted: creating it
-- adds up what is stored by then. Totals stop at 2^62 bytes, as those of the disk do.
CREATE FUNCTION platform.count_storage(the_owner uuid, change bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    total record;
BEGIN
    PERFORM FROM platform.user_resource WHERE owner_id = the_owner
    ORDER BY owner_id, resource_id FOR NO KEY UPDATE;
    UPDATE platform.user_resource AS stored
    SET quota_used = least(4611686018427387904, greatest(0, stored.quota_used + change)),
        measured_at = clock_timestamp()
    FROM platform.resource
    WHERE stored.owner_id = the_owner AND resource.id_ = stored.resource_id AND resource.name = 'database storage'
    RETURNING stored.quota_used, stored.quota_reserved, stored.quota_limit INTO total;
    -- Numeric, since a sum of what is allowed may be more than a bigint holds.
    IF change > 0 AND total.quota_used::numeric + total.quota_reserved > total.quota_limit THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD005',
            MESSAGE = format('user %s cannot have %s more bytes of database storage', the_owner, change),
            DETAIL = format('%s %s %s %s %s', the_owner, change, total.quota_used - change, total.quota_reserved,
                            total.quota_limit),
            SCHEMA = 'platform', TABLE = 'user_resource';
    END IF;
END
$$;

-- Counts what a statement changes, owner by owner. Argument: which rows the database stores itself.
CREATE FUNCTION platform.count_stored() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added text := 'SELECT owner_id, size FROM after WHERE ' || TG_ARGV[0];
    removed text := 'SELECT owner_id, -size FROM before WHERE ' || TG_ARGV[0];
    the_owner uuid;
    change bigint;
BEGIN
    FOR the_owner, change IN EXECUTE
        'SELECT owner_id, sum(bytes) FROM ('
        || CASE TG_OP WHEN 'INSERT' THEN added WHEN 'DELETE' THEN removed ELSE added || ' UNION ALL ' || removed END
        || ') AS changes (owner_id, bytes) GROUP BY owner_id HAVING sum(bytes) <> 0 ORDER BY owner_id'
    LOOP
        PERFORM platform.count_storage(the_owner, change);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER count_new_results AFTER INSERT ON platform.workflow_result
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('file IS NULL');

CREATE TRIGGER count_results AFTER UPDATE ON platform.workflow_result
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('file IS NULL');

CREATE TRIGGER count_deleted_results AFTER DELETE ON platform.workflow_result
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('file IS NULL');

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.workflow_result
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.workflow_result
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

ALTER TABLE platform.job_dependency ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.job_dependency
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_progress ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_progress
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_result ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_result
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

-- The triggers are there: writers of jobs wait until this is committed, and none is missed or counted twice.
INSERT INTO platform.workflow_progress (owner_id, workflow_id, part, total, running, finished, failed, stopped)
SELECT owner_id, workflow_id, gen_random_uuid(), count(*), count(*) FILTER (WHERE status = 'running'),
       count(*) FILTER (WHERE status = 'finished'), count(*) FILTER (WHERE status = 'failed'),
       count(*) FILTER (WHERE status = 'stopped')
FROM platform.job GROUP BY owner_id, workflow_id;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
