CREATE TABLE platform.log_size (
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    bytes_ BIGINT NOT NULL,
    CONSTRAINT pk_log_size PRIMARY KEY (owner_id, workflow_id),
    CONSTRAINT fk_log_size_owner_id_workflow_id FOREIGN KEY (owner_id, workflow_id)
        REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_log_size_bytes_not_negative CHECK (bytes_ >= 0)
)
 WITH (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

ALTER TABLE platform.status_change ADD COLUMN transaction_id BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE platform.status_change ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

ALTER TABLE platform.note ADD COLUMN transaction_id BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE platform.note ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

ALTER TABLE platform.log_chunk ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX platform.ix_lease_heartbeat_at;

ALTER TABLE platform.lease SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

ALTER TABLE platform.job_cache_use SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

ALTER TABLE platform.run_counter SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

ALTER TABLE platform.user_resource SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.workflow SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.job SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.status_change SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.note SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.log_chunk SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

ALTER TABLE platform.log_size ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.log_size
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);
