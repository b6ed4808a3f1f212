CREATE TABLE platform.task_outcome (
    name TEXT NOT NULL,
    shard INTEGER NOT NULL,
    shards INTEGER NOT NULL,
    exit_code INTEGER NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE NOT NULL,
    succeeded_at TIMESTAMP WITH TIME ZONE,
    drift JSONB,
    CONSTRAINT pk_task_outcome PRIMARY KEY (name, shard, shards),
    CONSTRAINT ck_task_outcome_name_length CHECK (octet_length(name) BETWEEN 1 AND 100),
    CONSTRAINT ck_task_outcome_shard_of_shards CHECK (shard BETWEEN 1 AND shards),
    CONSTRAINT ck_task_outcome_exit_code_of_a_process CHECK (exit_code BETWEEN 0 AND 255),
    CONSTRAINT ck_task_outcome_seconds_not_negative CHECK (seconds >= 0)
);

-- How many runs have which status, by the statistics of the last ANALYZE: it costs the same however many there are. It
-- runs as the table's owner, since row-level security hides statistics from all others. A status without a row is rare.
CREATE FUNCTION platform.estimate_runs(OUT status text, OUT runs bigint) RETURNS SETOF record LANGUAGE sql STABLE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT value.status, (pg_class.reltuples * value.share)::bigint
    FROM pg_class
    JOIN pg_stats ON pg_stats.schemaname = 'platform' AND pg_stats.tablename = 'workflow' AND pg_stats.attname = 'status'
    CROSS JOIN LATERAL unnest(most_common_vals::text::text[], most_common_freqs) AS value (status, share)
    WHERE pg_class.oid = 'platform.workflow'::regclass AND pg_class.reltuples >= 0
$$;

REVOKE ALL ON FUNCTION platform.estimate_runs FROM PUBLIC;
