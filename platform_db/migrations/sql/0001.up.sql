CREATE TYPE platform.interactive_session_type AS ENUM ('jupyter');

CREATE TYPE platform.job_status AS ENUM ('created', 'queued', 'running', 'finished', 'failed', 'stopped');

CREATE TYPE platform.resource_type AS ENUM ('cpu', 'disk');

CREATE TYPE platform.resource_unit AS ENUM ('milliseconds', 'bytes');

CREATE TYPE platform.run_status AS ENUM ('created', 'queued', 'pending', 'running', 'finished', 'failed', 'stopped', 'deleted');

CREATE TYPE platform.service_type AS ENUM ('dask');

CREATE TYPE platform.user_token_status AS ENUM ('requested', 'active', 'revoked');

CREATE TYPE platform.user_token_type AS ENUM ('access', 'personal', 'session', 'webhook');

CREATE TYPE platform.workflow_access_type AS ENUM ('read');

CREATE TYPE platform.workspace_retention_rule_status AS ENUM ('created', 'active', 'inactive', 'pending', 'applied');

CREATE SEQUENCE platform.audit_number AS BIGINT;

CREATE SEQUENCE platform.history_number AS BIGINT;

CREATE SEQUENCE platform.log_number AS BIGINT;

CREATE SEQUENCE platform.quota_version AS BIGINT;

