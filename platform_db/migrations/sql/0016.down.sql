SELECT set_config('citus.enable_unsafe_triggers', 'on', true);

LOCK TABLE platform.workflow, platform.job, platform.log_chunk IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER stamp_entry ON platform.log_chunk;

ALTER TABLE platform.log_chunk DETACH PARTITION platform_partitions.log_chunk_before;

-- What later months have.
INSERT INTO platform_partitions.log_chunk_before (number, job_id, at, data, transaction_id, owner_id, workflow_id)
    SELECT number, job_id, at, data, transaction_id, owner_id, workflow_id FROM platform.log_chunk;

DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format(command, privilege_type, rolname)
        FROM (VALUES ('GRANT %s ON platform_partitions.log_chunk_before TO %I'), ('REVOKE %s ON platform.log_chunk FROM %I')) AS one (command)
        CROSS JOIN pg_class CROSS JOIN aclexplode(relacl) JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_class.oid = 'platform.log_chunk'::regclass AND grantee <> relowner
        UNION ALL
        SELECT format('CREATE POLICY %I ON platform_partitions.log_chunk_before AS %s FOR %s TO %s', policyname, permissive, cmd,
                      (SELECT string_agg(quote_ident(role), ', ') FROM unnest(roles) AS role))
               || coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '')
        FROM pg_policies WHERE schemaname = 'platform' AND tablename = 'log_chunk'
        UNION ALL
        SELECT format('DROP POLICY %I ON platform.log_chunk', policyname)
        FROM pg_policies WHERE schemaname = 'platform' AND tablename = 'log_chunk'
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

DROP TABLE platform.log_chunk;

ALTER TABLE platform_partitions.log_chunk_before SET SCHEMA platform;

-- squawk-ignore renaming-table
ALTER TABLE platform.log_chunk_before RENAME TO log_chunk;

DO $$ BEGIN
    IF has_database_privilege(current_database(), 'CREATE') THEN DROP SCHEMA platform_partitions; END IF;
END $$;

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.log_chunk
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');

DROP FUNCTION platform.clear_log_partition, platform.add_log_partitions, platform.log_partitions, platform.time_of_id, platform.first_id_at;
