CREATE TABLE platform.prune_mark (
    name TEXT NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_prune_mark PRIMARY KEY (name)
);

CREATE TABLE platform.call_execution (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    args TEXT COLLATE "C" NOT NULL,
    updated_time TIMESTAMP WITH TIME ZONE,
    job_id TEXT COLLATE "C" NOT NULL,
    workflow_id UUID,
    CONSTRAINT pk_call_execution PRIMARY KEY (owner_id, id),
    CONSTRAINT fk_call_execution_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_execution_owner_id_job_id ON platform.call_execution (owner_id, job_id);

CREATE INDEX ix_call_execution_owner_id_workflow_id ON platform.call_execution (owner_id, workflow_id) WHERE workflow_id IS NOT NULL;

CREATE TABLE platform.call_task (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    calls_pruned_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_call_task PRIMARY KEY (owner_id, hash),
    CONSTRAINT fk_call_task_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_call_task_owner_id_name ON platform.call_task (owner_id, name);

CREATE INDEX ix_call_task_owner_id_namespace ON platform.call_task (owner_id, namespace);

CREATE TABLE platform.entity_tag (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    tag_hash TEXT COLLATE "C" NOT NULL,
    entity_type TEXT COLLATE "C" NOT NULL,
    entity_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value JSONB NOT NULL,
    is_current BOOLEAN DEFAULT true NOT NULL,
    CONSTRAINT pk_entity_tag PRIMARY KEY (owner_id, tag_hash),
    CONSTRAINT fk_entity_tag_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_),
    CONSTRAINT ck_entity_tag_known_entity_type CHECK (entity_type IN ('Execution', 'Job', 'CallNode', 'Task', 'Value', 'Null'))
);

CREATE INDEX ix_entity_tag_context ON platform.entity_tag (owner_id, (value #>> '{}')) WHERE key = 'redun.context';

CREATE INDEX ix_entity_tag_owner_id_entity_id_key ON platform.entity_tag (owner_id, entity_id, key);

CREATE INDEX ix_entity_tag_owner_id_key ON platform.entity_tag (owner_id, key);

CREATE TABLE platform.value (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    format TEXT COLLATE "C" NOT NULL,
    value BYTEA NOT NULL,
    size BIGINT NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE DEFAULT statement_timestamp() NOT NULL,
    CONSTRAINT pk_value PRIMARY KEY (owner_id, value_hash),
    CONSTRAINT fk_value_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_),
    CONSTRAINT ck_value_size_of_value CHECK (octet_length(value) IN (0, size))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_value_owner_id_type ON platform.value (owner_id, type);

CREATE INDEX ix_value_seen_at ON platform.value USING brin (seen_at);

CREATE TABLE platform.call_node (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    call_hash TEXT COLLATE "C" NOT NULL,
    task_name TEXT COLLATE "C" NOT NULL,
    task_hash TEXT COLLATE "C" NOT NULL,
    args_hash TEXT COLLATE "C" NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    timestamp TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_call_node PRIMARY KEY (owner_id, call_hash),
    CONSTRAINT fk_call_node_owner_id_task_hash FOREIGN KEY(owner_id, task_hash) REFERENCES platform.call_task (owner_id, hash),
    CONSTRAINT fk_call_node_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_node_owner_id_args_hash ON platform.call_node (owner_id, args_hash);

CREATE INDEX ix_call_node_owner_id_task_hash_args_hash_timestamp ON platform.call_node (owner_id, task_hash, args_hash, timestamp);

CREATE INDEX ix_call_node_owner_id_value_hash ON platform.call_node (owner_id, value_hash);

CREATE INDEX ix_call_node_timestamp ON platform.call_node USING brin (timestamp);

CREATE TABLE platform.entity_tag_edit (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    parent_id TEXT COLLATE "C" NOT NULL,
    child_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_entity_tag_edit PRIMARY KEY (owner_id, parent_id, child_id),
    CONSTRAINT fk_entity_tag_edit_owner_id_parent_id FOREIGN KEY(owner_id, parent_id) REFERENCES platform.entity_tag (owner_id, tag_hash) ON DELETE CASCADE,
    CONSTRAINT fk_entity_tag_edit_owner_id_child_id FOREIGN KEY(owner_id, child_id) REFERENCES platform.entity_tag (owner_id, tag_hash) ON DELETE CASCADE
);

CREATE INDEX ix_entity_tag_edit_owner_id_child_id ON platform.entity_tag_edit (owner_id, child_id);

CREATE TABLE platform.evaluation (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    eval_hash TEXT COLLATE "C" NOT NULL,
    task_hash TEXT COLLATE "C" NOT NULL,
    args_hash TEXT COLLATE "C" NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_evaluation PRIMARY KEY (owner_id, eval_hash),
    CONSTRAINT fk_evaluation_owner_id_task_hash FOREIGN KEY(owner_id, task_hash) REFERENCES platform.call_task (owner_id, hash),
    CONSTRAINT fk_evaluation_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_evaluation_owner_id_task_hash_args_hash ON platform.evaluation (owner_id, task_hash, args_hash);

CREATE INDEX ix_evaluation_owner_id_value_hash ON platform.evaluation (owner_id, value_hash);

CREATE TABLE platform.handle (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    fullname TEXT COLLATE "C" NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    is_valid BOOLEAN DEFAULT true NOT NULL,
    CONSTRAINT pk_handle PRIMARY KEY (owner_id, hash),
    CONSTRAINT fk_handle_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash)
);

CREATE INDEX ix_handle_owner_id_fullname ON platform.handle (owner_id, fullname);

CREATE INDEX ix_handle_owner_id_value_hash ON platform.handle (owner_id, value_hash);

CREATE TABLE platform.subvalue (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    parent_value_hash TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_subvalue PRIMARY KEY (owner_id, parent_value_hash, value_hash),
    CONSTRAINT fk_subvalue_owner_id_parent_value_hash FOREIGN KEY(owner_id, parent_value_hash) REFERENCES platform.value (owner_id, value_hash) ON DELETE CASCADE,
    CONSTRAINT fk_subvalue_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_subvalue_owner_id_value_hash ON platform.subvalue (owner_id, value_hash);

CREATE TABLE platform.value_file (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_value_file PRIMARY KEY (owner_id, value_hash),
    CONSTRAINT fk_value_file_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_value_file_owner_id_path ON platform.value_file (owner_id, path);

CREATE TABLE platform.call_argument (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    arg_hash TEXT COLLATE "C" NOT NULL,
    call_hash TEXT COLLATE "C" NOT NULL,
    value_hash TEXT COLLATE "C" NOT NULL,
    arg_position INTEGER,
    arg_key TEXT COLLATE "C",
    CONSTRAINT pk_call_argument PRIMARY KEY (owner_id, arg_hash),
    CONSTRAINT fk_call_argument_owner_id_call_hash FOREIGN KEY(owner_id, call_hash) REFERENCES platform.call_node (owner_id, call_hash) ON DELETE CASCADE,
    CONSTRAINT fk_call_argument_owner_id_value_hash FOREIGN KEY(owner_id, value_hash) REFERENCES platform.value (owner_id, value_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_argument_owner_id_call_hash ON platform.call_argument (owner_id, call_hash);

CREATE INDEX ix_call_argument_owner_id_value_hash ON platform.call_argument (owner_id, value_hash);

CREATE TABLE platform.call_edge (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    parent_id TEXT COLLATE "C" NOT NULL,
    child_id TEXT COLLATE "C" NOT NULL,
    call_order INTEGER NOT NULL,
    CONSTRAINT pk_call_edge PRIMARY KEY (owner_id, parent_id, call_order, child_id),
    CONSTRAINT fk_call_edge_owner_id_parent_id FOREIGN KEY(owner_id, parent_id) REFERENCES platform.call_node (owner_id, call_hash) ON DELETE CASCADE,
    CONSTRAINT fk_call_edge_owner_id_child_id FOREIGN KEY(owner_id, child_id) REFERENCES platform.call_node (owner_id, call_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_edge_owner_id_child_id ON platform.call_edge (owner_id, child_id);

CREATE TABLE platform.call_job (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE,
    task_hash TEXT COLLATE "C" NOT NULL,
    cached BOOLEAN DEFAULT false NOT NULL,
    call_hash TEXT COLLATE "C",
    parent_id TEXT COLLATE "C",
    execution_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_call_job PRIMARY KEY (owner_id, id),
    CONSTRAINT fk_call_job_owner_id_task_hash FOREIGN KEY(owner_id, task_hash) REFERENCES platform.call_task (owner_id, hash),
    CONSTRAINT fk_call_job_owner_id_call_hash FOREIGN KEY(owner_id, call_hash) REFERENCES platform.call_node (owner_id, call_hash),
    CONSTRAINT fk_call_job_owner_id_execution_id FOREIGN KEY(owner_id, execution_id) REFERENCES platform.call_execution (owner_id, id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_job_owner_id_call_hash_execution_id_start_time ON platform.call_job (owner_id, call_hash, execution_id, start_time);

CREATE INDEX ix_call_job_owner_id_execution_id_start_time ON platform.call_job (owner_id, execution_id, start_time);

CREATE INDEX ix_call_job_owner_id_parent_id ON platform.call_job (owner_id, parent_id);

CREATE INDEX ix_call_job_owner_id_start_time ON platform.call_job (owner_id, start_time);

CREATE INDEX ix_call_job_owner_id_task_hash ON platform.call_job (owner_id, task_hash);

CREATE INDEX ix_call_job_running ON platform.call_job (owner_id, execution_id) WHERE end_time IS NULL;

CREATE TABLE platform.call_subtree_task (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    call_hash TEXT COLLATE "C" NOT NULL,
    task_hash TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_call_subtree_task PRIMARY KEY (owner_id, call_hash, task_hash),
    CONSTRAINT fk_call_subtree_task_owner_id_call_hash FOREIGN KEY(owner_id, call_hash) REFERENCES platform.call_node (owner_id, call_hash) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE TABLE platform.handle_edge (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    parent_id TEXT COLLATE "C" NOT NULL,
    child_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_handle_edge PRIMARY KEY (owner_id, parent_id, child_id),
    CONSTRAINT fk_handle_edge_owner_id_parent_id FOREIGN KEY(owner_id, parent_id) REFERENCES platform.handle (owner_id, hash) ON DELETE CASCADE,
    CONSTRAINT fk_handle_edge_owner_id_child_id FOREIGN KEY(owner_id, child_id) REFERENCES platform.handle (owner_id, hash) ON DELETE CASCADE
);

CREATE INDEX ix_handle_edge_owner_id_child_id ON platform.handle_edge (owner_id, child_id);

CREATE TABLE platform.call_argument_source (
    owner_id UUID DEFAULT (nullif(current_setting('platform.user_id', true), ''))::uuid NOT NULL,
    arg_hash TEXT COLLATE "C" NOT NULL,
    result_call_hash TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_call_argument_source PRIMARY KEY (owner_id, arg_hash, result_call_hash),
    CONSTRAINT fk_call_argument_source_owner_id_arg_hash FOREIGN KEY(owner_id, arg_hash) REFERENCES platform.call_argument (owner_id, arg_hash) ON DELETE CASCADE,
    CONSTRAINT fk_call_argument_source_owner_id_result_call_hash FOREIGN KEY(owner_id, result_call_hash) REFERENCES platform.call_node (owner_id, call_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_call_argument_source_owner_id_result_call_hash ON platform.call_argument_source (owner_id, result_call_hash);

ALTER TABLE platform.call_execution ADD CONSTRAINT fk_call_execution_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.call_job (owner_id, id) DEFERRABLE INITIALLY DEFERRED;

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

CREATE TRIGGER count_new_values AFTER INSERT ON platform.value
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');

CREATE TRIGGER count_values AFTER UPDATE ON platform.value
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');

CREATE TRIGGER count_deleted_values AFTER DELETE ON platform.value
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');

ALTER TABLE platform.call_argument ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_argument
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_argument_source ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_argument_source
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_edge ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_edge
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_execution ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_execution
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_job ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_job
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_node ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_node
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_subtree_task ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_subtree_task
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.call_task ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.call_task
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.entity_tag ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.entity_tag
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.entity_tag_edit ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.entity_tag_edit
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.evaluation ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.evaluation
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.handle ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.handle
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.handle_edge ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.handle_edge
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.subvalue ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.subvalue
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.value ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.value
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.value_file ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.value_file
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

-- What is going on and what went on, in one list: runs, calls in executions such as redun's, and a cluster's tasks.
-- "at" orders it, and each branch has an index by the owner and it: a page of an owner's is that of three indexes.
-- A task has failed where the scheduler heard of an error; the message with its result begins with its status. It is
-- looked at as text, since one with a NUL in it cannot be looked into.
CREATE VIEW platform.activity WITH (security_invoker = true) AS
    SELECT owner_id, 'run' AS kind, id_::text AS id, name, status::text AS status, created AS at,
           run_started_at AS started_at, coalesce(run_finished_at, run_stopped_at) AS finished_at,
           NULL::text AS parent
    FROM platform.workflow
    UNION ALL
    SELECT owner_id, 'call', id,
           (SELECT concat_ws('.', nullif(task.namespace, ''), task.name) FROM platform.call_task AS task
            WHERE task.owner_id = job.owner_id AND task.hash = job.task_hash),
           CASE WHEN end_time IS NULL THEN 'running'
                WHEN call_hash IS NULL THEN 'lost'
                WHEN (SELECT result.type FROM platform.value AS result
                      WHERE result.owner_id = job.owner_id AND result.value_hash = (
                          SELECT node.value_hash FROM platform.call_node AS node
                          WHERE node.owner_id = job.owner_id AND node.call_hash = job.call_hash))
                     IN ('redun.ErrorValue', 'error') THEN 'failed'
                WHEN cached THEN 'cached'
                ELSE 'finished' END,
           start_time, start_time, end_time,
           coalesce(parent_id, (SELECT execution.workflow_id::text FROM platform.call_execution AS execution
                                WHERE execution.owner_id = job.owner_id AND execution.id = job.execution_id))
    FROM platform.call_job AS job
    UNION ALL
    SELECT owner_id, 'task', msg_id, label,
           CASE WHEN completed IS NULL AND started IS NULL THEN 'queued'
                WHEN completed IS NULL THEN 'running'
                WHEN error IS NOT NULL OR left(result_content::text, 40) ~ '^\s*{\s*"status"\s*:\s*"error"' THEN 'failed'
                ELSE 'finished' END,
           submitted, started, completed, NULL
    FROM platform.task_record;

-- The tables of redun 0.44 (version 3.5 of its database), for its own ORM: console, log, queries. Each view shows the
-- rows of the transaction's tenant alone, with redun's names and columns, and none where there is no tenant; that
-- holds for the tables' owner, too, which policies do not. New rows are the tenant's: the tables' default says so.
-- They are simple enough to be written through. No security_barrier: between tenants the policies are one, and a
-- login above the policies reads the tables.
-- A login that may not create schemas finds the one that an administrator has made for it.
DO $$ BEGIN IF to_regnamespace('redun') IS NULL THEN CREATE SCHEMA redun; END IF; END $$;

CREATE VIEW redun.value WITH (security_invoker = true) AS
    SELECT value_hash, type, format, value
    FROM platform.value
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.subvalue WITH (security_invoker = true) AS
    SELECT value_hash, parent_value_hash
    FROM platform.subvalue
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.file WITH (security_invoker = true) AS
    SELECT value_hash, path
    FROM platform.value_file
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.task WITH (security_invoker = true) AS
    SELECT hash, name, namespace, source
    FROM platform.call_task
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.evaluation WITH (security_invoker = true) AS
    SELECT eval_hash, task_hash, args_hash, value_hash
    FROM platform.evaluation
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_node WITH (security_invoker = true) AS
    SELECT call_hash, task_name, task_hash, args_hash, value_hash, timestamp
    FROM platform.call_node
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_subtree_task WITH (security_invoker = true) AS
    SELECT call_hash, task_hash
    FROM platform.call_subtree_task
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.argument WITH (security_invoker = true) AS
    SELECT arg_hash, call_hash, value_hash, arg_position, arg_key
    FROM platform.call_argument
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.argument_result WITH (security_invoker = true) AS
    SELECT arg_hash, result_call_hash
    FROM platform.call_argument_source
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.call_edge WITH (security_invoker = true) AS
    SELECT parent_id, child_id, call_order
    FROM platform.call_edge
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.execution WITH (security_invoker = true) AS
    SELECT id, args, updated_time, job_id
    FROM platform.call_execution
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.job WITH (security_invoker = true) AS
    SELECT id, start_time, end_time, task_hash, cached, call_hash, parent_id, execution_id
    FROM platform.call_job
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.tag WITH (security_invoker = true) AS
    SELECT tag_hash, entity_type, entity_id, key, value, is_current
    FROM platform.entity_tag
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.tag_edit WITH (security_invoker = true) AS
    SELECT parent_id, child_id
    FROM platform.entity_tag_edit
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.handle WITH (security_invoker = true) AS
    SELECT hash, fullname, value_hash, key, is_valid
    FROM platform.handle
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.handle_edge WITH (security_invoker = true) AS
    SELECT parent_id, child_id
    FROM platform.handle_edge
    WHERE owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid
    WITH LOCAL CHECK OPTION;

CREATE VIEW redun.redun_version WITH (security_invoker = true) AS
    SELECT 'platform-db' AS id, 3 AS version, '2024-01-01 00:00:00+00'::timestamptz AS timestamp;

CREATE VIEW redun.alembic_version WITH (security_invoker = true) AS SELECT '0bee3d6dba76' AS version_num;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
