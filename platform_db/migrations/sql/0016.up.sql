-- Where Citus distributes the tables: the trigger writes no other row.
SELECT set_config('citus.enable_unsafe_triggers', 'on', true);

-- A login that may not create schemas finds the one that an administrator has made for it.
DO $$ BEGIN IF to_regnamespace('platform_partitions') IS NULL THEN CREATE SCHEMA platform_partitions; END IF; END $$;

-- At once, so that no writer holds one of them and waits for another.
LOCK TABLE platform.workflow, platform.job, platform.log_chunk IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER stamp_entry ON platform.log_chunk;

-- What was the table is its first partition: its rows, indexes and foreign keys stay as they are.
-- squawk-ignore renaming-table
ALTER TABLE platform.log_chunk RENAME TO log_chunk_before;

-- squawk-ignore ban-set-schema
ALTER TABLE platform.log_chunk_before SET SCHEMA platform_partitions;

CREATE TABLE platform.log_chunk (
    number BIGINT NOT NULL,
    job_id UUID,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    data BYTEA NOT NULL,
    transaction_id BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_log_chunk PRIMARY KEY (owner_id, workflow_id, number)
) PARTITION BY RANGE (workflow_id);

ALTER TABLE platform.log_chunk ALTER COLUMN owner_id SET STATISTICS 0, ALTER COLUMN workflow_id SET STATISTICS 0;

ALTER TABLE platform.log_chunk ENABLE ROW LEVEL SECURITY;

-- Pieces of logs, by the months in which their runs were made, which a run's id tells (UUIDv7). So a run's log is in one
-- partition, and a month of logs goes at once. Partitions are in a schema that no role may use but their owner: a policy
-- of the table does not protect a partition that is read directly.

