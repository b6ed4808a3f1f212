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
        measured_at = statement_timestamp()
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

CREATE TRIGGER count_new_tasks AFTER INSERT ON platform.task_record
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');

CREATE TRIGGER count_tasks AFTER UPDATE ON platform.task_record
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');

CREATE TRIGGER count_deleted_tasks AFTER DELETE ON platform.task_record
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');

CREATE TRIGGER count_new_values AFTER INSERT ON platform.value
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');

CREATE TRIGGER count_values AFTER UPDATE ON platform.value
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');

CREATE TRIGGER count_deleted_values AFTER DELETE ON platform.value
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('octet_length(value) > 0');
