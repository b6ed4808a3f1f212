ALTER TABLE platform.audit_log ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.audit_log
    USING (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.interactive_session ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.interactive_session
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.interactive_session_resource ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.interactive_session_resource
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.job ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.job
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.job_cache ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.job_cache
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.job_cache_use ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.job_cache_use
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.lease ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.lease
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.log_chunk ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.log_chunk
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.note ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.note
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.quota_reservation ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.quota_reservation
    USING (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.run_counter ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.run_counter
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.service ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.service
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.service_log ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.service_log
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.service_resource ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.service_resource
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.status_change ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.status_change
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_ ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_
    USING (id_ = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (id_ = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_resource ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_resource
    USING (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_token ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_token
    USING (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_token_last_use ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_token_last_use
    USING (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (user_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_workflow ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_workflow
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_resource ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_resource
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_service ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_service
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workflow_session ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workflow_session
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workspace_retention_audit_log ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workspace_retention_audit_log
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.workspace_retention_rule ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.workspace_retention_rule
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);
