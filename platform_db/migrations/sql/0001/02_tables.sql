CREATE TABLE platform.audit_log (
    id_ UUID NOT NULL,
    user_id UUID NOT NULL,
    actor_id UUID,
    action TEXT NOT NULL,
    details JSONB,
    request_id TEXT,
    address INET,
    service TEXT,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (user_id, id_),
    CONSTRAINT uq_audit_log_id_ UNIQUE (id_)
);

CREATE INDEX ix_audit_log_action_created ON platform.audit_log (action, created);

CREATE INDEX ix_audit_log_actor_id_created ON platform.audit_log (actor_id, created);

CREATE INDEX ix_audit_log_created ON platform.audit_log (created);

CREATE INDEX ix_audit_log_user_id_created ON platform.audit_log (user_id, created);

CREATE TABLE platform.lease (
    owner_id UUID NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    holder TEXT NOT NULL,
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (owner_id, entity_id)
);

CREATE INDEX ix_lease_heartbeat_at ON platform.lease (heartbeat_at);

CREATE INDEX ix_lease_holder ON platform.lease (holder);

CREATE TABLE platform.note (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    entity TEXT NOT NULL,
    entity_id UUID NOT NULL,
    topic TEXT NOT NULL,
    message TEXT NOT NULL,
    details JSONB,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_note PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_note_id_ UNIQUE (id_)
);

CREATE INDEX ix_note_at ON platform.note USING brin (at);

CREATE INDEX ix_note_owner_id_entity_id_at ON platform.note (owner_id, entity_id, at);

CREATE TABLE platform.resource (
    id_ UUID NOT NULL,
    name TEXT NOT NULL,
    type_ platform.resource_type NOT NULL,
    unit platform.resource_unit NOT NULL,
    title TEXT NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_resource PRIMARY KEY (id_),
    CONSTRAINT uq_resource_name UNIQUE (name)
);

CREATE TABLE platform.status_change (
    owner_id UUID NOT NULL,
    entity_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    entity TEXT NOT NULL,
    from_status TEXT NOT NULL,
    to_status TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    actor TEXT,
    reason TEXT,
    overridden BOOLEAN DEFAULT 'false' NOT NULL,
    CONSTRAINT pk_status_change PRIMARY KEY (owner_id, entity_id, entity, revision)
);

CREATE INDEX ix_status_change_at ON platform.status_change USING brin (at);

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
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_user_ PRIMARY KEY (id_),
    CONSTRAINT uq_user__idp_issuer_idp_subject UNIQUE (idp_issuer, idp_subject),
    CONSTRAINT ck_user__idp_complete CHECK ((idp_issuer IS NULL) = (idp_subject IS NULL)),
    CONSTRAINT ck_user__email_not_empty CHECK (email <> '')
);

CREATE UNIQUE INDEX uq_user__email ON platform.user_ (lower(email));

