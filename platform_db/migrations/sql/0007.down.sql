DROP TRIGGER record_version ON platform.workflow;

DROP TRIGGER take_version ON platform.workflow;

DROP TRIGGER add_owner_limit ON platform.user_;

DROP TRIGGER record_phase ON platform.job;

DROP TRIGGER record_creation ON platform.workflow;

DROP TRIGGER record_deletion ON platform.workflow;

DROP TRIGGER record_creation ON platform.job;

DROP TRIGGER record_deletion ON platform.job;

DROP TRIGGER record_creation ON platform.interactive_session;

DROP TRIGGER record_deletion ON platform.interactive_session;

DROP TRIGGER record_creation ON platform.service;

DROP TRIGGER record_deletion ON platform.service;

DROP FUNCTION platform.take_version;

DROP FUNCTION platform.add_owner_limit;

DROP FUNCTION platform.record_phase;

DROP FUNCTION platform.record_creation;

DROP FUNCTION platform.record_deletion;

DROP TABLE platform.event_failure;

DROP TABLE platform.event_checkpoint;

DROP TABLE platform.row_event;

DROP TABLE platform.workflow_version;

DROP TABLE platform.idempotency_key;

DROP TABLE platform.owner_limit;

DROP FUNCTION platform.record_queue_limits;

ALTER TABLE platform.job DROP COLUMN phase;

ALTER TABLE platform.workflow DROP COLUMN version, DROP COLUMN start_after, DROP COLUMN stop_requested_at;
