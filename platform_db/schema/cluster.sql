-- The functions of nodes.sql where Citus distributes the tables: every node has these.

CREATE OR REPLACE FUNCTION platform.is_coordinator() RETURNS boolean LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT groupid = 0 FROM pg_dist_local_group
$$;

-- Microseconds since 1970, and a count within each: so numbers follow each other on all nodes, and go on where a shard
-- is moved to another one.
CREATE OR REPLACE FUNCTION platform.next_number(sequence text) RETURNS bigint LANGUAGE sql AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1024 + nextval(sequence::regclass) % 1024
$$;

CREATE OR REPLACE FUNCTION platform.last_number() RETURNS bigint LANGUAGE sql AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1024 + 1023
$$;

-- A transaction draws its numbers after its beginning, by the clock of its node. So all below the beginning of the
-- oldest one that is open on any node is settled. One that was prepared and whose coordinator is gone is in doubt for
-- long; until then its coordinator's own transaction is open. A tenth of a second is left for what has begun and is not
-- shown yet.
CREATE OR REPLACE FUNCTION platform.settled_number() RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    node record;
    settled bigint := 9223372036854775807;
BEGIN
    FOR node IN SELECT success, result FROM run_command_on_all_nodes(format($node$
        SELECT CASE WHEN count(*) FILTER (WHERE xact_start IS NULL AND state IS DISTINCT FROM 'idle') = 0
            THEN (extract(epoch FROM least(
                clock_timestamp() - interval '0.1 seconds',
                min(xact_start) FILTER (WHERE state <> 'idle'),
                (SELECT min(prepared) - interval '1 day' FROM pg_prepared_xacts
                 WHERE database = current_database() AND prepared < clock_timestamp() - interval '10 seconds')
            )) * 1000000)::bigint * 1024 END
        FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend'
          AND pid <> pg_backend_pid()
          AND NOT (pid = %s AND (SELECT groupid FROM pg_dist_local_group) = 0)
    $node$, pg_backend_pid())) LOOP
        IF NOT node.success OR node.result IS NULL OR node.result = '' THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = 'a node does not show when its transactions began',
                DETAIL = node.result,
                HINT = 'The owner of the schema needs pg_read_all_stats on every node.';
        END IF;
        settled := least(settled, node.result::bigint);
    END LOOP;
    RETURN settled;
END
$$;

-- The nodes that take part know a transaction by one number. It has none before its first statement on distributed
-- tables.
CREATE OR REPLACE FUNCTION platform.transaction_mark() RETURNS text LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint := (get_current_transaction_id()).transaction_number;
BEGIN
    IF number = 0 THEN
        PERFORM FROM platform.job WHERE owner_id = '00000000-0000-0000-0000-000000000000';
        number := (get_current_transaction_id()).transaction_number;
    END IF;
    RETURN number;
END
$$;

-- Citus takes no ON DELETE SET NULL with the owner in the key. After the row, as a foreign key does it: the rows that lose
-- their reference may go in the same statement.
CREATE OR REPLACE FUNCTION platform.release_reference() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME ~ '^workflow' THEN
        UPDATE platform.call_execution SET workflow_id = NULL
        WHERE owner_id = OLD.owner_id AND workflow_id = OLD.id_;
    ELSE
        UPDATE platform.call_job SET parent_id = NULL
        WHERE owner_id = OLD.owner_id AND parent_id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;

-- Runs a statement about one owner's rows on the node that has them, on the shards themselves, so that it may do all that
-- it may on one server: Citus plans no statement that locks, changes and inserts rows of several tables. Each table keeps
-- its name in the statement, which is a template of format() with a place for each of the literals: no value is taken for
-- the name of a table. The names of the columns come back with the numbers of their types as JSON, and then the rows as
-- text; or the number of rows that are written. The last argument is what routes the call to the node.
CREATE OR REPLACE FUNCTION platform.on_shards(
    the_owner uuid, template text, literals text[], gives_rows boolean, routed bigint)
    RETURNS SETOF text LANGUAGE plpgsql SET datestyle = 'ISO' AS $$
DECLARE
    shard record;
    statement text;
    written bigint;
    found_row record;
    sent bytea;
    place integer := 5;
    header bit(64);
    name text;
    columns jsonb := '[]';