-- The smallest id of what is made at a time or later.
CREATE FUNCTION platform.first_id_at(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT
    RETURN (pg_catalog.lpad(pg_catalog.to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || pg_catalog.repeat('0', 20))::uuid;

-- The time that such an id tells.
CREATE FUNCTION platform.time_of_id(id_ uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT
    RETURN pg_catalog.to_timestamp(
        ('x' || pg_catalog.substr(pg_catalog.replace(id_::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0);

-- The partitions of logs in their order; of the first and of the last one a bound is missing. Those of a month have one.
CREATE FUNCTION platform.log_partitions(
    OUT name text, OUT month timestamptz, OUT first_id uuid, OUT end_id uuid)
    RETURNS SETOF record LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT relname, CASE WHEN relname ~ '[0-9]$' THEN platform.time_of_id(first_id) END, first_id, end_id
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    CROSS JOIN LATERAL (
        SELECT substring(bounds FROM 'FROM [(]''(.*?)''[)]')::uuid AS first_id,
               substring(bounds FROM 'TO [(]''(.*?)''[)]')::uuid AS end_id
        FROM pg_get_expr(relpartbound, pg_class.oid) AS bounds
    ) AS bound
    WHERE inhparent = 'platform.log_chunk'::regclass
    ORDER BY first_id NULLS FIRST
$$;

-- Makes partitions for so many months ahead, and returns how many; none where a table from before partitions has ids that
-- tell no time. It runs as its owner, whose the partitions have to be, and waits for no lock for long, as others wait
-- behind it. What is already there of a new month moves to it: rows of a clock that is ahead, of ids that tell no time, and
-- all where this was not called for long. Others wait meanwhile, so none are made where there is more than most_bytes.
CREATE FUNCTION platform.add_log_partitions(ahead integer, most_bytes bigint DEFAULT 67108864) RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    latest CONSTANT timestamptz := date_trunc('month', now() + make_interval(months => least(greatest(coalesce(ahead, 0), 0), 120)));
    later record;
    new record;
    statement text;
    attaching text[] := '{}';
    bytes bigint;
BEGIN
    -- A second caller waits here, and then sees what the first one has made. Neither readers nor writers wait.
    LOCK TABLE platform.log_chunk IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO later FROM platform.log_partitions() AS p WHERE p.name = 'log_chunk_later';
    -- A snapshot from before the lock would not show what was appended meanwhile.
    IF (platform.time_of_id(later.first_id) <= latest) IS NOT TRUE OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN 0;
    END IF;
    EXECUTE 'SELECT sum(size) FROM (
        SELECT octet_length(data) + 100 AS size FROM platform_partitions.log_chunk_later LIMIT $1) AS looked_at'
        INTO bytes USING coalesce(most_bytes / 100 + 1, 0);
    IF bytes > most_bytes THEN
        RETURN 0;
    END IF;
    -- A partition that is detached, or dropped after that, would lock out readers of workflow and job.
    LOCK TABLE platform.workflow, platform.job IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE platform.log_chunk IN ACCESS EXCLUSIVE MODE;
    ALTER TABLE platform_partitions.log_chunk_later RENAME TO log_chunk_former;
    FOR new IN
        SELECT CASE WHEN month > latest THEN 'log_chunk_later' ELSE to_char(month, '"log_chunk_"YYYY_MM') END AS name,
               platform.first_id_at(month) AS first_id,
               CASE WHEN month > latest THEN later.end_id ELSE platform.first_id_at(month + interval '1 month') END AS end_id
        FROM generate_series(platform.time_of_id(later.first_id), latest + interval '1 month', interval '1 month') AS month
    LOOP
        EXECUTE format('CREATE TABLE platform_partitions.%I (LIKE platform_partitions.log_chunk_former INCLUDING ALL)
            WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
                  autovacuum_analyze_scale_factor = 0.02)', new.name);
        EXECUTE format('ALTER TABLE platform_partitions.%I ALTER owner_id SET STATISTICS 0,
            ALTER workflow_id SET STATISTICS 0', new.name);
        EXECUTE format('INSERT INTO platform_partitions.%I SELECT * FROM platform_partitions.log_chunk_former
            WHERE workflow_id >= %L AND workflow_id < %L', new.name, new.first_id, new.end_id);
        attaching := attaching || format('ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.%I
            FOR VALUES FROM (%L) TO (%L)', new.name, new.first_id, new.end_id);
    END LOOP;
    DROP TABLE platform_partitions.log_chunk_former;
    FOREACH statement IN ARRAY attaching LOOP
        EXECUTE statement;
    END LOOP;
    RETURN cardinality(attaching) - 1;
END
$$;

-- Removes the logs of a month's runs, and returns how many pieces there were and the number of the last one; null, and
-- nothing is removed, where a run has not ended or has logged within the age. Until the transaction ends, nothing is
-- appended to the month's logs. It runs as its owner: TRUNCATE takes milliseconds and leaves no dead rows.
-- partition: the name.
CREATE FUNCTION platform.clear_log_partition(partition text, age interval, OUT pieces bigint, OUT last_number bigint)
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    its record;
    alive bigint;
    logged timestamptz;
BEGIN
    -- A snapshot from before the lock would not show what was appended meanwhile.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT its FROM platform.log_partitions() AS p WHERE p.name = partition AND p.month IS NOT NULL;
    -- Readers go on until it is emptied. Two that clear the same month wait for each other here.
    EXECUTE format('LOCK TABLE platform_partitions.%I IN SHARE ROW EXCLUSIVE MODE', its.name);
    SELECT count(*) INTO alive FROM platform.workflow
    WHERE id_ >= its.first_id AND id_ < its.end_id AND status NOT IN ('finished', 'failed', 'deleted', 'stopped');
    IF alive > 0 THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT count(*), max(number), max(at) FROM platform_partitions.%I', its.name)
        INTO pieces, last_number, logged;
    IF pieces = 0 THEN
        RETURN;
    END IF;
    IF (logged < now() - age) IS NOT TRUE THEN
        pieces := NULL;
        RETURN;
    END IF;
    -- So that a run that is started again has room for its log. Who has locked some of them waits for nothing here,
    -- or not for long. First, since it takes longer than the other, for which readers wait.
    UPDATE platform.log_size SET bytes_ = 0
    WHERE workflow_id >= its.first_id AND workflow_id < its.end_id AND bytes_ > 0;
    EXECUTE format('TRUNCATE platform_partitions.%I', its.name);
END
$$;

REVOKE ALL ON FUNCTION platform.first_id_at, platform.time_of_id, platform.log_partitions, platform.add_log_partitions, platform.clear_log_partition FROM PUBLIC;

-- Services go on at once, with the privileges and policies that they had. Nobody keeps any on the partition.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format(command, privilege_type, rolname)
        FROM (VALUES ('GRANT %s ON platform.log_chunk TO %I'), ('REVOKE %s ON platform_partitions.log_chunk_before FROM %I')) AS one (command)
        CROSS JOIN pg_class CROSS JOIN aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_class.oid = 'platform_partitions.log_chunk_before'::regclass AND grantee <> relowner
        UNION ALL
        SELECT format('CREATE POLICY %I ON platform.log_chunk AS %s FOR %s TO %s', policyname, permissive, cmd,
                      (SELECT string_agg(quote_ident(role), ', ') FROM unnest(roles) AS role))
               || coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '')
        FROM pg_policies WHERE schemaname = 'platform_partitions' AND tablename = 'log_chunk_before'
        UNION ALL
        SELECT format('DROP POLICY %I ON platform_partitions.log_chunk_before', policyname)
        FROM pg_policies WHERE schemaname = 'platform_partitions' AND tablename = 'log_chunk_before'
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- The new table has no rows: its indexes and foreign keys take over those of the partition. With the bound that was checked before, or of
-- an empty table, months can follow; otherwise the partition has all ids.
DO $$
DECLARE
    bound uuid := (
        SELECT substring(pg_get_constraintdef(oid) FROM '''(.*?)''')::uuid FROM pg_constraint
        WHERE conrelid = 'platform_partitions.log_chunk_before'::regclass AND conname = 'before' AND convalidated);
    far CONSTANT uuid := platform.first_id_at('2100-01-01 00:00+00');
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        PERFORM create_distributed_table('platform.log_chunk', 'owner_id', colocate_with => logicalrelid::text)
        FROM pg_catalog.pg_dist_partition WHERE logicalrelid = 'platform_partitions.log_chunk_before'::regclass;
    END IF;
    ALTER TABLE platform.log_chunk
        ADD CONSTRAINT fk_log_chunk_owner_id_workflow_id FOREIGN KEY (owner_id, workflow_id)
            REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE;
    ALTER TABLE platform.log_chunk
        ADD CONSTRAINT fk_log_chunk_owner_id_job_id FOREIGN KEY (owner_id, job_id)
            REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE;
    CREATE INDEX ix_log_chunk_owner_id_job_id ON platform.log_chunk (owner_id, job_id, number) WHERE job_id IS NOT NULL;
    CREATE INDEX ix_log_chunk_owner_id_workflow_id_transaction_id ON platform.log_chunk (owner_id, workflow_id, transaction_id);
    IF (SELECT count(*) FROM (SELECT 1 FROM platform_partitions.log_chunk_before LIMIT 1) AS one) = 0 THEN
        bound := platform.first_id_at(date_trunc('month', now(), 'UTC'));
    END IF;
    IF bound IS NULL THEN
        ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.log_chunk_before
            FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
    ELSE
        EXECUTE format('ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.log_chunk_before
            FOR VALUES FROM (MINVALUE) TO (%L)', bound);
        CREATE TABLE platform_partitions.log_chunk_later (LIKE platform.log_chunk INCLUDING ALL);
        CREATE TABLE platform_partitions.log_chunk_beyond (LIKE platform.log_chunk INCLUDING ALL)
            WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
                  autovacuum_analyze_scale_factor = 0.02);
        ALTER TABLE platform_partitions.log_chunk_beyond ALTER COLUMN owner_id SET STATISTICS 0,
            ALTER COLUMN workflow_id SET STATISTICS 0;
        EXECUTE format('ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.log_chunk_later
            FOR VALUES FROM (%L) TO (%L)', bound, far);
        EXECUTE format('ALTER TABLE platform.log_chunk ATTACH PARTITION platform_partitions.log_chunk_beyond
            FOR VALUES FROM (%L) TO (MAXVALUE)', far);
    END IF;
    ALTER TABLE platform_partitions.log_chunk_before DROP CONSTRAINT IF EXISTS before;
    PERFORM platform.add_log_partitions(3);
END
$$;

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.log_chunk
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');
