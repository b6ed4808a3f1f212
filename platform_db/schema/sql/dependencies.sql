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
