-- Calls and values. What is content-addressed is only ever added: of two writers of the same row, the second one's
-- ON CONFLICT DO NOTHING finds the first one's.

-- Values are out of line from 2 kB on, and not compressed: serialized objects and arrays gain little by it.
ALTER TABLE platform.value ALTER value SET STORAGE EXTERNAL;

-- A run or a job that is pruned leaves what came of it. Only the reference goes, so the keys name its column, which
-- SQLAlchemy cannot say.
ALTER TABLE platform.call_execution ADD CONSTRAINT fk_call_execution_owner_id_workflow_id
    FOREIGN KEY (owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE SET NULL (workflow_id);

ALTER TABLE platform.call_job ADD CONSTRAINT fk_call_job_owner_id_parent_id
    FOREIGN KEY (owner_id, parent_id) REFERENCES platform.call_job (owner_id, id) ON DELETE SET NULL (parent_id);

-- Who writes a value through a view tells no size: the content is all there.
CREATE FUNCTION platform.take_value_size() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.size := octet_length(NEW.value);
    RETURN NEW;
END
$$;

CREATE TRIGGER take_value_size BEFORE INSERT ON platform.value
    FOR EACH ROW WHEN (NEW.size IS NULL) EXECUTE FUNCTION platform.take_value_size();

-- A job ends with a call once: a second end, such as that of a batch that is sent twice or of another execution's copy,
-- changes nothing. An end without a call is that of a job that was taken for lost; the job's own end replaces it.
CREATE FUNCTION platform.keep_call_job_end() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.end_time := OLD.end_time;
    NEW.cached := OLD.cached;
    NEW.call_hash := OLD.call_hash;
    RETURN NEW;
END
$$;

CREATE TRIGGER keep_end BEFORE UPDATE ON platform.call_job
    FOR EACH ROW WHEN (OLD.end_time IS NOT NULL AND OLD.call_hash IS NOT NULL)
    EXECUTE FUNCTION platform.keep_call_job_end();

-- Pruning leaves a value alone for a day after it was seen, so that a process may refer to what it wrote or read
-- an hour ago. These two say that it was seen.

-- Before a batch inserts values: those of them that are there already are kept, and locked until it commits. Where
-- pruning has one of them locked, this waits, and the batch inserts it again. It locks them in the order of their
-- keys, as every writer does, and writes each one twice a day at most.
CREATE FUNCTION platform.keep_values(owner uuid, hashes text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.value AS kept
    WHERE kept.owner_id = owner AND kept.value_hash = ANY (hashes)
      AND kept.seen_at < statement_timestamp() - interval '12 hours'
    ORDER BY kept.value_hash FOR NO KEY UPDATE;
    IF FOUND THEN
        UPDATE platform.value AS kept SET seen_at = statement_timestamp()
        WHERE kept.owner_id = owner AND kept.value_hash = ANY (hashes)
          AND kept.seen_at < statement_timestamp() - interval '12 hours';
    END IF;
END
$$;

-- When values lose a reference. Another writer keeps what is locked, and waiting for it might deadlock.
CREATE FUNCTION platform.release_values(owner uuid, hashes text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE platform.value AS released SET seen_at = statement_timestamp()
    WHERE released.owner_id = owner AND released.value_hash IN (
        SELECT free.value_hash FROM platform.value AS free
        WHERE free.owner_id = owner AND free.value_hash = ANY (hashes)
        FOR NO KEY UPDATE SKIP LOCKED);
END
$$;

CREATE FUNCTION platform.release_former_value() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.release_values(OLD.owner_id, ARRAY[OLD.value_hash]);
    RETURN NULL;
END
$$;

CREATE TRIGGER release_former_value AFTER UPDATE OF value_hash ON platform.evaluation
    FOR EACH ROW WHEN (OLD.value_hash <> NEW.value_hash) EXECUTE FUNCTION platform.release_former_value();

CREATE FUNCTION platform.release_untagged_value() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.release_values(OLD.owner_id, ARRAY[OLD.entity_id]);
    RETURN NULL;
END
$$;

CREATE TRIGGER release_untagged_value AFTER UPDATE OF is_current ON platform.entity_tag
    FOR EACH ROW WHEN (OLD.is_current AND NOT NEW.is_current AND OLD.entity_type = 'Value')
    EXECUTE FUNCTION platform.release_untagged_value();

-- Look-ups are functions of PL/pgSQL, because these keep their plans: planning takes longer than looking up. They find
-- each next row by LATERAL … LIMIT 1, since on tables without statistics a join goes by the owner alone.

-- The cached result of a call, with its value, by the first of these kinds that is asked for and has one:
--   CSE       the same call has ended in this execution; the latest does.
--   ULTIMATE  the final result of the latest such call whose versions of tasks, down to the last, are all known.
--   SINGLE    what the task's own code returned.
-- A context, if given, is that of the call. The kind is NULL where there is none.
CREATE FUNCTION platform.find_cached(
    owner uuid, the_task text, the_args text, the_eval text, the_execution text, the_context text,
    kinds text[], known_tasks text[],
    OUT kind text, OUT call_hash text, OUT value_hash text, OUT type text, OUT format text, OUT value bytea,
    OUT size bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Only one index has jobs in this order. By the time alone, others have too, and the planner may go through all the
    -- jobs of an execution.
    IF 'CSE' = ANY (kinds) THEN
        SELECT 'CSE', node.call_hash, node.value_hash INTO kind, call_hash, value_hash
        FROM platform.call_node AS node
        CROSS JOIN LATERAL (
            SELECT job.call_hash, job.execution_id, job.start_time FROM platform.call_job AS job
            WHERE job.owner_id = owner AND (job.call_hash, job.execution_id) <= (node.call_hash, the_execution)
            ORDER BY job.call_hash DESC, job.execution_id DESC, job.start_time DESC LIMIT 1
        ) AS latest
        WHERE latest.call_hash = node.call_hash AND latest.execution_id = the_execution
          AND node.owner_id = owner AND node.task_hash = the_task AND node.args_hash = the_args
          AND (the_context IS NULL OR platform.has_context(owner, node.call_hash, the_context))
        ORDER BY latest.start_time DESC LIMIT 1;
    END IF;
    -- As a scalar, the condition is asked of one call after another; as NOT EXISTS, it would become a join over all.
    IF kind IS NULL AND 'ULTIMATE' = ANY (kinds) THEN
        SELECT 'ULTIMATE', node.call_hash, node.value_hash INTO kind, call_hash, value_hash
        FROM platform.call_node AS node
        WHERE node.owner_id = owner AND node.task_hash = the_task AND node.args_hash = the_args
          AND (the_context IS NULL OR platform.has_context(owner, node.call_hash, the_context))
          AND coalesce((
              SELECT bool_and(used.task_hash = ANY (known_tasks)) FROM platform.call_subtree_task AS used
              WHERE used.owner_id = owner AND used.call_hash = node.call_hash), true)
        ORDER BY node.timestamp DESC LIMIT 1;
    END IF;
    IF kind IS NULL AND 'SINGLE' = ANY (kinds) THEN
        SELECT 'SINGLE', evaluation.value_hash INTO kind, value_hash
        FROM platform.evaluation
        WHERE evaluation.owner_id = owner AND evaluation.eval_hash = the_eval;
    END IF;
    IF kind IS NOT NULL THEN
        SELECT stored.type, stored.format, stored.value, stored.size INTO type, format, value, size
        FROM platform.value AS stored
        WHERE stored.owner_id = owner AND stored.value_hash = find_cached.value_hash;
    END IF;
END
$$;

CREATE FUNCTION platform.has_context(owner uuid, the_call text, the_context text) RETURNS boolean
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM platform.entity_tag AS tag
        WHERE tag.owner_id = owner AND tag.entity_id = the_call AND tag.key = 'redun.context'
          AND tag.value = to_jsonb(the_context));
END
$$;

-- The calls that the latest call of a task with these arguments made, in their order.
CREATE FUNCTION platform.find_children(owner uuid, the_task text, the_args text, at_most integer)
    RETURNS TABLE (call_hash text, task_hash text, args_hash text) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT child.call_hash, child.task_hash, child.args_hash
    FROM (
        SELECT node.call_hash FROM platform.call_node AS node
        WHERE node.owner_id = owner AND node.task_hash = the_task AND node.args_hash = the_args
        ORDER BY node.timestamp DESC LIMIT 1
    ) AS latest
    CROSS JOIN LATERAL (
        SELECT edge.child_id, edge.call_order FROM platform.call_edge AS edge
        WHERE edge.owner_id = owner AND edge.parent_id = latest.call_hash
        ORDER BY edge.call_order LIMIT at_most
    ) AS edge
    CROSS JOIN LATERAL (
        SELECT node.call_hash, node.task_hash, node.args_hash FROM platform.call_node AS node
        WHERE node.owner_id = owner AND node.call_hash = edge.child_id LIMIT 1
    ) AS child
    ORDER BY edge.call_order;
END
$$;

-- Those of the evaluations that there are, with their values; larger ones are left out.
CREATE FUNCTION platform.find_evaluations(owner uuid, eval_hashes text[], largest bigint)
    RETURNS TABLE (eval_hash text, value_hash text, type text, format text, value bytea, size bigint)
    LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT asked.eval_hash, stored.value_hash, stored.type, stored.format, stored.value, stored.size
    FROM unnest(eval_hashes) AS asked (eval_hash)
    CROSS JOIN LATERAL (
        SELECT found.value_hash FROM platform.evaluation AS found
        WHERE found.owner_id = owner AND found.eval_hash = asked.eval_hash LIMIT 1
    ) AS found
    CROSS JOIN LATERAL (
        SELECT value.* FROM platform.value
        WHERE value.owner_id = owner AND value.value_hash = found.value_hash AND value.size <= largest LIMIT 1
    ) AS stored;
END
$$;

-- After the first load: without statistics, plans of what is not written for it, such as an ORM's joins, go by the owner
-- alone until autovacuum comes by. Only for who owns the tables, and once: who does not own them may not analyze them.
-- Returns how many tables were.
CREATE FUNCTION platform.analyze_calls() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    loaded regclass;
    analyzed integer := 0;
BEGIN
    FOR loaded IN
        SELECT oid FROM pg_class
        WHERE relnamespace = 'platform'::regnamespace AND relkind = 'r' AND reltuples < 0
          AND (relname ~ '^(call|value|handle|entity_tag)(_|$)' OR relname IN ('evaluation', 'subvalue'))
          AND pg_has_role(relowner, 'USAGE') AND pg_relation_size(oid) > 0
          AND pg_try_advisory_xact_lock(hashtextextended('platform.analyze_calls', 0))
        ORDER BY relname
    LOOP
        EXECUTE format('ANALYZE %s', loaded);
        analyzed := analyzed + 1;
    END LOOP;
    RETURN analyzed;
END
$$;