BEGIN
    FOR shard IN
        SELECT named.name, pg_catalog.format(
            'platform.%s_%s', named.name,
            pg_catalog.get_shard_id_for_distribution_column(pg_class.oid, the_owner)) AS place
        FROM (SELECT DISTINCT part[1] AS name
              FROM pg_catalog.regexp_matches(template, 'platform\.(\w+)', 'g') AS part) AS named
        JOIN pg_catalog.pg_class ON relname = named.name AND relnamespace = 'platform'::regnamespace
        JOIN pg_catalog.pg_dist_partition ON logicalrelid = pg_class.oid AND (partmethod = 'h' OR repmodel = 't')
    LOOP
        template := pg_catalog.regexp_replace(
            template, pg_catalog.format('platform\.%s\M(\s+AS\M)', shard.name), shard.place || '\1', 'gi');
        template := pg_catalog.regexp_replace(
            template, pg_catalog.format('platform\.%s\M', shard.name),
            pg_catalog.format('%s AS %s', shard.place, shard.name), 'g');
    END LOOP;
    statement := pg_catalog.format(template, VARIADIC literals);
    IF NOT gives_rows THEN
        EXECUTE statement;
        GET DIAGNOSTICS written = ROW_COUNT;
        RETURN NEXT written::text;
        RETURN;
    END IF;
    FOR found_row IN EXECUTE statement LOOP
        IF sent IS NULL THEN
            -- A row in binary form: of each column the type in four bytes, the length in four, and the value.
            sent := pg_catalog.record_send(found_row);
            FOR name IN SELECT pg_catalog.json_object_keys(pg_catalog.row_to_json(found_row)) LOOP
                header := ('x' || pg_catalog.encode(pg_catalog.substr(sent, place, 8), 'hex'))::bit(64);
                columns := columns || pg_catalog.jsonb_build_array(
                    pg_catalog.jsonb_build_array(name, header::bit(32)::bigint));
                place := place + 8 + greatest(0, (header << 32)::bit(32)::integer);
            END LOOP;
            RETURN NEXT columns::text;
        END IF;
        RETURN NEXT found_row::text;
    END LOOP;
END
$$;

-- Holds the shards of an owner where they are until the transaction ends: all of them, in the order in which moving them
-- takes them, so that the two do not deadlock. It runs as the tables' owner, who may.
CREATE OR REPLACE FUNCTION platform.hold_shards(the_owner uuid) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shard bigint;
BEGIN
    FOR shard IN
        SELECT beside.shardid
        FROM pg_dist_shard AS one
        JOIN pg_dist_partition AS its ON its.logicalrelid = one.logicalrelid
        JOIN pg_dist_partition AS other ON other.colocationid = its.colocationid AND other.partmethod = 'h'
        JOIN pg_dist_shard AS beside
          ON beside.logicalrelid = other.logicalrelid AND beside.shardminvalue = one.shardminvalue
        WHERE one.shardid = get_shard_id_for_distribution_column('platform.workflow'::text::regclass, the_owner)
        ORDER BY beside.shardid
    LOOP
        PERFORM lock_shard_metadata(5, ARRAY[shard]);
    END LOOP;
END
$$;

-- As on one server, but each shard that loses rows is asked, and about one owner's rows at a time.
CREATE OR REPLACE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept_from bigint := coalesce(
        (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1), 1);
    removable bigint := coalesce((SELECT last_row FROM platform.audit_seal WHERE number = kept_from - 1), 0);
    the_owner uuid;
    times timestamptz[];
    gone text[];
    refused boolean := false;
BEGIN
    IF TG_TABLE_NAME ~ '^audit_inbox' THEN
        FOR the_owner, times, gone IN
            SELECT owner_id, array_agg(created), array_agg(DISTINCT extract(epoch FROM created) || action)
            FROM deleted GROUP BY owner_id
        LOOP
            SELECT refused OR count(DISTINCT extract(epoch FROM created) || action) < cardinality(gone) INTO refused
            FROM platform.audit_sealed
            WHERE owner_id = the_owner AND created = ANY (times)
              AND extract(epoch FROM created) || action = ANY (gone);
        END LOOP;
    ELSIF TG_TABLE_NAME ~ '^audit_sealed' THEN
        refused := EXISTS (SELECT FROM deleted WHERE number > removable);
    ELSE
        refused := EXISTS (SELECT FROM deleted WHERE seal_number >= kept_from);
    END IF;
    IF refused THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD002',
            MESSAGE = format('DELETE refused: %s is append-only', TG_TABLE_NAME),
            HINT = 'What is old is removed by: platform-db audit prune.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;
