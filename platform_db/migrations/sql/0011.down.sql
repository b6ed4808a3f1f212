DROP VIEW platform.activity;

DROP VIEW redun.value, redun.subvalue, redun.file, redun.task, redun.evaluation, redun.call_node,
    redun.call_subtree_task, redun.argument, redun.argument_result, redun.call_edge, redun.execution, redun.job,
    redun.tag, redun.tag_edit, redun.handle, redun.handle_edge, redun.redun_version, redun.alembic_version;

-- A login that may not create it again leaves it, as an administrator has made it.
DO $$ BEGIN
    IF has_database_privilege(current_database(), 'CREATE') THEN DROP SCHEMA redun; END IF;
END $$;

-- What values took no longer counts. Writers of values end first, then the totals are locked, as they do it.
LOCK TABLE platform.value IN SHARE ROW EXCLUSIVE MODE;

SELECT platform.count_storage(owner_id, -sum(size)::bigint) FROM platform.value
WHERE octet_length(value) > 0 GROUP BY owner_id ORDER BY owner_id;

DROP TABLE platform.handle_edge, platform.handle, platform.entity_tag_edit, platform.entity_tag,
    platform.call_argument_source, platform.call_argument, platform.call_subtree_task, platform.call_edge,
    platform.call_job, platform.call_execution, platform.call_node, platform.evaluation, platform.call_task,
    platform.value_file, platform.subvalue, platform.value, platform.prune_mark;

DROP FUNCTION platform.find_cached, platform.has_context, platform.find_children, platform.find_evaluations,
    platform.keep_values, platform.release_former_value, platform.release_untagged_value, platform.release_values,
    platform.keep_call_job_end, platform.take_value_size, platform.analyze_calls;
