-- Buffers are out of line from 2 kB on, and not compressed: they mostly are already, and a change of another
-- column copies the pointer alone.
ALTER TABLE platform.task_record
    ALTER buffers SET STORAGE EXTERNAL,
    ALTER result_buffers SET STORAGE EXTERNAL;

-- A function of PL/pgSQL, because it keeps its plan: planning takes longer than looking up. What is text or JSON comes
-- as one array, times as microseconds since 1970, so that the driver has few columns to describe.
CREATE FUNCTION platform.read_task_record(
    owner uuid, the_cluster text, the_msg_id text,
    OUT texts text[], OUT buffers bytea, OUT result_buffers bytea, OUT size bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT ARRAY[
               record.header::text, record.metadata::text, record.content::text, record.result_header::text,
               record.result_metadata::text, record.result_content::text, record.execute_result::text,
               record.error::text,
               (extract(epoch FROM record.submitted) * 1000000)::bigint::text,
               (extract(epoch FROM record.started) * 1000000)::bigint::text,
               (extract(epoch FROM record.completed) * 1000000)::bigint::text,
               (extract(epoch FROM record.received) * 1000000)::bigint::text,
               record.client_uuid, record.engine_uuid, record.resubmitted, record.queue, record.label,
               record.execute_input, record.stdout, record.stderr, record.extra::text],
           record.buffers, record.result_buffers, record.size
    INTO texts, buffers, result_buffers, size
    FROM platform.task_record AS record
    WHERE record.owner_id = owner AND record.msg_id = the_msg_id AND record.cluster || '' = the_cluster;
END
$$;