-- A cached result is found by a digest, because parameters outgrow what an index entry can hold.
-- convert_to() is marked stable because it depends on the name of an encoding; with a constant one it is not.
CREATE FUNCTION platform.job_cache_digest(parameters text, workspace_hash text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(sha256(convert_to(parameters, 'UTF8')) || sha256(convert_to(workspace_hash, 'UTF8')));

CREATE TABLE platform.audit_fence (
    singleton BOOLEAN DEFAULT 'true' NOT NULL,
    last_row BIGINT NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_audit_fence PRIMARY KEY (singleton),
    CONSTRAINT ck_audit_fence_singleton CHECK (singleton)
);

CREATE TABLE platform.audit_log (
    id_ UUID NOT NULL,
    number BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    actor_id UUID DEFAULT (nullif(current_setting('platform.actor_id', true), ''))::uuid,
    action TEXT NOT NULL,
    details JSONB,
    request_id TEXT DEFAULT (nullif(current_setting('platform.request_id', true), ''))::text,
    address INET DEFAULT (nullif(current_setting('platform.address', true), ''))::inet,
    service TEXT DEFAULT (nullif(current_setting('platform.service', true), ''))::text,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_audit_log_id_ UNIQUE (id_),
    CONSTRAINT uq_audit_log_number UNIQUE (number),
    CONSTRAINT ck_audit_log_details_bounded CHECK (octet_length(details::text) <= 65536),
    CONSTRAINT ck_audit_log_details_readable CHECK (jsonb_typeof(details) = 'object' AND NOT details @? '$.**{32}' AND NOT details @? '$.** ? (@ > 1e308 || @ < -1e308)'),
    CONSTRAINT ck_audit_log_texts_bounded CHECK (octet_length(action) <= 256 AND octet_length(request_id) <= 1024 AND octet_length(service) <= 1024)
);

CREATE INDEX ix_audit_log_action_created_number ON platform.audit_log (action, created, number);

CREATE INDEX ix_audit_log_actor_id_created_number ON platform.audit_log (actor_id, created, number);

CREATE INDEX ix_audit_log_created_number ON platform.audit_log (created, number);

CREATE INDEX ix_audit_log_owner_id_created_number ON platform.audit_log (owner_id, created, number);

CREATE TABLE platform.audit_seal (
    number BIGINT NOT NULL,
    previous_hash BYTEA NOT NULL,
    last_row BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    last_created TIMESTAMP WITH TIME ZONE,
    content_hash BYTEA NOT NULL,
    first_kept_seal BIGINT NOT NULL,
    sealed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    hash BYTEA NOT NULL,
    signature BYTEA,
    CONSTRAINT pk_audit_seal PRIMARY KEY (number),
    CONSTRAINT ck_audit_seal_number_positive CHECK (number >= 1),
    CONSTRAINT ck_audit_seal_first_kept_seal_known CHECK (first_kept_seal BETWEEN 1 AND number),
    CONSTRAINT ck_audit_seal_hashes_are_sha256 CHECK (octet_length(previous_hash) = 32 AND octet_length(content_hash) = 32 AND octet_length(hash) = 32)
);

CREATE INDEX ix_audit_seal_sealed_at ON platform.audit_seal (sealed_at);

CREATE TABLE platform.extra_transition (
    entity TEXT NOT NULL,
    from_status TEXT NOT NULL,
    to_status TEXT NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT pk_extra_transition PRIMARY KEY (entity, from_status, to_status),
    CONSTRAINT ck_extra_transition_known_entity CHECK (entity IN ('interactive_session', 'job', 'service', 'workflow', 'workspace_retention_rule')),
    CONSTRAINT ck_extra_transition_has_reason CHECK (reason <> '')
);

CREATE TABLE platform.lease (
    owner_id UUID NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    holder TEXT NOT NULL,
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (owner_id, entity_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX ix_lease_holder ON platform.lease (holder);

CREATE TABLE platform.note (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    topic TEXT NOT NULL,
    message TEXT NOT NULL,
    details JSONB,
    number BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_note PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_note_id_ UNIQUE (id_)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_note_owner_id_entity_id_number ON platform.note (owner_id, entity_id, number);

CREATE TABLE platform.resource (
    id_ UUID NOT NULL,
    name TEXT NOT NULL,
    type_ platform.resource_type NOT NULL,
    unit platform.resource_unit NOT NULL,
    title TEXT NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_resource PRIMARY KEY (id_),
    CONSTRAINT uq_resource_name UNIQUE (name)
);

CREATE TABLE platform.secret_digest (
    digest BYTEA NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    CONSTRAINT pk_secret_digest PRIMARY KEY (digest),
    CONSTRAINT ck_secret_digest_is_sha256 CHECK (octet_length(digest) = 32)
);

CREATE INDEX ix_secret_digest_entity_id ON platform.secret_digest (entity_id);

CREATE TABLE platform.status_change (
    owner_id UUID NOT NULL,
    entity_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    entity TEXT NOT NULL,
    number BIGINT NOT NULL,
    from_status TEXT NOT NULL,
    to_status TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT,
    reason TEXT,
    overridden BOOLEAN DEFAULT 'false' NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_status_change PRIMARY KEY (owner_id, entity_id, entity, revision)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE TABLE platform.task_lease (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    acquired_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_task_lease PRIMARY KEY (name)
);

CREATE TABLE platform.user_ (
    id_ UUID NOT NULL,
    email TEXT NOT NULL,
    full_name TEXT,
    username TEXT,
    idp_issuer TEXT,
    idp_subject TEXT,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_ PRIMARY KEY (id_),
    CONSTRAINT uq_user__idp_issuer_idp_subject UNIQUE (idp_issuer, idp_subject),
    CONSTRAINT ck_user__idp_complete CHECK ((idp_issuer IS NULL) = (idp_subject IS NULL)),
    CONSTRAINT ck_user__email_printable CHECK (email <> '' AND email !~ '[[:cntrl:]]'),
    CONSTRAINT ck_user__id_not_reserved CHECK (id_ <> 'ffffffff-ffff-ffff-ffff-ffffffffffff')
);

CREATE INDEX ix_user__created ON platform.user_ (created, id_);

CREATE UNIQUE INDEX uq_user__email ON platform.user_ (lower(email));

CREATE TABLE platform.audit_seal_digests (
    seal_number BIGINT NOT NULL,
    digests BYTEA NOT NULL,
    CONSTRAINT pk_audit_seal_digests PRIMARY KEY (seal_number),
    CONSTRAINT fk_audit_seal_digests_seal_number FOREIGN KEY(seal_number) REFERENCES platform.audit_seal (number)
);

CREATE TABLE platform.interactive_session (
    id_ UUID NOT NULL,
    path TEXT NOT NULL,
    type_ platform.interactive_session_type DEFAULT 'jupyter' NOT NULL,
    secret BYTEA,
    secret_digest BYTEA,
    other_secret_digests BYTEA[],
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    status platform.run_status DEFAULT 'created' NOT NULL,
    run_started_at TIMESTAMP WITH TIME ZONE,
    run_finished_at TIMESTAMP WITH TIME ZONE,
    run_stopped_at TIMESTAMP WITH TIME ZONE,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_interactive_session PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_interactive_session_id_ UNIQUE (id_),
    CONSTRAINT ck_interactive_session_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_interactive_session_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_interactive_session_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT ck_interactive_session_digest_beside_value CHECK ((secret IS NULL) = (secret_digest IS NULL)),
    CONSTRAINT fk_interactive_session_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_interactive_session_key_id ON platform.interactive_session (substring(secret FROM 2 FOR 4));

CREATE INDEX ix_interactive_session_owner_id_created ON platform.interactive_session (owner_id, created, id_);

CREATE UNIQUE INDEX uq_interactive_session_owner_id_path ON platform.interactive_session (owner_id, path) WHERE status <> 'deleted';

CREATE TABLE platform.run_counter (
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    run_number_major INTEGER NOT NULL,
    last INTEGER NOT NULL,
    CONSTRAINT pk_run_counter PRIMARY KEY (owner_id, name, run_number_major),
    CONSTRAINT fk_run_counter_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE TABLE platform.service (
    id_ UUID NOT NULL,
    uri TEXT,
    type_ platform.service_type DEFAULT 'dask' NOT NULL,
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    status platform.run_status DEFAULT 'created' NOT NULL,
    run_started_at TIMESTAMP WITH TIME ZONE,
    run_finished_at TIMESTAMP WITH TIME ZONE,
    run_stopped_at TIMESTAMP WITH TIME ZONE,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_service PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_service_id_ UNIQUE (id_),
    CONSTRAINT ck_service_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_service_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_service_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT fk_service_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_service_owner_id_created ON platform.service (owner_id, created, id_);

CREATE UNIQUE INDEX uq_service_owner_id_name ON platform.service (owner_id, name) WHERE status <> 'deleted';

CREATE TABLE platform.user_resource (
    owner_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_limit BIGINT,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    quota_reserved BIGINT DEFAULT '0' NOT NULL,
    quota_pruned BIGINT DEFAULT '0' NOT NULL,
    quota_period_months INTEGER,
    quota_period_start_at TIMESTAMP WITH TIME ZONE,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_user_resource PRIMARY KEY (owner_id, resource_id),
    CONSTRAINT ck_user_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT ck_user_resource_reserved_not_negative CHECK (quota_reserved >= 0),
    CONSTRAINT ck_user_resource_pruned_not_negative CHECK (quota_pruned >= 0),
    CONSTRAINT ck_user_resource_limit_not_negative CHECK (quota_limit >= 0),
    CONSTRAINT ck_user_resource_period_at_least_a_month CHECK (quota_period_months >= 1),
    CONSTRAINT fk_user_resource_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE,
    CONSTRAINT fk_user_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE TABLE platform.user_token (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    type_ platform.user_token_type NOT NULL,
    status platform.user_token_status NOT NULL,
    name TEXT,
    token BYTEA,
    token_digest BYTEA,
    scopes TEXT[] DEFAULT '{}' NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    other_token_digests BYTEA[],
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_token PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_user_token_id_ UNIQUE (id_),
    CONSTRAINT uq_user_token_token_digest UNIQUE (token_digest),
    CONSTRAINT ck_user_token_active_has_value CHECK (status <> 'active' OR token IS NOT NULL),
    CONSTRAINT ck_user_token_digest_beside_value CHECK ((token IS NULL) = (token_digest IS NULL)),
    CONSTRAINT ck_user_token_personal_has_name CHECK (type_ <> 'personal' OR name IS NOT NULL),
    CONSTRAINT ck_user_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32),
    CONSTRAINT fk_user_token_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
);

CREATE INDEX ix_user_token_access ON platform.user_token (owner_id, created, id_) WHERE type_ = 'access';

CREATE INDEX ix_user_token_key_id ON platform.user_token (substring(token FROM 2 FOR 4));

CREATE INDEX ix_user_token_owner_id_created ON platform.user_token (owner_id, created, id_);

CREATE UNIQUE INDEX uq_user_token_active_access ON platform.user_token (owner_id) WHERE type_ = 'access' AND status = 'active';

CREATE UNIQUE INDEX uq_user_token_personal_name ON platform.user_token (owner_id, name) WHERE type_ = 'personal' AND status = 'active';

CREATE UNIQUE INDEX uq_user_token_requested_access ON platform.user_token (owner_id) WHERE type_ = 'access' AND status = 'requested';

CREATE TABLE platform.workflow (
    id_ UUID NOT NULL,
    type_ TEXT NOT NULL,
    specification JSONB,
    input_parameters JSONB,
    operational_options JSONB,
    engine_specific JSONB,
    complexity JSONB,
    priority INTEGER,
    job_progress JSONB DEFAULT '{}' NOT NULL,
    workspace_path TEXT NOT NULL,
    restart BOOLEAN DEFAULT 'false' NOT NULL,
    run_number_major INTEGER NOT NULL,
    run_number_minor INTEGER NOT NULL,
    git_ref TEXT,
    git_repo TEXT,
    git_provider TEXT,
    launcher_url TEXT,
    labels JSONB DEFAULT '{}' NOT NULL,
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    status platform.run_status DEFAULT 'created' NOT NULL,
    run_started_at TIMESTAMP WITH TIME ZONE,
    run_finished_at TIMESTAMP WITH TIME ZONE,
    run_stopped_at TIMESTAMP WITH TIME ZONE,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_workflow PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_workflow_id_ UNIQUE (id_),
    CONSTRAINT ck_workflow_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_workflow_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_workflow_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT uq_workflow_owner_id_name_run_number_major_run_number_minor UNIQUE (owner_id, name, run_number_major, run_number_minor),
    CONSTRAINT ck_workflow_name_length CHECK (octet_length(name) BETWEEN 1 AND 1024),
    CONSTRAINT ck_workflow_workspace_path_length CHECK (octet_length(workspace_path) <= 2048),
    CONSTRAINT ck_workflow_workspace_path_canonical CHECK (starts_with(workspace_path, '/') AND strpos(workspace_path || '/', '//') = 0 AND strpos(workspace_path || '/', '/./') = 0 AND strpos(workspace_path || '/', '/../') = 0),
    CONSTRAINT ck_workflow_run_number_positive CHECK (run_number_major >= 1 AND run_number_minor >= 0),
    CONSTRAINT fk_workflow_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_workflow_created ON platform.workflow (created, id_);

CREATE INDEX ix_workflow_deleted ON platform.workflow (id_) WHERE status = 'deleted';

CREATE INDEX ix_workflow_in_progress ON platform.workflow (status, id_, owner_id) WHERE status IN ('created', 'queued', 'pending', 'running');

CREATE INDEX ix_workflow_owner_id_created ON platform.workflow (owner_id, created, id_) INCLUDE (status);

CREATE INDEX ix_workflow_owner_id_workspace_path ON platform.workflow (owner_id, workspace_path);

CREATE TABLE platform.interactive_session_resource (
    session_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_interactive_session_resource PRIMARY KEY (owner_id, session_id, resource_id),
    CONSTRAINT fk_interactive_session_resource_owner_id_session_id FOREIGN KEY(owner_id, session_id) REFERENCES platform.interactive_session (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_interactive_session_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT fk_interactive_session_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
);

CREATE TABLE platform.job (
    id_ UUID NOT NULL,
    backend_job_id TEXT,
    compute_backend TEXT,
    job_name TEXT,
    status platform.job_status DEFAULT 'created' NOT NULL,
    container_image TEXT,
    command TEXT,
    environment JSONB,
    attributes JSONB DEFAULT '{}' NOT NULL,
    deleted BOOLEAN DEFAULT 'false' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_job PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_job_id_ UNIQUE (id_),
    CONSTRAINT fk_job_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_job_running_has_start CHECK (status <> 'running' OR started_at IS NOT NULL),
    CONSTRAINT ck_job_finished_has_end CHECK (status NOT IN ('finished', 'failed', 'stopped') OR finished_at IS NOT NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_job_compute_backend_backend_job_id ON platform.job (compute_backend, backend_job_id);

CREATE INDEX ix_job_owner_id_workflow_id ON platform.job (owner_id, workflow_id, created, id_);

CREATE TABLE platform.log_size (
    bytes_ BIGINT NOT NULL,
    first_number BIGINT NOT NULL,
    last_number BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_log_size PRIMARY KEY (owner_id, workflow_id),
    CONSTRAINT fk_log_size_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_log_size_bytes_not_negative CHECK (bytes_ >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

CREATE TABLE platform.quota_reservation (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    amount BIGINT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_quota_reservation PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_quota_reservation_id_ UNIQUE (id_),
    CONSTRAINT fk_quota_reservation_owner_id_resource_id FOREIGN KEY(owner_id, resource_id) REFERENCES platform.user_resource (owner_id, resource_id) ON DELETE CASCADE
);

CREATE INDEX ix_quota_reservation_expires_at ON platform.quota_reservation (expires_at);

CREATE INDEX ix_quota_reservation_owner_id_resource_id ON platform.quota_reservation (owner_id, resource_id);

CREATE TABLE platform.service_log (
    owner_id UUID NOT NULL,
    service_id UUID NOT NULL,
    number BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    transaction_id BIGINT NOT NULL,
    data BYTEA NOT NULL,
    CONSTRAINT pk_service_log PRIMARY KEY (owner_id, service_id, number),
    CONSTRAINT fk_service_log_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE
);

CREATE TABLE platform.service_resource (
    service_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_service_resource PRIMARY KEY (owner_id, service_id, resource_id),
    CONSTRAINT fk_service_resource_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_service_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT fk_service_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
);

CREATE TABLE platform.user_token_last_use (
    owner_id UUID NOT NULL,
    token_id UUID NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_user_token_last_use PRIMARY KEY (owner_id, token_id),
    CONSTRAINT fk_user_token_last_use_owner_id_token_id FOREIGN KEY(owner_id, token_id) REFERENCES platform.user_token (owner_id, id_) ON DELETE CASCADE
) WITH (fillfactor = 70);

CREATE TABLE platform.user_workflow (
    user_id UUID NOT NULL,
    access_type platform.workflow_access_type DEFAULT 'read' NOT NULL,
    message TEXT,
    valid_until TIMESTAMP WITH TIME ZONE,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_workflow PRIMARY KEY (owner_id, workflow_id, user_id),
    CONSTRAINT fk_user_workflow_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_user_workflow_not_with_owner CHECK (user_id <> owner_id),
    CONSTRAINT fk_user_workflow_user_id FOREIGN KEY(user_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
);

CREATE INDEX ix_user_workflow_user_id ON platform.user_workflow (user_id);

CREATE TABLE platform.workflow_resource (
    version BIGINT DEFAULT '0' NOT NULL,
    delta BIGINT DEFAULT '0' NOT NULL,
    stale BOOLEAN DEFAULT 'false' NOT NULL,
    method TEXT,
    apparent BOOLEAN DEFAULT 'false' NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_workflow_resource PRIMARY KEY (owner_id, workflow_id, resource_id),
    CONSTRAINT fk_workflow_resource_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_workflow_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT fk_workflow_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
) WITH (fillfactor = 80);

CREATE TABLE platform.workflow_service (
    service_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_workflow_service PRIMARY KEY (owner_id, workflow_id, service_id),
    CONSTRAINT fk_workflow_service_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_workflow_service_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_workflow_service_owner_id_service_id ON platform.workflow_service (owner_id, service_id);

CREATE TABLE platform.workflow_session (
    session_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_workflow_session PRIMARY KEY (owner_id, workflow_id, session_id),
    CONSTRAINT fk_workflow_session_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_workflow_session_owner_id_session_id FOREIGN KEY(owner_id, session_id) REFERENCES platform.interactive_session (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_workflow_session_owner_id_session_id ON platform.workflow_session (owner_id, session_id);

CREATE TABLE platform.workspace_retention_rule (
    id_ UUID NOT NULL,
    workspace_files TEXT NOT NULL,
    retention_days INTEGER NOT NULL,
    apply_on TIMESTAMP WITH TIME ZONE,
    status platform.workspace_retention_rule_status DEFAULT 'created' NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_workspace_retention_rule PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_workspace_retention_rule_id_ UNIQUE (id_),
    CONSTRAINT fk_workspace_retention_rule_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT uq_workspace_retention_rule_owner_id_workflow_id_worksp_0248 UNIQUE (owner_id, workflow_id, workspace_files),
    CONSTRAINT ck_workspace_retention_rule_days_within_a_century CHECK (retention_days BETWEEN 0 AND 36500),
    CONSTRAINT ck_workspace_retention_rule_active_has_date CHECK (status <> 'active' OR apply_on IS NOT NULL)
);

CREATE INDEX ix_workspace_retention_rule_status_apply_on ON platform.workspace_retention_rule (status, apply_on);

CREATE TABLE platform.job_cache (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    job_id UUID NOT NULL,
    parameters TEXT NOT NULL,
    workspace_hash TEXT NOT NULL,
    result_path TEXT NOT NULL,
    digest BYTEA GENERATED ALWAYS AS (platform.job_cache_digest(parameters, workspace_hash)) STORED NOT NULL,
    created TIMESTAMP WITH TIME ZONE NOT NULL,
    updated TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_job_cache PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_job_cache_id_ UNIQUE (id_),
    CONSTRAINT uq_job_cache_owner_id_digest UNIQUE (owner_id, digest),
    CONSTRAINT fk_job_cache_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_job_cache_owner_id_job_id ON platform.job_cache (owner_id, job_id);

CREATE TABLE platform.log_chunk (
    number BIGINT NOT NULL,
    job_id UUID,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    data BYTEA NOT NULL,
    transaction_id BIGINT NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    CONSTRAINT pk_log_chunk PRIMARY KEY (owner_id, workflow_id, number),
    CONSTRAINT fk_log_chunk_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_log_chunk_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX ix_log_chunk_owner_id_job_id ON platform.log_chunk (owner_id, job_id, number) WHERE job_id IS NOT NULL;

CREATE INDEX ix_log_chunk_owner_id_workflow_id_transaction_id ON platform.log_chunk (owner_id, workflow_id, transaction_id);

CREATE TABLE platform.workspace_retention_audit_log (
    id_ BIGINT GENERATED ALWAYS AS IDENTITY,
    owner_id UUID NOT NULL,
    workspace_retention_rule_id UUID NOT NULL,
    status platform.workspace_retention_rule_status NOT NULL,
    retention_days INTEGER NOT NULL,
    apply_on TIMESTAMP WITH TIME ZONE,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_workspace_retention_audit_log PRIMARY KEY (owner_id, workspace_retention_rule_id, id_),
    CONSTRAINT fk_workspace_retention_audit_log_owner_id_workspace_ret_c4c9 FOREIGN KEY(owner_id, workspace_retention_rule_id) REFERENCES platform.workspace_retention_rule (owner_id, id_) ON DELETE CASCADE
);

CREATE TABLE platform.job_cache_use (
    owner_id UUID NOT NULL,
    job_cache_id UUID NOT NULL,
    hits BIGINT DEFAULT '0' NOT NULL,
    last_hit_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_job_cache_use PRIMARY KEY (owner_id, job_cache_id),
    CONSTRAINT fk_job_cache_use_owner_id_job_cache_id FOREIGN KEY(owner_id, job_cache_id) REFERENCES platform.job_cache (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_job_cache_use_hits_not_negative CHECK (hits >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

-- Times come from the database's clock, whatever a client sends: lists are ordered by them.

-- An import from another system keeps its times, and its rows leave no audit rows: SET LOCAL platform.import = 'on'.
-- The switch works for the tables' owner alone, since no other role may truncate them.
CREATE FUNCTION platform.is_import() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.import', true), '') = 'on'
       AND has_table_privilege('platform.user_', 'TRUNCATE');

-- Keeps created and updated. clock_timestamp() and not now(): rows of one transaction have an order, too. Functions
-- are named with their schema, as whatever the writer's search_path finds first would have a say in the times.
CREATE FUNCTION platform.stamp_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSIF platform.is_import() THEN
        NEW.created := coalesce(NEW.created, pg_catalog.clock_timestamp());
        NEW.updated := coalesce(NEW.updated, NEW.created);
    ELSE
        NEW.created := pg_catalog.clock_timestamp();
        NEW.updated := NEW.created;
    END IF;
    RETURN NEW;
END
$$;

-- Numbers an entry of a history or a log. A reader goes by the numbers, which no clock turns back, and finds what
-- commits late by its transaction. Argument: the sequence.
CREATE FUNCTION platform.stamp_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.number := pg_catalog.nextval(TG_ARGV[0]);
    NEW.transaction_id := pg_catalog.pg_current_xact_id()::text::bigint;
    IF NEW.at IS NULL OR NOT platform.is_import() THEN
        NEW.at := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.note
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.history_number');

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.log_chunk
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');

CREATE TRIGGER stamp_entry BEFORE INSERT ON platform.service_log
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_entry('platform.log_number');

-- Run numbers: 1, 2, 3 … for each owner and name; a restart of run 2 is 2.1, 2.2 …
--
-- The counters are rows of run_counter: run_number_major 0 counts the runs of a name, any other the restarts of
-- that run. A trigger takes a new run's number inside its INSERT, so concurrent creators wait for each other for
-- the length of a transaction, and never collide.

-- Creators wait per owner and not per counter: transactions that create runs of two names in opposite orders would
-- deadlock on the counters, and with a dozen of them, retries get nowhere (seen: less than one transaction a second).
-- Writers of a user's tokens take the same lock. It is an advisory one, which needs no write to the user's row.
CREATE FUNCTION platform.lock_owner(owner uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('platform owner ' || owner, 0));
END
$$;

CREATE FUNCTION platform.take_run_number(
    owner uuid, run_name text, is_restart boolean, INOUT major integer, OUT minor integer
) LANGUAGE plpgsql AS $$
DECLARE
    latest integer;
    taken integer;
BEGIN
    PERFORM platform.lock_owner(owner);
    IF is_restart THEN
        SELECT last INTO latest FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0;
        IF latest IS NULL OR major > latest THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PD004',
                MESSAGE = format('there is no run %sof %L to restart', major || ' ', run_name),
                SCHEMA = 'platform', TABLE = 'workflow';
        END IF;
        major := coalesce(major, latest);
    END IF;
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    VALUES (owner, run_name, CASE WHEN is_restart THEN major ELSE 0 END, 1)
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = counter.last + excluded.last
    RETURNING last INTO taken;
    IF is_restart THEN
        minor := taken;
    ELSE
        major := taken;
        minor := 0;
    END IF;
END
$$;

-- A run that brings its number, or is renamed, moves the counters up to it. They only grow, so looking before
-- locking is safe.
CREATE FUNCTION platform.note_run_number(owner uuid, run_name text, major integer, minor integer)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = 0 AND last >= major
    ) AND (minor = 0 OR EXISTS (
        SELECT FROM platform.run_counter
        WHERE owner_id = owner AND name = run_name AND run_number_major = major AND last >= minor
    )) THEN
        RETURN;
    END IF;
    PERFORM platform.lock_owner(owner);
    INSERT INTO platform.run_counter AS counter (owner_id, name, run_number_major, last)
    SELECT owner, run_name, given.major, given.last
    FROM (VALUES (0, major), (major, minor)) AS given (major, last)
    WHERE given.last > 0
    ON CONFLICT (owner_id, name, run_number_major) DO UPDATE SET last = greatest(counter.last, excluded.last);
END
$$;

CREATE FUNCTION platform.number_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.run_number_minor IS NULL
        AND (NEW.restart OR NEW.run_number_major IS NULL)
    THEN
        SELECT major, minor INTO NEW.run_number_major, NEW.run_number_minor
        FROM platform.take_run_number(NEW.owner_id, NEW.name, NEW.restart, NEW.run_number_major);
    ELSE
        NEW.run_number_minor := coalesce(NEW.run_number_minor, 0);
        PERFORM platform.note_run_number(
            NEW.owner_id, NEW.name, NEW.run_number_major, NEW.run_number_minor);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER number_new_run BEFORE INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.owner_id IS NOT NULL AND NEW.name IS NOT NULL)
    EXECUTE FUNCTION platform.number_run();

CREATE TRIGGER number_renamed_run
    BEFORE UPDATE OF name, run_number_major, run_number_minor ON platform.workflow
    FOR EACH ROW WHEN (
        NEW.name IS NOT NULL AND NEW.run_number_major IS NOT NULL
        AND (OLD.name, OLD.run_number_major, OLD.run_number_minor)
            IS DISTINCT FROM (NEW.name, NEW.run_number_major, NEW.run_number_minor))
    EXECUTE FUNCTION platform.number_run();

-- The guard: what every status change meets, by Python, bulk SQL or psql.
--
-- Settings of the transaction that it reads:
--   platform.actor, platform.reason    who and why, for status_change.
--   platform.statement_reason          why, for one statement: its statement_timestamp(), a space and the reason.
--                                      It wins over platform.reason and says nothing to a later statement.
--   platform.guard                     'override', a space and the transaction's id let through what would be
--                                      refused, where there is a platform.reason. So an override outlives no
--                                      transaction, and none goes without a word.

CREATE FUNCTION platform.guard_is_overridden() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('platform.guard', true), '')
           = 'override ' || coalesce(pg_current_xact_id_if_assigned()::text, '')
       AND coalesce(current_setting('platform.reason', true), '') <> '';

-- Asked only about what the states do not allow: the legal path pays nothing for it.
CREATE FUNCTION platform.guard_permits(the_entity text, old_status text, new_status text) RETURNS boolean
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN platform.guard_is_overridden() OR EXISTS (
        SELECT FROM platform.extra_transition
        WHERE entity = the_entity AND from_status = old_status AND to_status = new_status);
END
$$;

-- Before a row is written: refuses what may not follow, keeps the times of its status, and counts its revision. It
-- stamps the row, too: a trigger of its own for that costs a change of a status 4 %.
-- Arguments: the entity, the times that it keeps (run, job or none), and each legal transition as from>to.
-- Times come from clock_timestamp(): a row's changes happen one after another under its lock, in transactions
-- that may have begun in another order. Its functions are named with their schema, since every change of a status
-- would pay for a search_path of its own.
CREATE FUNCTION platform.guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.revision := 0;
    ELSIF NEW.status = OLD.status THEN
        NEW.revision := OLD.revision;
        RETURN NEW;
    ELSIF OLD.status::text || '>' || NEW.status::text = ANY (TG_ARGV)
        OR platform.guard_permits(TG_ARGV[0], OLD.status::text, NEW.status::text)
    THEN
        NEW.revision := OLD.revision + 1;
        NEW.created := OLD.created;
        NEW.updated := pg_catalog.clock_timestamp();
    ELSE
        RAISE EXCEPTION USING
            ERRCODE = 'PD001',
            MESSAGE = format('%s %s cannot go from %s to %s', TG_ARGV[0], OLD.id_, OLD.status, NEW.status),
            DETAIL = format('%s %s %s', OLD.id_, OLD.status, NEW.status),
            SCHEMA = 'platform', TABLE = TG_ARGV[0], COLUMN = 'status';
    END IF;
    IF TG_ARGV[1] = 'run' THEN
        IF NEW.status = 'running' THEN
            IF TG_OP = 'INSERT' THEN
                NEW.run_started_at := coalesce(NEW.run_started_at, pg_catalog.clock_timestamp());
            ELSIF NEW.run_started_at IS NOT DISTINCT FROM OLD.run_started_at THEN
                NEW.run_started_at := pg_catalog.clock_timestamp();
            END IF;
            NEW.run_finished_at := NULL;
            NEW.run_stopped_at := NULL;
        ELSIF NEW.status IN ('finished', 'failed') THEN
            NEW.run_finished_at := coalesce(NEW.run_finished_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status = 'stopped' THEN
            NEW.run_stopped_at := coalesce(NEW.run_stopped_at, pg_catalog.clock_timestamp());
        END IF;
    ELSIF TG_ARGV[1] = 'job' THEN
        IF NEW.status = 'running' THEN
            NEW.started_at := coalesce(NEW.started_at, pg_catalog.clock_timestamp());
        ELSIF NEW.status IN ('finished', 'failed', 'stopped') THEN
            NEW.finished_at := coalesce(NEW.finished_at, pg_catalog.clock_timestamp());
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION platform.keep_identity() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD003',
        MESSAGE = format('%s %s keeps its id and its owner', TG_ARGV[0], OLD.id_),
        SCHEMA = 'platform', TABLE = TG_ARGV[0];
END
$$;

-- History: one row for each status change, and none for a row that is gone. Argument of both functions: the entity.
-- Both run as their owner, so that a tenant can write no history and delete none.

CREATE FUNCTION platform.record_status() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change_reason text := nullif(current_setting('platform.reason', true), '');
    statement_reason text := nullif(current_setting('platform.statement_reason', true), '');
    this_statement text;
BEGIN
    IF statement_reason IS NOT NULL THEN
        this_statement := statement_timestamp()::text || ' ';
        IF starts_with(statement_reason, this_statement) THEN
            change_reason := substr(statement_reason, length(this_statement) + 1);
        END IF;
    END IF;
    INSERT INTO platform.status_change
        (owner_id, entity_id, revision, entity, number, from_status, to_status, at, actor, reason, overridden,
         transaction_id)
    VALUES (
        NEW.owner_id, NEW.id_, NEW.revision, TG_ARGV[0], nextval('platform.history_number'),
        OLD.status, NEW.status, clock_timestamp(), nullif(current_setting('platform.actor', true), ''),
        change_reason, platform.guard_is_overridden(), pg_current_xact_id()::text::bigint
    );
    RETURN NULL;
END
$$;

-- What speaks of any row by its id has no foreign key to it. All rows of a statement at once: row by row takes two to
-- three times as long. Owner by owner: a statement about one owner's rows stays on one node where tables are
-- distributed, which a join with the transition table does not.
CREATE FUNCTION platform.forget() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid;
    ids uuid[];
BEGIN
    FOR owner, ids IN SELECT owner_id, array_agg(id_) FROM deleted GROUP BY owner_id LOOP
        DELETE FROM platform.lease
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
        DELETE FROM platform.note
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
        DELETE FROM platform.status_change
        WHERE owner_id = owner AND entity_id = ANY (ids) AND entity = TG_ARGV[0];
    END LOOP;
    RETURN NULL;
END
$$;

-- A trigger's name decides when it fires: this one after those of the foreign keys (RI_…), which wait for every
-- transaction that still writes history of the user's rows.
CREATE FUNCTION platform.forget_user() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = OLD.id_;
    DELETE FROM platform.note WHERE owner_id = OLD.id_;
    DELETE FROM platform.status_change WHERE owner_id = OLD.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER forget_user AFTER DELETE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.forget_user();

-- A row that is started again loses the lease of its life before. At the start and not at the end: ends are
-- many, and each would wait for a worker that beats at this moment. Argument: the entity. As the guard, it spares
-- each change of a status a search_path of its own.
CREATE FUNCTION platform.drop_former_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM platform.lease WHERE owner_id = NEW.owner_id AND entity_id = NEW.id_ AND entity = TG_ARGV[0];
    RETURN NULL;
END
$$;

-- Retention rules of workspaces follow their run: its end activates them, a restart inactivates those of all runs
-- that share the workspace. In PL/pgSQL, which keeps the plans of its statements.

-- A rule applies from the end of the day on which its run ended, so many days later.
CREATE FUNCTION platform.activate_workspace_retention_rules(owner uuid, workflow uuid) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created'
    ORDER BY id_ FOR UPDATE;
    UPDATE platform.workspace_retention_rule
    SET status = 'active',
        apply_on = (date_trunc('day', now() AT TIME ZONE 'UTC') + make_interval(days => retention_days + 1))
                   AT TIME ZONE 'UTC'
    WHERE owner_id = owner AND workflow_id = workflow AND status = 'created';
END
$$;

CREATE FUNCTION platform.inactivate_workspace_retention_rules(owner uuid, path text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM platform.workspace_retention_rule AS rule
    JOIN platform.workflow ON workflow.owner_id = rule.owner_id AND workflow.id_ = rule.workflow_id
    WHERE rule.owner_id = owner AND workflow.workspace_path = path
      AND rule.status IN ('created', 'active', 'pending')
    ORDER BY rule.id_ FOR UPDATE OF rule;
    UPDATE platform.workspace_retention_rule AS rule
    SET status = 'inactive'
    FROM platform.workflow
    WHERE workflow.owner_id = owner AND workflow.workspace_path = path
      AND rule.owner_id = owner AND rule.workflow_id = workflow.id_
      AND rule.status IN ('created', 'active', 'pending');
END
$$;

-- Most owners have no rule: looking costs a third of an UPDATE that finds nothing.
CREATE FUNCTION platform.follow_run_with_retention() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM platform.workspace_retention_rule WHERE owner_id = NEW.owner_id) THEN
        RETURN NULL;
    ELSIF NEW.status IN ('finished', 'failed') THEN
        PERFORM platform.activate_workspace_retention_rules(NEW.owner_id, NEW.id_);
    ELSE
        PERFORM platform.inactivate_workspace_retention_rules(NEW.owner_id, NEW.workspace_path);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER retention_on_end AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (
        NEW.status IN ('finished', 'failed')
        OR (NEW.status = 'running' AND OLD.status IN ('finished', 'failed'))))
    EXECUTE FUNCTION platform.follow_run_with_retention();

CREATE TRIGGER retention_on_restart AFTER INSERT ON platform.workflow
    FOR EACH ROW WHEN (NEW.restart AND NEW.status NOT IN ('finished', 'failed'))
    EXECUTE FUNCTION platform.follow_run_with_retention();

-- A rule whose days change is moved by the difference.
CREATE FUNCTION platform.move_retention_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.apply_on := OLD.apply_on + make_interval(days => NEW.retention_days - OLD.retention_days);
    RETURN NEW;
END
$$;

CREATE TRIGGER move_retention_date BEFORE UPDATE OF retention_days ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (
        OLD.retention_days <> NEW.retention_days AND OLD.apply_on = NEW.apply_on
        AND NEW.retention_days BETWEEN 0 AND 36500)
    EXECUTE FUNCTION platform.move_retention_date();

-- Each change of a rule leaves a row, which only the database writes.
CREATE FUNCTION platform.record_workspace_retention() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.workspace_retention_audit_log
        (owner_id, workspace_retention_rule_id, status, retention_days, apply_on)
    VALUES (NEW.owner_id, NEW.id_, NEW.status, NEW.retention_days, NEW.apply_on);
    RETURN NULL;
END
$$;

CREATE TRIGGER record_workspace_retention
    AFTER INSERT OR UPDATE OF status, retention_days, apply_on ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (NOT platform.is_import())
    EXECUTE FUNCTION platform.record_workspace_retention();

-- Tokens: looking one up, noting its use, and keeping its value.

-- The row of a token's last use is there from the start: from then on it is only updated, which need not wait.
CREATE FUNCTION platform.add_user_token_last_use() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.user_token_last_use (owner_id, token_id) VALUES (NEW.owner_id, NEW.id_);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_user_token_last_use AFTER INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.add_user_token_last_use();

-- A value that was granted has been handed out: another in its place would leave it valid nowhere and revoked
-- nowhere. Encrypting it under another key changes the key's id, and hands over no other digests.
CREATE FUNCTION platform.keep_user_token_value() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'unique_violation',
        MESSAGE = 'a token that was granted keeps its value',
        SCHEMA = 'platform', TABLE = 'user_token',
        CONSTRAINT = CASE
            WHEN OLD.type_ = 'access' AND OLD.status = 'active' THEN 'uq_user_token_active_access'
            ELSE 'user_token_keeps_value'
        END;
END
$$;

CREATE TRIGGER keep_user_token_value
    BEFORE UPDATE OF token, token_digest, other_token_digests ON platform.user_token
    FOR EACH ROW WHEN (
        OLD.status <> 'requested' AND OLD.token_digest IS DISTINCT FROM NEW.token_digest
        AND (NEW.other_token_digests IS NOT NULL
            OR substring(OLD.token FROM 2 FOR 4) IS NOT DISTINCT FROM substring(NEW.token FROM 2 FOR 4)
            OR OLD.token IS NULL OR NEW.token IS NULL))
    EXECUTE FUNCTION platform.keep_user_token_value();

-- A function of PL/pgSQL, because it keeps its plan: planning takes longer than looking up. One value of JSON,
-- because a row of columns costs the driver and SQLAlchemy as much again. A transaction that cannot write, as on
-- a replica, says so here: trying to note the use would abort it.
CREATE FUNCTION platform.look_up_token(digests bytea[]) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    digest bytea;
    found_token json;
    the_token json;
BEGIN
    FOREACH digest IN ARRAY digests LOOP
        SELECT json_build_object(
            'token_id', token.id_, 'owner_id', token.owner_id, 'type', token.type_, 'status', token.status,
            'name', token.name, 'scopes', token.scopes, 'expires_at', extract(epoch FROM token.expires_at),
            'expired', coalesce(token.expires_at <= statement_timestamp(), false),
            'note_use', current_setting('transaction_read_only') = 'off' AND coalesce((
                SELECT last_use.last_used_at < statement_timestamp() - interval '1 minute'
                FROM platform.user_token_last_use AS last_use
                WHERE last_use.owner_id = token.owner_id AND last_use.token_id = token.id_), true))
        INTO found_token FROM platform.user_token AS token WHERE token.token_digest = digest;
        IF FOUND AND the_token IS NOT NULL THEN
            RETURN NULL; -- Two tokens with one value could only come from writing past the models.
        END IF;
        the_token := coalesce(found_token, the_token);
    END LOOP;
    RETURN the_token;
END
$$;

-- One secret, one row: a value is unique under every key.
--
-- While two keys are in the ring, one value has two digests. A writer hands over those under the ring's other keys
-- in a column that stores nothing. All of them are rows of secret_digest, a table that is everywhere when tenants'
-- tables are distributed, so that its primary key is what refuses the value; two writers that claim the same
-- digests do it in the same order. The functions run as their owner, who sees every tenant's digests.

CREATE FUNCTION platform.claim_digests(the_entity text, the_id uuid, digests bytea[]) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    digests := array_remove(digests, NULL);
    IF cardinality(digests) > 16 THEN -- A key ring holds two, or a few; a writer could fill a table that all share.
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            MESSAGE = format('a secret has at most 16 digests, not %s', cardinality(digests)),
            SCHEMA = 'platform', TABLE = 'secret_digest', CONSTRAINT = 'ck_secret_digest_few';
    END IF;
    DELETE FROM platform.secret_digest
    WHERE entity = the_entity AND entity_id = the_id AND NOT digest = ANY (digests);
    INSERT INTO platform.secret_digest (digest, entity, entity_id)
    SELECT claimed.digest, the_entity, the_id FROM unnest(digests) AS claimed (digest)
    WHERE NOT EXISTS (
        SELECT FROM platform.secret_digest AS own
        WHERE own.digest = claimed.digest AND own.entity = the_entity AND own.entity_id = the_id)
    ORDER BY claimed.digest;
END
$$;

CREATE FUNCTION platform.claim_user_token() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.claim_digests('user_token', NEW.id_, NEW.other_token_digests || NEW.token_digest);
    NEW.other_token_digests := NULL;
    RETURN NEW;
END
$$;

-- By its name it fires after keep_user_token_value, which looks at what this one takes away.
CREATE TRIGGER use_digests_once BEFORE INSERT OR UPDATE OF token_digest, other_token_digests ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.claim_user_token();

CREATE FUNCTION platform.claim_interactive_session() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM platform.claim_digests(
        'interactive_session', NEW.id_, NEW.other_secret_digests || NEW.secret_digest);
    NEW.other_secret_digests := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER use_digests_once
    BEFORE INSERT OR UPDATE OF secret_digest, other_secret_digests ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.claim_interactive_session();

-- Argument: the entity.
CREATE FUNCTION platform.release_digests() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM platform.secret_digest WHERE entity = TG_ARGV[0] AND entity_id = OLD.id_;
    RETURN NULL;
END
$$;

CREATE TRIGGER release_digests AFTER DELETE ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.release_digests('user_token');

CREATE TRIGGER release_digests AFTER DELETE ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.release_digests('interactive_session');

-- The audit log: its numbers and times, the rows that triggers write, and what keeps it append-only.

-- A number is drawn after its transaction has an id: the fence of the seals rests on this order. Number and time
-- are the database's, whatever was sent (an import's times excepted), and whatever functions the writer's search_path finds.
CREATE FUNCTION platform.stamp_audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_current_xact_id();
    NEW.number := pg_catalog.nextval('platform.audit_number');
    IF NEW.created IS NULL OR NOT platform.is_import() THEN
        NEW.created := pg_catalog.clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_audit_row BEFORE INSERT ON platform.audit_log
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_audit_row();

-- What the database can see, it records: Python, bulk SQL and psql all leave the same rows. Who and from where comes
-- from the transaction, as for every audit row. Its setting platform.details is what else there is to say of a user.
-- Names mean PostgreSQL's own, whatever the search_path: a session that causes a row has no say in its facts.

CREATE FUNCTION platform.record_guard_override() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'override_guard',
        jsonb_build_object(
            'entity', NEW.entity, 'entity_id', NEW.entity_id, 'revision', NEW.revision,
            'from_status', NEW.from_status, 'to_status', NEW.to_status, 'reason', NEW.reason
        )
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER record_guard_override AFTER INSERT ON platform.status_change
    FOR EACH ROW WHEN (NEW.overridden) EXECUTE FUNCTION platform.record_guard_override();

-- Argument: the action.
CREATE FUNCTION platform.record_user() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), coalesce(NEW.id_, OLD.id_), TG_ARGV[0],
        nullif(current_setting('platform.details', true), '')::jsonb
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER record_creation AFTER INSERT ON platform.user_
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_user('create_user');

CREATE TRIGGER record_deletion AFTER DELETE ON platform.user_
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_user('delete_user');

CREATE FUNCTION platform.record_quota_limit() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (
        gen_random_uuid(), NEW.owner_id, 'set_quota_limit',
        jsonb_build_object(
            'resource_id', NEW.resource_id, 'before', OLD.quota_limit, 'limit', NEW.quota_limit
        )
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER record_quota_limit AFTER UPDATE OF quota_limit ON platform.user_resource
    FOR EACH ROW WHEN (OLD.quota_limit IS DISTINCT FROM NEW.quota_limit AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_quota_limit();

-- Argument: the action. A time in JSON is written in the session's time zone; in an audit row it is UTC.
CREATE FUNCTION platform.record_sharing() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    share platform.user_workflow := coalesce(NEW, OLD);
    details jsonb := jsonb_build_object('workflow_id', share.workflow_id, 'user_id', share.user_id);
BEGIN
    IF TG_OP <> 'DELETE' THEN
        details := details || jsonb_build_object('valid_until', share.valid_until);
    END IF;
    INSERT INTO platform.audit_log (id_, owner_id, action, details)
    VALUES (gen_random_uuid(), share.owner_id, TG_ARGV[0], details);
    RETURN NULL;
END
$$;

CREATE TRIGGER record_share AFTER INSERT OR UPDATE ON platform.user_workflow
    FOR EACH ROW WHEN (NOT platform.is_import()) EXECUTE FUNCTION platform.record_sharing('share_workflow');

-- A share that goes with its run or its user, by a foreign key and so inside a trigger, is not recorded.
CREATE TRIGGER record_unshare AFTER DELETE ON platform.user_workflow
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND NOT platform.is_import())
    EXECUTE FUNCTION platform.record_sharing('unshare_workflow');

-- Append-only: this protects from accidents and bugs, whatever connects. A superuser can switch triggers off; that is
-- what seals are for.
CREATE FUNCTION platform.refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PD002',
        MESSAGE = format('%s refused: %s is append-only', TG_OP, TG_TABLE_NAME),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END
$$;

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON platform.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

CREATE TRIGGER refuse_change BEFORE UPDATE OR TRUNCATE ON platform.audit_seal_digests
    FOR EACH STATEMENT EXECUTE FUNCTION platform.refuse_change();

-- Rows may go once a seal says that they are no longer kept: retention makes that seal first, and with a signing
-- key no other writer can make one that verifies.
CREATE FUNCTION platform.keep_audit_rows() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept_from bigint := coalesce(
        (SELECT first_kept_seal FROM platform.audit_seal ORDER BY number DESC LIMIT 1), 1);
    removed bigint;
    removable bigint;
BEGIN
    IF TG_TABLE_NAME = 'audit_log' THEN
        SELECT max(number) INTO removed FROM deleted;
        SELECT last_row INTO removable FROM platform.audit_seal WHERE number = kept_from - 1;
    ELSE
        SELECT max(seal_number) INTO removed FROM deleted;
        removable := kept_from - 1;
    END IF;
    IF removed > coalesce(removable, 0) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PD002',
            MESSAGE = format('DELETE refused: %s is append-only', TG_TABLE_NAME),
            HINT = 'What is old is removed by: platform-db audit prune.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.audit_log
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();

CREATE TRIGGER keep_audit_rows AFTER DELETE ON platform.audit_seal_digests
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.keep_audit_rows();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.job
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.job
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.job_cache
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.job_cache
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.quota_reservation
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.quota_reservation
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.resource
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.resource
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.service
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.service
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.user_
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.user_token
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.user_workflow
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.user_workflow
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.workflow
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.workflow
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_new_row BEFORE INSERT ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER stamp_row BEFORE UPDATE ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status = NEW.status) EXECUTE FUNCTION platform.stamp_row();

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.workflow
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('workflow', 'run', 'created>queued', 'created>pending', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>queued', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'finished>running', 'finished>deleted', 'failed>running', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('workflow', 'run', 'created>queued', 'created>pending', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>queued', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'finished>running', 'finished>deleted', 'failed>running', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.workflow
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('workflow');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workflow');

CREATE TRIGGER forget AFTER DELETE ON platform.workflow
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('workflow');

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.workflow
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease('workflow');

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.job
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('job', 'job', 'created>queued', 'created>running', 'created>finished', 'created>failed', 'created>stopped', 'queued>running', 'queued>finished', 'queued>failed', 'queued>stopped', 'running>finished', 'running>failed', 'running>stopped');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('job', 'job', 'created>queued', 'created>running', 'created>finished', 'created>failed', 'created>stopped', 'queued>running', 'queued>finished', 'queued>failed', 'queued>stopped', 'running>finished', 'running>failed', 'running>stopped');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.job
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('job');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('job');

CREATE TRIGGER forget AFTER DELETE ON platform.job
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('job');

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.job
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'running') AND NEW.status IN ('created', 'queued', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease('job');

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.interactive_session
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('interactive_session', 'run', 'created>queued', 'created>pending', 'created>running', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'running>deleted', 'finished>deleted', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('interactive_session', 'run', 'created>queued', 'created>pending', 'created>running', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'running>deleted', 'finished>deleted', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('interactive_session');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('interactive_session');

CREATE TRIGGER forget AFTER DELETE ON platform.interactive_session
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('interactive_session');

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.interactive_session
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease('interactive_session');

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.service
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('service', 'run', 'created>queued', 'created>pending', 'created>running', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'running>deleted', 'finished>deleted', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('service', 'run', 'created>queued', 'created>pending', 'created>running', 'created>failed', 'created>stopped', 'created>deleted', 'queued>pending', 'queued>running', 'queued>failed', 'queued>stopped', 'queued>deleted', 'pending>running', 'pending>failed', 'pending>stopped', 'pending>deleted', 'running>finished', 'running>failed', 'running>stopped', 'running>deleted', 'finished>deleted', 'failed>deleted', 'stopped>deleted');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.service
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('service');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('service');

CREATE TRIGGER forget AFTER DELETE ON platform.service
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('service');

CREATE TRIGGER drop_former_lease AFTER UPDATE OF status ON platform.service
    FOR EACH ROW WHEN (OLD.status NOT IN ('created', 'queued', 'pending', 'running') AND NEW.status IN ('created', 'queued', 'pending', 'running'))
    EXECUTE FUNCTION platform.drop_former_lease('service');

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.user_token
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('user_token', 'none', 'requested>active', 'requested>revoked', 'active>revoked');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('user_token', 'none', 'requested>active', 'requested>revoked', 'active>revoked');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.user_token
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('user_token');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.user_token
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('user_token');

CREATE TRIGGER forget AFTER DELETE ON platform.user_token
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('user_token');

CREATE TRIGGER guard_insert BEFORE INSERT ON platform.workspace_retention_rule
    FOR EACH ROW EXECUTE FUNCTION platform.guard_status('workspace_retention_rule', 'none', 'created>active', 'created>inactive', 'active>inactive', 'active>pending', 'inactive>active', 'pending>active', 'pending>inactive', 'pending>applied');

CREATE TRIGGER guard_update BEFORE UPDATE OF status, revision ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION platform.guard_status('workspace_retention_rule', 'none', 'created>active', 'created>inactive', 'active>inactive', 'active>pending', 'inactive>active', 'pending>active', 'pending>inactive', 'pending>applied');

CREATE TRIGGER guard_identity BEFORE UPDATE OF owner_id, id_ ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.owner_id <> NEW.owner_id OR OLD.id_ <> NEW.id_)
    EXECUTE FUNCTION platform.keep_identity('workspace_retention_rule');

CREATE TRIGGER record_status AFTER UPDATE OF status ON platform.workspace_retention_rule
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION platform.record_status('workspace_retention_rule');

CREATE TRIGGER forget AFTER DELETE ON platform.workspace_retention_rule
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION platform.forget('workspace_retention_rule');

ALTER TABLE platform.audit_log ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.audit_log
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

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

ALTER TABLE platform.log_size ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.log_size
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.note ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.note
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.quota_reservation ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.quota_reservation
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

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
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_token ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_token
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

ALTER TABLE platform.user_token_last_use ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON platform.user_token_last_use
    USING (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid)
    WITH CHECK (owner_id = (nullif(current_setting('platform.user_id', true), ''))::uuid);

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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA platform FROM PUBLIC;
