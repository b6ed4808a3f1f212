DROP TABLE platform.job_dependency, platform.workflow_progress, platform.workflow_result CASCADE;

DROP FUNCTION platform.add_progress,
    platform.check_dependencies,
    platform.count_jobs,
    platform.count_results,
    platform.count_storage,
    platform.find_cycle,
    platform.keep_run,
    platform.lock_graph CASCADE;

-- A value cannot be taken out of an enumeration, so it is made again.
DELETE FROM platform.quota_reservation WHERE resource_id IN (SELECT id_ FROM platform.resource WHERE type_ = 'database');

DELETE FROM platform.interactive_session_resource WHERE resource_id IN (SELECT id_ FROM platform.resource WHERE type_ = 'database');

DELETE FROM platform.service_resource WHERE resource_id IN (SELECT id_ FROM platform.resource WHERE type_ = 'database');

DELETE FROM platform.workflow_resource WHERE resource_id IN (SELECT id_ FROM platform.resource WHERE type_ = 'database');

DELETE FROM platform.user_resource WHERE resource_id IN (SELECT id_ FROM platform.resource WHERE type_ = 'database');

DELETE FROM platform.resource WHERE type_ = 'database';

ALTER TYPE platform.resource_type RENAME TO former_resource_type;

CREATE TYPE platform.resource_type AS ENUM ('cpu', 'disk');

ALTER TABLE platform.resource ALTER type_ TYPE platform.resource_type USING type_::text::platform.resource_type;

DROP TYPE platform.former_resource_type;
