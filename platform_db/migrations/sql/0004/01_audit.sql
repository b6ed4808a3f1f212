-- No release has this table yet, so it holds next to nothing.
-- squawk-ignore-file adding-field-with-default, constraint-missing-not-valid, disallowed-unique-constraint, require-concurrent-index-creation, require-concurrent-index-deletion
ALTER TABLE platform.audit_log ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY;

ALTER TABLE platform.audit_log ADD CONSTRAINT uq_audit_log_number UNIQUE (number);

ALTER TABLE platform.audit_log ALTER COLUMN actor_id SET DEFAULT (nullif(current_setting('platform.actor_id', true), ''))::uuid;

ALTER TABLE platform.audit_log ALTER COLUMN request_id SET DEFAULT (nullif(current_setting('platform.request_id', true), ''))::text;

ALTER TABLE platform.audit_log ALTER COLUMN address SET DEFAULT (nullif(current_setting('platform.address', true), ''))::inet;

ALTER TABLE platform.audit_log ALTER COLUMN service SET DEFAULT (nullif(current_setting('platform.service', true), ''))::text;

DROP INDEX platform.ix_audit_log_user_id_created;

DROP INDEX platform.ix_audit_log_actor_id_created;

DROP INDEX platform.ix_audit_log_action_created;

DROP INDEX platform.ix_audit_log_created;

CREATE INDEX ix_audit_log_action_created_number ON platform.audit_log (action, created, number);

CREATE INDEX ix_audit_log_actor_id_created_number ON platform.audit_log (actor_id, created, number);

CREATE INDEX ix_audit_log_created_number ON platform.audit_log (created, number);

CREATE INDEX ix_audit_log_user_id_created_number ON platform.audit_log (user_id, created, number);

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

CREATE TABLE platform.audit_seal_digests (
    seal_number BIGINT NOT NULL,
    digests BYTEA NOT NULL,
    CONSTRAINT pk_audit_seal_digests PRIMARY KEY (seal_number),
    CONSTRAINT fk_audit_seal_digests_seal_number FOREIGN KEY(seal_number) REFERENCES platform.audit_seal (number)
);

CREATE TABLE platform.audit_fence (
    singleton BOOLEAN DEFAULT 'true' NOT NULL,
    last_row BIGINT NOT NULL,
    transaction_id BIGINT NOT NULL,
    CONSTRAINT pk_audit_fence PRIMARY KEY (singleton),
    CONSTRAINT ck_audit_fence_singleton CHECK (singleton)
);
