CREATE TABLE platform.task_record (
    owner_id UUID NOT NULL,
    cluster TEXT COLLATE "C" NOT NULL,
    msg_id TEXT COLLATE "C" NOT NULL,
    header JSON,
    metadata JSON,
    content JSON,
    buffers BYTEA,
    submitted TIMESTAMP WITH TIME ZONE,
    client_uuid TEXT COLLATE "C",
    engine_uuid TEXT COLLATE "C",
    started TIMESTAMP WITH TIME ZONE,
    completed TIMESTAMP WITH TIME ZONE,
    resubmitted TEXT COLLATE "C",
    received TIMESTAMP WITH TIME ZONE,
    result_header JSON,
    result_metadata JSON,
    result_content JSON,
    result_buffers BYTEA,
    queue TEXT COLLATE "C",
    execute_input TEXT COLLATE "C",
    execute_result JSON,
    error JSON,
    stdout TEXT COLLATE "C",
    stderr TEXT COLLATE "C",
    label TEXT COLLATE "C",
    extra JSONB,
    size BIGINT NOT NULL,
    CONSTRAINT pk_task_record PRIMARY KEY (owner_id, msg_id),
    CONSTRAINT ck_task_record_size_not_negative CHECK (size >= 0),
    CONSTRAINT fk_task_record_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_task_record_incomplete ON platform.task_record (owner_id, cluster, submitted) WHERE completed IS NULL;

CREATE INDEX ix_task_record_owner_id_client_uuid ON platform.task_record (owner_id, client_uuid);

CREATE INDEX ix_task_record_owner_id_cluster_completed ON platform.task_record (owner_id, cluster, completed);

CREATE INDEX ix_task_record_owner_id_cluster_label ON platform.task_record (owner_id, cluster, label) WHERE label IS NOT NULL;

CREATE INDEX ix_task_record_owner_id_cluster_submitted ON platform.task_record (owner_id, cluster, submitted) INCLUDE (msg_id);

-- Buffers are out of line from 2 kB on, and not compressed: they mostly are already, and a change of another
-- column copies the pointer alone.
ALTER TABLE platform.task_record
    ALTER buffers SET STORAGE EXTERNAL,
    ALTER result_buffers SET STORAGE EXTERNAL;

ALTER TABLE platform.task_record ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.task_record
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

CREATE TRIGGER count_new_tasks AFTER INSERT ON platform.task_record
    REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');

CREATE TRIGGER count_tasks AFTER UPDATE ON platform.task_record
    REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');

CREATE TRIGGER count_deleted_tasks AFTER DELETE ON platform.task_record
    REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION platform.count_stored('true');