CREATE TABLE platform.interactive_session (
    id_ UUID NOT NULL,
    path TEXT NOT NULL,
    type_ platform.interactive_session_type DEFAULT 'jupyter' NOT NULL,
    secret BYTEA,
    secret_digest BYTEA,
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    status platform.run_status DEFAULT 'created' NOT NULL,
    run_started_at TIMESTAMP WITH TIME ZONE,
    run_finished_at TIMESTAMP WITH TIME ZONE,
    run_stopped_at TIMESTAMP WITH TIME ZONE,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_interactive_session PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_interactive_session_id_ UNIQUE (id_),
    CONSTRAINT ck_interactive_session_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_interactive_session_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_interactive_session_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT uq_interactive_session_secret_digest UNIQUE (secret_digest),
    CONSTRAINT ck_interactive_session_digest_beside_value CHECK ((secret IS NULL) = (secret_digest IS NULL)),
    CONSTRAINT fk_interactive_session_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_interactive_session_owner_id_status ON platform.interactive_session (owner_id, status, id_);

CREATE UNIQUE INDEX uq_interactive_session_owner_id_path ON platform.interactive_session (owner_id, path) WHERE status <> 'deleted';

CREATE TABLE platform.run_counter (
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    run_number_major INTEGER NOT NULL,
    last INTEGER NOT NULL,
    CONSTRAINT pk_run_counter PRIMARY KEY (owner_id, name, run_number_major),
    CONSTRAINT fk_run_counter_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);

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
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_service PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_service_id_ UNIQUE (id_),
    CONSTRAINT ck_service_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_service_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_service_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT fk_service_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_service_owner_id_status ON platform.service (owner_id, status, id_);

CREATE UNIQUE INDEX uq_service_owner_id_name ON platform.service (owner_id, name) WHERE status <> 'deleted';

CREATE TABLE platform.user_resource (
    user_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_limit BIGINT,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    quota_reserved BIGINT DEFAULT '0' NOT NULL,
    quota_period_months INTEGER,
    quota_period_start_at TIMESTAMP WITH TIME ZONE,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_user_resource PRIMARY KEY (user_id, resource_id),
    CONSTRAINT ck_user_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT ck_user_resource_reserved_not_negative CHECK (quota_reserved >= 0),
    CONSTRAINT ck_user_resource_limit_not_negative CHECK (quota_limit >= 0),
    CONSTRAINT ck_user_resource_period_at_least_a_month CHECK (quota_period_months >= 1),
    CONSTRAINT fk_user_resource_user_id FOREIGN KEY(user_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE,
    CONSTRAINT fk_user_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
);

CREATE TABLE platform.user_token (
    id_ UUID NOT NULL,
    user_id UUID NOT NULL,
    type_ platform.user_token_type NOT NULL,
    status platform.user_token_status NOT NULL,
    name TEXT,
    token BYTEA,
    token_digest BYTEA,
    scopes TEXT[] DEFAULT '{}' NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_user_token PRIMARY KEY (user_id, id_),
    CONSTRAINT uq_user_token_id_ UNIQUE (id_),
    CONSTRAINT uq_user_token_token_digest UNIQUE (token_digest),
    CONSTRAINT ck_user_token_active_has_value CHECK (status <> 'active' OR token IS NOT NULL),
    CONSTRAINT ck_user_token_digest_beside_value CHECK ((token IS NULL) = (token_digest IS NULL)),
    CONSTRAINT ck_user_token_personal_has_name CHECK (type_ <> 'personal' OR name IS NOT NULL),
    CONSTRAINT ck_user_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32),
    CONSTRAINT fk_user_token_user_id FOREIGN KEY(user_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
);

CREATE UNIQUE INDEX uq_user_token_active_access ON platform.user_token (user_id) WHERE type_ = 'access' AND status = 'active';

CREATE UNIQUE INDEX uq_user_token_personal_name ON platform.user_token (user_id, name) WHERE type_ = 'personal' AND status = 'active';

CREATE UNIQUE INDEX uq_user_token_requested_access ON platform.user_token (user_id) WHERE type_ = 'access' AND status = 'requested';

CREATE TABLE platform.workflow (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    status platform.run_status DEFAULT 'created' NOT NULL,
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
    run_started_at TIMESTAMP WITH TIME ZONE,
    run_finished_at TIMESTAMP WITH TIME ZONE,
    run_stopped_at TIMESTAMP WITH TIME ZONE,
    git_ref TEXT,
    git_repo TEXT,
    git_provider TEXT,
    launcher_url TEXT,
    labels JSONB DEFAULT '{}' NOT NULL,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_workflow PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_workflow_id_ UNIQUE (id_),
    CONSTRAINT uq_workflow_owner_id_name_run_number_major_run_number_minor UNIQUE (owner_id, name, run_number_major, run_number_minor),
    CONSTRAINT ck_workflow_name_length CHECK (octet_length(name) BETWEEN 1 AND 1024),
    CONSTRAINT ck_workflow_workspace_path_length CHECK (octet_length(workspace_path) <= 2048),
    CONSTRAINT ck_workflow_workspace_path_canonical CHECK (workspace_path ~ '^(/[^/]+)+$' AND workspace_path !~ '/[.]{1,2}(/|$)'),
    CONSTRAINT ck_workflow_run_number_positive CHECK (run_number_major >= 1 AND run_number_minor >= 0),
    CONSTRAINT ck_workflow_running_has_start CHECK (status <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT ck_workflow_finished_has_end CHECK (status NOT IN ('finished', 'failed') OR run_finished_at IS NOT NULL),
    CONSTRAINT ck_workflow_stopped_has_end CHECK (status <> 'stopped' OR run_stopped_at IS NOT NULL),
    CONSTRAINT fk_workflow_owner_id FOREIGN KEY(owner_id) REFERENCES platform.user_ (id_)
);

CREATE INDEX ix_workflow_in_progress ON platform.workflow (status, id_) WHERE status IN ('created', 'queued', 'pending', 'running');

CREATE INDEX ix_workflow_owner_id_status ON platform.workflow (owner_id, status, id_);

CREATE INDEX ix_workflow_owner_id_workspace_path ON platform.workflow (owner_id, workspace_path);

CREATE TABLE platform.interactive_session_resource (
    owner_id UUID NOT NULL,
    session_id UUID NOT NULL,
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
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
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
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_job PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_job_id_ UNIQUE (id_),
    CONSTRAINT fk_job_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_job_running_has_start CHECK (status <> 'running' OR started_at IS NOT NULL),
    CONSTRAINT ck_job_finished_has_end CHECK (status NOT IN ('finished', 'failed', 'stopped') OR finished_at IS NOT NULL)
);

CREATE INDEX ix_job_compute_backend_backend_job_id ON platform.job (compute_backend, backend_job_id);

CREATE INDEX ix_job_owner_id_workflow_id ON platform.job (owner_id, workflow_id, status);

CREATE TABLE platform.quota_reservation (
    id_ UUID NOT NULL,
    user_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    amount BIGINT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_quota_reservation PRIMARY KEY (user_id, id_),
    CONSTRAINT uq_quota_reservation_id_ UNIQUE (id_),
    CONSTRAINT fk_quota_reservation_user_id_resource_id FOREIGN KEY(user_id, resource_id) REFERENCES platform.user_resource (user_id, resource_id) ON DELETE CASCADE,
    CONSTRAINT ck_quota_reservation_amount_positive CHECK (amount > 0)
);

CREATE INDEX ix_quota_reservation_expires_at ON platform.quota_reservation (expires_at);

CREATE INDEX ix_quota_reservation_user_id_resource_id ON platform.quota_reservation (user_id, resource_id);

CREATE TABLE platform.service_log (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    service_id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    data BYTEA NOT NULL,
    CONSTRAINT pk_service_log PRIMARY KEY (owner_id, service_id, id_),
    CONSTRAINT fk_service_log_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_service_log_at ON platform.service_log USING brin (at);

CREATE TABLE platform.user_token_last_use (
    user_id UUID NOT NULL,
    token_id UUID NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_token_last_use PRIMARY KEY (user_id, token_id),
    CONSTRAINT fk_user_token_last_use_user_id_token_id FOREIGN KEY(user_id, token_id) REFERENCES platform.user_token (user_id, id_) ON DELETE CASCADE
);

CREATE TABLE platform.user_workflow (
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    user_id UUID NOT NULL,
    access_type platform.workflow_access_type DEFAULT 'read' NOT NULL,
    message TEXT,
    valid_until TIMESTAMP WITH TIME ZONE,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_user_workflow PRIMARY KEY (owner_id, workflow_id, user_id),
    CONSTRAINT fk_user_workflow_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_user_workflow_not_with_owner CHECK (user_id <> owner_id),
    CONSTRAINT fk_user_workflow_user_id FOREIGN KEY(user_id) REFERENCES platform.user_ (id_) ON DELETE CASCADE
);

CREATE INDEX ix_user_workflow_user_id ON platform.user_workflow (user_id);

CREATE TABLE platform.workflow_resource (
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_workflow_resource PRIMARY KEY (owner_id, workflow_id, resource_id),
    CONSTRAINT fk_workflow_resource_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_workflow_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT fk_workflow_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
);

CREATE TABLE platform.workflow_service (
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    service_id UUID NOT NULL,
    CONSTRAINT pk_workflow_service PRIMARY KEY (owner_id, workflow_id, service_id),
    CONSTRAINT fk_workflow_service_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_workflow_service_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_workflow_service_owner_id_service_id ON platform.workflow_service (owner_id, service_id);

CREATE TABLE platform.workflow_session (
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    session_id UUID NOT NULL,
    CONSTRAINT pk_workflow_session PRIMARY KEY (owner_id, workflow_id, session_id),
    CONSTRAINT fk_workflow_session_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_workflow_session_owner_id_session_id FOREIGN KEY(owner_id, session_id) REFERENCES platform.interactive_session (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_workflow_session_owner_id_session_id ON platform.workflow_session (owner_id, session_id);

CREATE TABLE platform.workspace_retention_rule (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    workspace_files TEXT NOT NULL,
    retention_days INTEGER NOT NULL,
    apply_on TIMESTAMP WITH TIME ZONE,
    status platform.workspace_retention_rule_status DEFAULT 'created' NOT NULL,
    revision INTEGER DEFAULT '0' NOT NULL,
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
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
    created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_job_cache PRIMARY KEY (owner_id, id_),
    CONSTRAINT uq_job_cache_id_ UNIQUE (id_),
    CONSTRAINT uq_job_cache_owner_id_digest UNIQUE (owner_id, digest),
    CONSTRAINT fk_job_cache_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_job_cache_owner_id_job_id ON platform.job_cache (owner_id, job_id);

CREATE TABLE platform.log_chunk (
    id_ UUID NOT NULL,
    owner_id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    job_id UUID,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    data BYTEA NOT NULL,
    CONSTRAINT pk_log_chunk PRIMARY KEY (owner_id, workflow_id, id_),
    CONSTRAINT fk_log_chunk_owner_id_workflow_id FOREIGN KEY(owner_id, workflow_id) REFERENCES platform.workflow (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT fk_log_chunk_owner_id_job_id FOREIGN KEY(owner_id, job_id) REFERENCES platform.job (owner_id, id_) ON DELETE CASCADE
);

CREATE INDEX ix_log_chunk_at ON platform.log_chunk USING brin (at);

CREATE INDEX ix_log_chunk_owner_id_job_id ON platform.log_chunk (owner_id, job_id, id_) WHERE job_id IS NOT NULL;

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
);
