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
