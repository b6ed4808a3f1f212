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
